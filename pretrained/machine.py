"""The machine that something was computed on."""

import os

import torch

from pretrained import provenance
from pretrained.networks.settings import Section


class Machine(Section):
    """Where a training or an evaluation ran."""

    cpu: str
    cores: int
    threads: int
    device: str
    torch: str


def machine_on(device: torch.device) -> Machine:
    """This machine, computing on a device."""
    return Machine(
        cpu=provenance.cpu_model(),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        device=provenance.device_model(device),
        torch=torch.__version__,
    )
