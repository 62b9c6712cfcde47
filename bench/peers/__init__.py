"""What Outlast is measured against, set up as its own documentation says."""
