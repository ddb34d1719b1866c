"""The objectives that a card can name."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from pretrained.objectives.denoising import Denoising
from pretrained.objectives.exact import Exact
from pretrained.objectives.finite_difference import FiniteDifference
from pretrained.objectives.sliced import Sliced


def _named(value: Any) -> Any:
    """An objective's bare name stands for it with its defaults."""
    return {"name": value} if isinstance(value, str) else value


ObjectiveSettings = Annotated[
    Annotated[Denoising | Sliced | FiniteDifference | Exact, Field(discriminator="name")], BeforeValidator(_named)
]
