"""A stretch of a run: steps, and between them what is looked at, shown and written."""

import math
import signal

from pretrained.training.clock import Clock
from pretrained.training.loop import Loop
from pretrained.training.monitor import Monitor
from pretrained.training.processes import Processes
from pretrained.training.restart import Restart
from pretrained.training.stop import stop_requests
from solvers.errors import UsageError

CHECK_EVERY = 20


def run(name: str, loop: Loop, clock: Clock, processes: Processes, monitor: Monitor, restart: Restart) -> None:
    """Steps until the last one, or until a signal or the clock asks to stop; ends with a checkpoint.

    Raises:
        KeyboardInterrupt, SystemExit: at Ctrl-C and SIGTERM, after a checkpoint.
        UsageError: losses or weights are not finite; nothing is written.
    """
    # Alone, a run looks after every step; several ask each other, and an accelerator would be made to wait.
    look_every = 1 if processes.count == 1 else CHECK_EVERY
    with stop_requests() as request:
        while loop.done < loop.settings.steps:
            loop.step()
            last = loop.done == loop.settings.steps
            if loop.done % look_every and not last:
                continue
            stopping = processes.any(request.signal is not None or clock.is_over)
            due = stopping or last or processes.any(clock.wants_checkpoint)
            if due or loop.done % CHECK_EVERY == 0 or (processes.count == 1 and monitor.is_stale):
                monitor.show(loop, _loss(name, loop, thorough=due))
            if due:
                state = loop.state()
                if processes.rank == 0:
                    restart.write(state, clock.seconds)
                clock.checkpointed()
            if request.signal == signal.SIGINT:
                raise KeyboardInterrupt
            if request.signal is not None:
                raise SystemExit(128 + request.signal)
            if stopping:
                return


def _loss(name: str, loop: Loop, thorough: bool) -> float:
    """The mean of the last losses; refuses them, and where it is thorough weights too, if they are not finite."""
    recent = loop.losses()[-CHECK_EVERY:]
    loss = sum(recent) / len(recent)
    if not math.isfinite(loss) or (thorough and not loop.is_finite()):
        rule = f"loss and weights must stay finite, step {loop.done}"
        raise UsageError(f"train {name}", rule, loss, "Lower learning_rate or clip.")
    return loss
