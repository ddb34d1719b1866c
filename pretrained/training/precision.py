"""What the hardware computes in: bfloat16 where it has it, single precision as it is, sums in one order."""

from contextlib import AbstractContextManager

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


def reproducible() -> AbstractContextManager[None]:
    """A GPU's convolutions and their gradients with the same sums in every run, and all bits of single precision.

    Left alone, cuDNN adds up some gradients in the order in which they arrive, and rounds to TensorFloat-32.
    """
    return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
