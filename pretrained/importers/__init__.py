"""Readers of other projects' checkpoints, one a file."""
