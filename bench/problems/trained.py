"""Images under a score model that was trained here: the problem of a card that ``scorebench train`` wrote."""

from functools import lru_cache
from pathlib import Path

from torch import Tensor

from bench.metrics.own_features import OWN_DATA
from bench.problems.image import CheckpointProblem
from pretrained.card import ScoreCard, load_card
from solvers.errors import UsageError

# What is taken of colour images of as many levels, with Inception's weights.
INCEPTION_METRICS, INCEPTION_CHANNELS, INCEPTION_LEVELS = ("fid", "inception_score"), 3, 256
OWN_METRICS = ("fd_{0}", "fd_{0}_solver", "fd_{0}_infinity", "kd_{0}", "precision_{0}", "recall_{0}")


@lru_cache
def problem_of_card(name: str) -> type[CheckpointProblem]:
    """The problem of a card, its weights beside it.

    Its metrics are those of the features of its data, where the project has an extractor for them or they are colour
    images for Inception, and the distance from the converged trajectory.

    Args:
        name: path of the card, from where the command is run.

    Raises:
        UsageError: no such card, or it is not one of a score model of images.
    """
    path = Path(name)
    card = load_card(path)
    who, todo = f"problem {name}", "Give the path of a card that `scorebench train` wrote of such a one"
    if not isinstance(card, ScoreCard):
        raise UsageError(who, "a problem is made of a score model", card.kind, todo)
    data = card.data.build().spec
    if data.levels is None:
        raise UsageError(who, "a problem is made of a score model of images", f"vectors {data.name!r}", todo)
    own = [own.name for own in OWN_DATA if own.data == data.name]
    metrics = [metric.format(own[0]) for metric in OWN_METRICS] if own else []
    if not own and (data.shape[0], data.levels) == (INCEPTION_CHANNELS, INCEPTION_LEVELS):
        metrics += INCEPTION_METRICS
    content = {
        "key": name,
        "summary": card.description,
        "metrics": (*metrics, "trajectory_rmse"),
        "checkpoint": card.name,
        "folder": path.parent,
        "card": card,
        "data": data.name,
        "levels": data.levels,
        "__module__": __name__,
    }
    return type(_OfCard.__name__, (_OfCard,), content)


class _OfCard(CheckpointProblem):
    """A problem that reads its data as its card says."""

    card: ScoreCard

    @classmethod
    def ends(cls) -> tuple[float, float]:
        return cls.card.data.offset, cls.card.data.offset + cls.card.data.scale

    def values(self, split: str) -> Tensor:
        return self.card.data.build().load(split).values
