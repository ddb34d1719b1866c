"""Kinds of cells, one a file."""
