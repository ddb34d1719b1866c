"""What a score model is trained to in a matrix: an objective, its weighting, the law of its times, score or energy."""

from typing import Any

from pretrained.networks.settings import Section
from pretrained.objectives.menu import ObjectiveSettings
from pretrained.objectives.times import LogSNR, Times
from pretrained.objectives.weighting import Weighting
from pretrained.yaml_model import validate


class Recipe(Section):
    """See above.

    Attributes:
        objective: see :mod:`pretrained.objectives.menu`.
        weighting: see :mod:`pretrained.objectives.weighting`.
        times: see :mod:`pretrained.objectives.times`.
        energy: whether the score is the gradient of an energy, see :mod:`pretrained.networks.conservative`.
    """

    objective: ObjectiveSettings
    weighting: Weighting = "sigma2"
    times: Times = LogSNR()
    energy: bool = False

    @classmethod
    def of(cls, name: str, settings: dict[str, Any]) -> "Recipe":
        """A recipe from an objective's name and settings, the objective's own and the recipe's side by side.

        Raises:
            UsageError: the objective or a setting is unknown or refused.
        """
        own = {key: value for key, value in settings.items() if key in cls.model_fields}
        others = {key: value for key, value in settings.items() if key not in own}
        return validate({**own, "objective": {"name": name, **others}}, cls, f"objective {name}")
