"""Conformance of networks: a checkpoint of the reference, its outputs and scores against the recorded ones."""

from pathlib import Path

import torch

from bench.conformance import Result, judge, largest_error, load_arrays
from pretrained.importers import song
from solvers.errors import UsageError
from solvers.process import ReverseProcess

# Single precision, through some forty layers.
TOLERANCE = 1e-5

REQUIRED = ("x", "t", "labels")
RESULTS = ("output", "score")


@torch.no_grad()
def network_conformance(checkpoint: Path, config: Path, vectors: Path) -> Result:
    """The larger error of ``output``, the network's at the recorded ``labels``, and ``score``, the process's at ``t``.

    Either may be missing from the vectors, not both. The case's key is the name of the settings' file.

    Raises:
        UsageError: a file is missing or malformed, or the checkpoint is of another network.
    """
    settings = song.read_settings(config)
    arrays = {name: value.float() for name, value in load_arrays(vectors).items()}
    for name in REQUIRED:
        if name not in arrays:
            raise UsageError("conformance", f"{vectors} lacks the array {name!r}", None, "Complete it")
    x, t, labels = (arrays[name] for name in REQUIRED)
    if tuple(x.shape[1:]) != settings.shape or not t.shape == labels.shape == x.shape[:1]:
        rule = f"'x' is (n, {', '.join(map(str, settings.shape))}), 't' and 'labels' are (n,)"
        raise UsageError("conformance", rule, [tuple(a.shape) for a in (x, t, labels)], "Give the matching settings")
    if not any(name in arrays for name in RESULTS):
        raise UsageError("conformance", f"{vectors} records a result", None, f"Known: {', '.join(RESULTS)}")
    model = song.load(checkpoint, settings)
    process = ReverseProcess(model.sde, model.network, model.parametrisation)
    found = {"output": model.network.get_submodule("core")(x, labels), "score": process.score(x, t)}
    errors = (largest_error(found[name].double(), arrays[name].double()) for name in RESULTS if name in arrays)
    return judge(config.stem, max(errors), TOLERANCE)
