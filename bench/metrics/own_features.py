"""Metrics on the project's own extractors: key, label and text are written once and filled in for each data set."""

import inspect
from dataclasses import asdict, dataclass
from string import Template
from typing import ClassVar, Self

from bench.metrics.metric import Metric


@dataclass(frozen=True)
class OwnData:
    """A data set with an extractor of its own.

    Attributes:
        name: in keys.
        data: name of the data set.
        images: what its images show.
        levels: grey levels.
        extractor: name of the checkpoint.
        dim: number of its features.
    """

    name: str
    data: str
    images: str
    levels: int
    extractor: str
    dim: int


DIGITS = OwnData("digits", "digits", "digits", 17, "digits-features", 16)
FASHION = OwnData("fashion", "fashion_mnist", "clothes", 256, "fashion-features", 64)
OWN_DATA = (DIGITS, FASHION)


class OwnMetric(Metric):
    """A metric on any of the project's extractors.

    Key, label and text of a base are written with ``${name}``, ``$images``, ``$levels``, ``$extractor``, ``$dim`` for
    those of the data.
    """

    extractor: ClassVar[str]

    @classmethod
    def on(cls, data: OwnData) -> type[Self]:
        """The metric on a data set, to be registered."""
        values = asdict(data)
        written = {"key": cls.key, "label": cls.label, "__doc__": inspect.getdoc(cls) or ""}
        content = {name: Template(text).substitute(values) for name, text in written.items()}
        content |= {"extractor": data.extractor, "__module__": cls.__module__}
        return type(f"{cls.__name__}{data.name.title()}", (cls,), content)
