"""One solver a file; the file's name is the solver's."""
