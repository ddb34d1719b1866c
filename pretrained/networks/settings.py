"""The ``network`` section of a card: one class a network, told apart by its name."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A section of a card: no unknown keys, no change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CoreSettings(Section):
    """What the networks of this project share, for data of standard deviation ``data_std``.

    With ``precondition`` they predict the noise through EDM's preconditioning
    (:mod:`pretrained.networks.precondition`), and with ``energy`` the score is a gradient
    (:mod:`pretrained.networks.conservative`); without it, what the card's ``parametrisation`` says
    (:mod:`pretrained.networks.direct`).
    """

    name: str
    data_std: Positive
    precondition: bool = True
    energy: bool = False


class ConvNetSettings(CoreSettings):
    """See :class:`pretrained.networks.convnet.ConvNet`."""

    name: Literal["convnet"]
    width: Annotated[int, Field(gt=0, multiple_of=8)]
    blocks: Count
    mix: Count
    dropout: Fraction


class MLPSettings(CoreSettings):
    """See :class:`pretrained.networks.mlp.MLP`."""

    name: Literal["mlp"]
    width: Count
    blocks: Count
    dropout: Fraction = 0.0


class UNetSettings(CoreSettings):
    """See :class:`pretrained.networks.unet.UNet`.

    With ``class_conditional`` it is given the classes of the training data, each left out with probability
    ``class_dropout``, so that the network also knows the data as a whole.
    """

    name: Literal["unet"]
    width: Annotated[int, Field(gt=0, multiple_of=4)]
    multipliers: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 2)
    blocks: Count = 1
    attention: tuple[Count, ...] = ()
    patch: Count = 1
    class_conditional: bool = False
    class_dropout: Fraction = 0.1
    dropout: Fraction = 0.0


class NCSNppSettings(Section):
    """The section ``model`` of the reference's configurations, see :class:`pretrained.networks.ncsnpp.NCSNpp`.

    ``normalization``, ``attention_type`` and ``conv_size`` have one value each; ``sigma_min``, ``sigma_max`` and
    ``num_scales`` are the noise levels by which ``scale_by_sigma`` divides when the embedding is positional.
    """

    name: Literal["ncsnpp"]
    nf: Annotated[int, Field(ge=4)]
    ch_mult: Annotated[tuple[Count, ...], Field(min_length=1)]
    num_res_blocks: Count
    attn_resolutions: tuple[Count, ...]
    resamp_with_conv: bool
    conditional: bool
    fir: bool
    fir_kernel: tuple[float, ...]
    skip_rescale: bool
    resblock_type: Literal["ddpm", "biggan"]
    progressive: Literal["none", "output_skip", "residual"]
    progressive_input: Literal["none", "input_skip", "residual"]
    progressive_combine: Literal["sum", "cat"]
    embedding_type: Literal["positional", "fourier"]
    scale_by_sigma: bool
    fourier_scale: Positive = 16
    init_scale: Annotated[float, Field(ge=0)] = 0.0
    dropout: Fraction = 0.1
    nonlinearity: Literal["swish", "elu", "relu", "lrelu"] = "swish"
    normalization: Literal["GroupNorm"] = "GroupNorm"
    attention_type: Literal["ddpm"] = "ddpm"
    conv_size: Literal[3] = 3
    sigma_min: Positive = 0.01
    sigma_max: Positive = 50
    num_scales: Count = 1000


class ClassifierSettings(Section):
    """See :class:`pretrained.networks.classifier.Classifier`."""

    name: Literal["classifier"]
    width: Count
    features: Count
    dropout: Fraction
    halvings: Count = 1


class NoisyClassifierSettings(Section):
    """See :class:`pretrained.networks.noisy_classifier.NoisyClassifier`."""

    name: Literal["noisy_classifier"]
    data_std: Positive
    width: Annotated[int, Field(gt=0, multiple_of=8)]
    blocks: Count
    dropout: Fraction


class DequantiserNetworkSettings(Section):
    """See :class:`pretrained.networks.dequantiser.Dequantiser`."""

    name: Literal["dequantiser"]
    width: Count
    couplings: Count


ScoreNetworkSettings = Annotated[
    ConvNetSettings | MLPSettings | UNetSettings | NCSNppSettings, Field(discriminator="name")
]
