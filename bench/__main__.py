"""``python -m bench``: the same program as ``scorebench``."""

from bench.cli import main

main()
