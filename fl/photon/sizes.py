"""The family of GPT decoders by their sizes alone: how many parameters, how much work."""

from __future__ import annotations

from dataclasses import dataclass

from hocket.fl.core.errors import ConfigError

EXPANSION = 4
"""Width of a layer's hidden states by that of its states."""


@dataclass(frozen=True)
class GptSize:
    """A decoder that normalises first, with learned places, no biases but its norms', one table.

    Attributes:
        layers, width, heads: As papers give them; width is d_model.
        kv_heads: Heads of keys and values, each shared by as many query heads; 0 for ``heads``.
        vocabulary: Tokens there are.
        context: Tokens of a sequence.

    Raises:
        ConfigError: A number is below 1, or heads do not divide what they must.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int = 0
    vocabulary: int = 50_368
    context: int = 2_048

    def __post_init__(self) -> None:
        if not self.kv_heads:
            object.__setattr__(self, "kv_heads", self.heads)
        for name in ("layers", "width", "heads", "kv_heads", "vocabulary", "context"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} is not divided by {self.heads} heads")
        if self.heads % self.kv_heads:
            raise ConfigError(f"{self.heads} heads are not divided by kv_heads {self.kv_heads}")

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.width // self.heads

    @property
    def num_matrix_parameters(self) -> int:
        """Parameters that every token is multiplied with, the table's as the last layer."""
        projections = self.width * (2 * self.width + 2 * self.kv_heads * self.head_dim)
        mlp = 2 * EXPANSION * self.width**2
        return self.layers * (projections + mlp) + self.vocabulary * self.width

    @property
    def num_parameters(self) -> int:
        """All parameters."""
        norms = 2 * (2 * self.layers + 1) * self.width
        return self.num_matrix_parameters + self.context * self.width + norms

    @property
    def forward_flops(self) -> int:
        """Of a token in a full context: products alone, scores that causality hides counted."""
        attention = 2 * 2 * self.layers * self.width * self.context
        return 2 * self.num_matrix_parameters + attention

    @property
    def training_flops(self) -> int:
        """Of a token: the backward pass takes twice the forward pass."""
        return 3 * self.forward_flops

    def __str__(self) -> str:
        return (
            f"{self.layers} layers of {self.width}, {self.heads} heads, vocabulary "
            f"{self.vocabulary}, context {self.context}"
        )


SIZES = {
    "1M": GptSize(4, 128, 4, vocabulary=2_048, context=128),
    "6M": GptSize(6, 256, 4, vocabulary=4_096, context=256),
    "12M": GptSize(6, 384, 6, vocabulary=4_096, context=256),
    "25M": GptSize(8, 448, 7, vocabulary=8_192, context=512),
    # Those of the paper. It has ALiBi in place of learned places.
    "125M": GptSize(12, 768, 12),
    "350M": GptSize(24, 1_024, 16),
    "1.3B": GptSize(24, 2_048, 16),
    "3B": GptSize(32, 2_560, 20),
    "7B": GptSize(32, 4_096, 32),
}
"""Sizes by name."""


def find_size(name: str) -> GptSize:
    """Return the size of a name.

    Raises:
        ConfigError: There is none.
    """
    if name not in SIZES:
        raise ConfigError(f"no model {name!r}; there are {', '.join(SIZES)}")
    return SIZES[name]
