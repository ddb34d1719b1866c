"""What was measured of a score model's weights: the section ``evaluation`` of its card.

Written by ``scorebench evaluate NAME --write``, never by a training: it names the hash of the weights that it is of.
"""

from typing import Literal

from pretrained.machine import Machine
from pretrained.networks.settings import Count, Positive, Section


class Sampling(Section):
    """How samples were drawn: the converged probability flow from seeded starts, a step size for each sample.

    ``classes`` says which labels the network was given: ``any``, or ``held-out``, as many samples of each class as the
    held-out images have. ``evaluations`` is their mean over samples.
    """

    solver: str
    tolerance: Positive
    classes: Literal["any", "held-out"]
    n: Count
    seed: int
    evaluations: float
    seconds: float


class Distance(Section):
    """Fréchet distance of the samples from the reference images, in squared units of features.

    ``floor`` is that of as many images of the other split. Standard errors are of the samples and of those images; the
    reference is the same for every model. ``reference_sha256`` is of its statistics' content, ``flag`` what to know
    before trusting the value.
    """

    value: float
    standard_error: float
    floor: float | None = None
    floor_error: float | None = None
    n: Count
    features: Count
    extractor: str
    extractor_sha256: str
    reference: str
    reference_n: Count
    reference_sha256: str
    flag: str | None = None


class Bits(Section):
    """Bits/dim of the first ``n`` held-out images, by the converged flow, for any class.

    The standard error is the whole one, of images, dequantisations and probes. ``evaluations`` is the number a
    dequantised image.
    """

    value: float
    standard_error: float
    split: str
    n: Count
    draws: Count
    probes: Count
    seed: int
    solver: str
    tolerance: Positive
    evaluations: float
    seconds: float


class Evaluation(Section):
    """What was measured of the weights whose file has the hash ``weights``.

    ``grid`` is the hash of the picture of samples beside the weights. Without an extractor of the data there is no
    ``distance``, and ``no_distance`` says so.
    """

    weights: str
    date: str
    machine: Machine
    commit: str | None = None
    dirty: bool | None = None
    sampling: Sampling
    grid: str
    distance: Distance | None = None
    no_distance: str | None = None
    bits_per_dim: Bits
