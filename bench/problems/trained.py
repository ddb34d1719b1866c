"""Images under a score model that was trained here: the problem of a card that ``scorebench train`` wrote."""

from functools import lru_cache
from pathlib import Path

from torch import Tensor

from bench.metrics.own_features import OWN_DATA
from bench.problems.image import CheckpointProblem
from pretrained.card import CARDS, ScoreCard, load_card
from pretrained.data import DataSpec
from solvers.errors import UsageError

# What is taken of colour images of as many levels, with Inception's weights.
INCEPTION_METRICS, INCEPTION_CHANNELS, INCEPTION_LEVELS = ("fid", "inception_score"), 3, 256
OWN_METRICS = ("fd_{0}", "fd_{0}_solver", "fd_{0}_infinity", "kd_{0}", "precision_{0}", "recall_{0}")
TRAJECTORY = "trajectory_rmse"


def problem_of_card(name: str) -> type[CheckpointProblem]:
    """The problem of a trained card, its weights beside it.

    Its metrics are the distance from the converged trajectory and those of the features of its data, where the project
    has an extractor for them or they are colour images for Inception.

    Args:
        name: path of the card, from where the command is run; it is the problem's name in records, too.

    Raises:
        UsageError: no such card, it was renamed or never trained, or it is not one of a score model of images.
    """
    path = Path(name)
    if not path.is_file():
        rule = "a problem is one on the list, or the path of a trained card, from where the command is run"
        raise UsageError("problem", rule, name, "Put the card there, or run the command from where it is seen")
    return _class_of(name, path.resolve(), path.stat().st_mtime_ns)


@lru_cache
def _class_of(name: str, path: Path, changed: int) -> type[CheckpointProblem]:
    card = load_card(path)
    who, todo = f"problem {name}", "Give the path of a card that `scorebench train` wrote of such a one"
    if not isinstance(card, ScoreCard):
        raise UsageError(who, "a problem is made of a score model", card.kind, todo)
    data = card.data.build().spec
    if data.levels is None:
        raise UsageError(who, "a problem is made of a score model of images", f"vectors {data.name!r}", todo)
    if path.name != f"{card.name}.yaml":
        raise UsageError(who, f"the file of this card is called {card.name}.yaml", path.name, "Give it that name")
    if card.result is None:
        todo = f"Give the card that `scorebench train {name}` writes, in its folder --out"
        raise UsageError(who, "a problem is made of a card with a result", None, todo)
    content = {
        "key": name,
        "summary": card.description,
        "metrics": _metrics(data),
        "checkpoint": card.name,
        "folder": None if path.parent == CARDS.resolve() else path.parent,
        "card": card,
        "levels": data.levels,
        "__module__": __name__,
    }
    return type(_OfCard.__name__, (_OfCard,), content)


def _metrics(data: DataSpec) -> tuple[str, ...]:
    """The first is what the problem is judged by: FID takes more held-out images than a folder may hold."""
    own = [own.name for own in OWN_DATA if own.data == data.name]
    if own:
        return (*(metric.format(own[0]) for metric in OWN_METRICS), TRAJECTORY)
    colour = (data.shape[0], data.levels) == (INCEPTION_CHANNELS, INCEPTION_LEVELS)
    return (TRAJECTORY, *(INCEPTION_METRICS if colour else ()))


class _OfCard(CheckpointProblem):
    """A problem that reads its data as its card says."""

    card: ScoreCard

    @classmethod
    def ends(cls) -> tuple[float, float]:
        return cls.card.data.offset, cls.card.data.offset + cls.card.data.scale

    def _read(self, split: str) -> Tensor:
        return self.card.data.build().load(split).values
