"""Files that ``torch.save`` wrote, read without running anything in them."""

import re
from pathlib import Path
from typing import IO, Any

import torch


def read_tensors(source: Path | IO[bytes]) -> Any:
    """Tensors, on the CPU, and plain values; a file that would run code is refused.

    Raises:
        ValueError: it is damaged, or holds anything else; the text tells in a line what.
    """
    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files end in errors of every kind
        raise ValueError(f"{type(error).__name__}: {_reason(str(error))}"[:300]) from error


def _reason(text: str) -> str:
    """The name of what a file asks for; torch's own text advises to read the file without restrictions."""
    asked = re.search(r"GLOBAL (\S+)", text)
    if asked is not None:
        return f"it asks for {asked[1]}"
    return "torch did not write it" if "weights_only" in text else text.strip().partition("\n")[0]
