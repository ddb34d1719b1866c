"""Other libraries' samplers as solvers: ``diffusers:DDIMScheduler?eta=0.5``, ``azula:HeunSampler``.

They run in the same process as every other solver, on the same network (its evaluations counted), start and grid, and
where the library lets its noise be replaced, on the same Brownian paths. A library is imported when one of its solvers
is built; together they are the optional extra ``peers``.
"""

import importlib
from typing import Any

from solvers.errors import UsageError, unknown_name
from solvers.solver import Solver

LIBRARIES = ("azula", "diffusers")


def peer_claims() -> dict[str, str]:
    """Where the order of each sampler adapted is claimed, by name, whether its library is installed or not."""
    modules = {library: importlib.import_module(f"{__name__}.{library}") for library in LIBRARIES}
    return {
        f"{library}:{name}": module.MENU[name].claim
        for library, module in modules.items()
        for name in sorted(module.MENU)
    }


def get_peer(name: str, **settings: Any) -> Solver:
    """The solver ``library:sampler`` with its settings.

    Raises:
        UsageError: no such library or sampler, one that is not adapted, a setting it does not have, or the library is
            not installed.
    """
    library, _, sampler = name.partition(":")
    if library not in LIBRARIES:
        raise unknown_name("get_solver", "library", library, LIBRARIES)
    adapter = importlib.import_module(f"{__name__}.{library}")
    if sampler not in adapter.MENU:
        reason = adapter.NOT_ADAPTED.get(sampler)
        if reason:
            todo = "scorebench list peers shows those that are"
            raise UsageError("get_solver", f"{name} is not adapted: {reason}", None, todo)
        raise unknown_name("get_solver", f"sampler of {library}", sampler, adapter.MENU)
    result: Solver = adapter.build(sampler, settings)
    return result
