"""A picture of samples: images of levels in rows, as a PNG small enough to ship."""

import io

import torch
from PIL import Image
from torch import Tensor

COLUMNS = 10
# Pixels that an image's height is brought to at least, by whole factors, and that part images.
HEIGHT, GAP = 48, 2


def picture(images: Tensor, levels: int) -> bytes:
    """A PNG of images (rows, columns, channels, height, width), uint8 levels 0 ... levels - 1, on white."""
    rows, columns, channels, height, width = images.shape
    factor = -(-HEIGHT // height)
    tall, wide = height * factor + GAP, width * factor + GAP
    sheet = torch.full((channels, rows * tall + GAP, columns * wide + GAP), 255, dtype=torch.uint8)
    shown = (images.double() * (255 / (levels - 1))).round().to(torch.uint8)
    large = shown.repeat_interleave(factor, 3).repeat_interleave(factor, 4)
    for row in range(rows):
        for column in range(columns):
            top, left = row * tall + GAP, column * wide + GAP
            sheet[:, top : top + tall - GAP, left : left + wide - GAP] = large[row, column]
    buffer = io.BytesIO()
    drawn = sheet[0] if channels == 1 else sheet.permute(1, 2, 0)
    Image.fromarray(drawn.numpy()).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def rows_of(images: Tensor, classes: Tensor | None) -> Tensor:
    """Images (n, ...) as rows of ten (rows, 10, ...): the first hundred, or the first of each class, a class a row.

    Places that there are no images for show level 0; fewer than ten images make one short row.
    """
    if classes is None:
        columns = min(COLUMNS, len(images))
        rows = min(COLUMNS, len(images) // columns)
        return images[: rows * columns].view(rows, columns, *images.shape[1:])
    shown = images.new_zeros(int(classes.max()) + 1, COLUMNS, *images.shape[1:])
    for label, row in enumerate(shown):
        own = images[classes == label][:COLUMNS]
        row[: len(own)] = own
    return shown
