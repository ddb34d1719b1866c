"""A small classifier of small images whose penultimate layer serves as features of a Fréchet distance."""

from torch import Tensor, nn


class Classifier(nn.Module):
    """Convolutions at ever lower resolution, a layer of features, and the classes.

    Images are in the unit interval, v = (k + u)/L, (n, channels, height, width), height and width multiples of
    2^halvings.

    Args:
        shape: shape of an image, (channels, height, width).
        classes: number of classes.
        width: channels of the first convolution; each further one has twice as many, at half the resolution.
        features: size of the penultimate layer.
        dropout: probability, before the features.
        halvings: convolutions after the first.
    """

    def __init__(
        self, shape: tuple[int, ...], classes: int, width: int, features: int, dropout: float, halvings: int = 1
    ) -> None:
        super().__init__()
        channels, height, breadth = shape
        layers = [nn.Conv2d(channels, width, 3, padding=1), nn.SiLU()]
        for _ in range(halvings):
            layers += [nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.SiLU()]
            width, height, breadth = 2 * width, height // 2, breadth // 2
        self.body = nn.Sequential(
            *layers, nn.Flatten(), nn.Dropout(dropout), nn.Linear(width * height * breadth, features)
        )
        self.head = nn.Sequential(nn.SiLU(), nn.Linear(features, classes))

    def features(self, images: Tensor) -> Tensor:
        """Penultimate layer before its activation, (n, features): unbounded and close to Gaussian within a class."""
        result: Tensor = self.body(2 * images - 1)
        return result

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (n, classes)."""
        logits: Tensor = self.head(self.features(images))
        return logits
