"""The network alone, timed for what a solver adds to it."""

from collections.abc import Callable

import torch

from bench import environment

# Timings before and after a solve, each of one call or of as many as take so many seconds.
TIMINGS, SECONDS, MOST_CALLS = 2, 0.03, 20


def bare_seconds(call: Callable[[], object], device: torch.device) -> list[float]:
    """Seconds of a call, timed several times.

    Short calls are made back to back, as a solve makes them: a wait after each would count a GPU's latency, and the
    rest of a solve were negative.
    """

    def seconds(calls: int) -> float:
        began = environment.now(device)
        for _ in range(calls):
            call()
        return (environment.now(device) - began) / calls

    calls = min(max(int(SECONDS / seconds(1)), 1), MOST_CALLS)
    return [seconds(calls) for _ in range(TIMINGS)]
