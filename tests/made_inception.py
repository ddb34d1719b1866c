"""A file of Inception weights in torch-fidelity's form, made at random: its values mean nothing."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3 as inception


def make_inception(path: Path, seed: int = 0) -> Path:
    """Write such a file. Scaled so that features of different images differ, whatever the depth."""
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        patch.setattr(inception, "load_state_dict_from_url", lambda *args, **options: {})
        patch.setattr(inception.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = inception.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
    torch.save(network.state_dict(), path)
    return path
