"""Patches: cut where they should be, and no pixel in both parts."""

import torch
from sklearn.datasets import load_sample_images

from pretrained.data import load_data


def test_patches_are_cut_from_the_photographs() -> None:
    """The first tile that is kept lies right of the first held-out one; its patches go along its rows."""
    photograph = torch.tensor(load_sample_images().images[0]).permute(2, 0, 1)
    held_out, kept = load_data("patches", "test"), load_data("patches", "train")
    assert torch.equal(held_out.values[0], photograph[:, :16, :16])
    assert torch.equal(held_out.values[1], photograph[:, :16, 16:32]), "held-out patches lie side by side"
    assert torch.equal(held_out.values[4], photograph[:, 16:32, :16])
    assert torch.equal(kept.values[0], photograph[:, :16, 64:80])
    assert torch.equal(kept.values[1], photograph[:, :16, 68:84])
    assert torch.equal(kept.values[13], photograph[:, 4:20, 64:80])
    assert torch.equal(kept.values[168], photograph[:, 48:64, 112:128])
    assert (kept.levels, kept.classes, kept.flip, kept.shape) == (256, 2, True, (3, 16, 16))


def test_no_pixel_is_in_both_parts(monkeypatch) -> None:
    """Photographs whose every pixel is another colour show which pixels a part is made of."""
    number = torch.arange(2 * 427 * 640).view(2, 427, 640, 1)
    coloured = (number // torch.tensor([1, 256, 65_536]) % 256).to(torch.uint8)
    monkeypatch.setattr("sklearn.datasets.load_sample_images", lambda: type("", (), {"images": coloured.numpy()}))
    seen = {}
    for split in ("train", "test"):
        colours = load_data("patches", split).values.long().permute(0, 2, 3, 1).reshape(-1, 3)
        seen[split] = set((colours @ torch.tensor([1, 256, 65_536])).tolist())
    assert not seen["train"] & seen["test"]
    assert len(seen["train"]) == 96 * 64 * 64
    assert len(seen["test"]) == 24 * 64 * 64 == load_data("patches", "test").values[:, 0].numel()


def test_both_parts_hold_both_photographs() -> None:
    assert load_data("patches", "train").labels.bincount().tolist() == [8112, 8112]
    assert load_data("patches", "test").labels.bincount().tolist() == [192, 192]
