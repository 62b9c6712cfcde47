"""Evidence: everything about one signed document in one file, to be checked by anyone, offline."""
