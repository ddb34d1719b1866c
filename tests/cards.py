"""Cards of networks small enough for a test."""

from pathlib import Path
from typing import Any

import yaml

from pretrained.card import Card, load_card

SCORE: dict[str, Any] = {
    "name": "tiny-score",
    "kind": "score",
    "description": "A network small enough for a test.",
    "data": {"name": "digits", "scale": 2.0, "offset": -1.0},
    "sde": {"name": "vp", "settings": {"beta_min": 0.1, "beta_max": 20.0}},
    "network": {"name": "convnet", "data_std": 0.8, "width": 8, "blocks": 1, "mix": 8, "dropout": 0.1},
    "parametrisation": "noise",
    "training": {
        "seed": 3,
        "steps": 40,
        "batch": 64,
        "learning_rate": 0.005,
        "warm_up": 5,
        "ema": 0.9,
        "weighting": "sigma2",
        "reduction": "mean",
        "times": "log_snr",
    },
}
CLASSIFIER: dict[str, Any] = {
    "name": "tiny-features",
    "kind": "classifier",
    "description": "A classifier small enough for a test.",
    "data": {"name": "digits"},
    "network": {"name": "classifier", "width": 4, "features": 16, "dropout": 0.1},
    "training": {"seed": 3, "steps": 60, "batch": 64, "learning_rate": 0.01, "warm_up": 5, "ema": 0.9},
}
DEQUANTISER: dict[str, Any] = {
    "name": "tiny-dequantiser",
    "kind": "dequantiser",
    "description": "A dequantiser small enough for a test.",
    "data": {"name": "digits"},
    "checkpoint": {"name": "digits-vp"},
    "network": {"name": "dequantiser", "width": 4, "couplings": 2},
    "training": {"seed": 3, "steps": 3, "batch": 16, "learning_rate": 0.01, "warm_up": 2, "ema": 0.5, "nfe": 3},
}


def changed(content: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy with ``section__key=value`` replaced."""
    copy: dict[str, Any] = yaml.safe_load(yaml.safe_dump(content))
    for key, value in changes.items():
        *sections, last = key.split("__")
        place = copy
        for section in sections:
            place = place[section]
        place[last] = value
    return copy


def write(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "card.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def card_of(folder: Path, content: dict[str, Any]) -> Card:
    return load_card(write(folder, content))
