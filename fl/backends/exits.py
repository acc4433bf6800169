"""Early exits: what a model would say from a value at one of its borders."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch.nn import functional

from hocket.fl.core.errors import CapabilityError, ConfigError
from hocket.fl.core.seeds import generator_for

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


_PREFIX = "exit."


def is_of_exit(name: str) -> bool:
    """Return whether a parameter of this name is an early exit's."""
    return name.startswith(_PREFIX)


@dataclass(frozen=True)
class ExitHead:
    """An affine early exit.

    The value is averaged over parts of an image, as few as give so many numbers for each class at
    least, or over all tokens; then comes one product with a weight, and a bias.

    Attributes:
        border: Where it is.
        shape: Of the value, without the batch: ``[features]``, ``[tokens, width]`` or ``[channels,
            height, width]``.
        num_classes: Scores it makes.
        features_per_class: Numbers that it reads of an image for each class, if there are so many;
            1 in the paper.

    Raises:
        CapabilityError: The shape is none of these.
        ConfigError: It is to read nothing.
    """

    border: str
    shape: tuple[int, ...]
    num_classes: int
    features_per_class: int = 1

    def __post_init__(self) -> None:
        if not 1 <= len(self.shape) <= 3:
            raise CapabilityError(
                f"border {self.border!r}: a value of {list(self.shape)} has no early exit; want "
                "features, tokens or an image"
            )
        if self.features_per_class < 1:
            raise ConfigError(f"want 1 feature per class or more, got {self.features_per_class}")

    @property
    def weight(self) -> str:
        """Name of its weight, ``[classes, features]``."""
        return f"{_PREFIX}{self.border}.weight"

    @property
    def bias(self) -> str:
        """Name of its bias, ``[classes]``."""
        return f"{_PREFIX}{self.border}.bias"

    @property
    def names(self) -> frozenset[str]:
        """Names of its parameters."""
        return frozenset({self.weight, self.bias})

    @property
    def num_features(self) -> int:
        """Numbers that its product takes."""
        if len(self.shape) < 3:
            return self.shape[-1]
        return self.shape[0] * math.prod(self._parts)

    def start(self, dtype: np.dtype[Any]) -> dict[str, NDArray[Any]]:
        """Return parameters as torch begins a linear layer, the same for the same border."""
        generator, bound = generator_for(0, "exit", self.border), self.num_features**-0.5
        sizes = {
            self.weight: (self.num_classes, self.num_features),
            self.bias: (self.num_classes,),
        }
        return {
            name: generator.uniform(-bound, bound, size).astype(dtype)
            for name, size in sizes.items()
        }

    def scores(self, value: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Return scores, ``[batch, classes]``."""
        if len(self.shape) == 3:
            value = functional.adaptive_avg_pool2d(value, self._parts).flatten(1)
        elif len(self.shape) == 2:
            value = value.mean(dim=1)
        return functional.linear(value, weight, bias)

    @property
    def _parts(self) -> tuple[int, int]:
        wanted = self.features_per_class * self.num_classes
        side = math.ceil(math.sqrt(wanted / self.shape[0]))
        return min(side, self.shape[1]), min(side, self.shape[2])
