"""A training that begins with the weights of another checkpoint instead of random ones.

A network that is told the noise level sigma/alpha alone is the same function of it under every process
(:meth:`pretrained.zoo.Checkpoint.under`): one that was trained under EDM can go on under VP with another weighting.
"""

from typing import Any

from torch import nn

from pretrained import zoo
from pretrained.card import CheckpointSettings, ScoreCard
from pretrained.networks.precondition import Preconditioned
from pretrained.published import PublishedCard
from solvers.errors import UsageError

# What of a network's section decides how it is trained, not what its weights mean.
OF_TRAINING = {"dropout", "class_dropout"}


def start(network: nn.Module, card: ScoreCard, asked: CheckpointSettings) -> str:
    """Puts the weights of a checkpoint into the network of a card; gives the hash of their file.

    Raises:
        UsageError: no such checkpoint, or its weights would mean something else in this network: other settings
            of the network, other data or states, or another process or parametrisation for one that is told the time.
    """
    checkpoint = zoo.load(asked.name, folder=asked.path)
    there = checkpoint.card
    who, todo = f"train {card.name} from {asked.name}", "Change the card, or start from another checkpoint"
    if isinstance(there, PublishedCard):
        raise UsageError(who, "start_from takes a checkpoint that `scorebench train` made", there.kind, todo)
    here, before = _meaning(card, network), _meaning(there, checkpoint.network)
    changes = [f"{key}: {before.get(key)!r} -> {value!r}" for key, value in here.items() if before.get(key) != value]
    if changes:
        rule = "weights are started from in the same network, on states of the same shape and scale"
        raise UsageError(who, rule, "; ".join(changes), todo)
    network.load_state_dict(checkpoint.network.state_dict())
    return checkpoint.sha256


def _meaning(card: ScoreCard, network: nn.Module) -> dict[str, Any]:
    """What decides which function of state and time the weights make."""
    content = {f"network.{key}": value for key, value in card.network.model_dump(exclude=OF_TRAINING).items()}
    content |= {"data.scale": card.data.scale, "data.offset": card.data.offset}
    data = card.data.build().spec
    # A convnet is told the edges of the data's range, which follow from their levels; others are not.
    content |= {"data.shape": data.shape, "data.levels": data.levels if card.network.name == "convnet" else None}
    if getattr(card.network, "class_conditional", False):
        content["data.classes"] = data.classes
    if not isinstance(network, Preconditioned):
        content |= {"sde": card.sde.model_dump(), "parametrisation": card.parametrisation}
    return content
