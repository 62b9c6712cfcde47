"""The command line. See docs/reference/cli.md.

Exit status: 0 done; 1 a verification failed; 2 wrong usage, or refused; 3 unavailable now, try again.
"""
