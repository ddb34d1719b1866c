"""Whether the hardware has bfloat16."""

import torch

from pretrained.results import Precision


def precision_on(device: torch.device, asked: Precision) -> Precision:
    """The precision that a card asks for, or float32 on a GPU that would emulate bfloat16.

    Every CPU computes in it, those without its instructions more slowly than in float32.
    """
    if asked == "float32" or device.type != "cuda":
        return asked
    with torch.cuda.device(device):
        has_it = torch.cuda.is_bf16_supported(including_emulation=False)
    return asked if has_it else "float32"
