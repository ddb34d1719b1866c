"""Where the files of data sets are looked for and downloaded to."""

import os
from pathlib import Path

FOLDER_VARIABLE = "SCOREBENCH_DATA"


def data_folder() -> Path:
    """The folder that ``SCOREBENCH_DATA`` names, or ``~/.cache/scorebench/data``."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else Path.home() / ".cache" / "scorebench" / "data"
