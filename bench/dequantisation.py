"""Dequantisations of a score model's images: uniform ones, or draws of a flow of the zoo with their density."""

from functools import lru_cache
from pathlib import Path

from bench.image_model import ImageModel
from pretrained import zoo
from pretrained.card import CARD_SUFFIXES, DequantiserCard, load_card
from pretrained.dequantisation import check_fits
from pretrained.zoo import DequantisingFlow
from solvers.errors import UsageError

UNIFORM, VARIATIONAL = "uniform", "variational"


def dequantiser_of(asked: str | None, model: ImageModel, folder: Path | None = None) -> DequantisingFlow | None:
    """The flow that dequantises a model's images; None for uniform dequantisation.

    Any flow of images of that shape and these levels gives an upper bound on -log P(k), one that was trained for
    another checkpoint a looser one.

    Args:
        asked: ``uniform`` (or None), ``variational`` for the flow that was trained for this checkpoint, the name of a
            dequantiser, or the path of the card of one trained here.
        model: score model and data.
        folder: where ``variational`` and names are looked for beside what is shipped.

    Raises:
        UsageError: there is none for the checkpoint, no such dequantiser, or it is of other images.
    """
    if asked in (None, UNIFORM):
        return None
    assert asked is not None
    path = _path(asked, model, folder)
    flow = _load(path, str(model.device))
    own = flow.card.data.build().spec
    check_fits(flow.card.name, (own.shape, own.levels), "the score model", (tuple(model.shape), model.levels))
    return flow


def _path(asked: str, model: ImageModel, folder: Path | None) -> str:
    """Name of a shipped dequantiser, or path of a card."""
    if Path(asked).suffix in CARD_SUFFIXES:
        return asked
    here = {path.stem: str(path) for path in folder.glob("*.yaml")} if folder else {}
    if asked != VARIATIONAL:
        return here.get(asked, asked)
    hashes = set(model.hashes.values())
    for path in (*here.values(), *zoo.names()):
        card = load_card(path)
        if isinstance(card, DequantiserCard) and card.result and card.result.checkpoint_sha256 in hashes:
            return path
    rule = "a dequantiser was trained for the checkpoint"
    todo = "Train one (docs/training.md), or give the name of another: its bound holds too, if less tightly"
    raise UsageError("dequantisation variational", rule, ", ".join(sorted(model.hashes)) or None, todo)


@lru_cache(maxsize=4)
def _load(path: str, device: str) -> DequantisingFlow:
    card = Path(path)
    if card.suffix in CARD_SUFFIXES:
        return zoo.load_dequantiser(card.stem, device, card.parent)
    return zoo.load_dequantiser(path, device)
