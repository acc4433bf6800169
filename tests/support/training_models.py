"""Small torch modules of other kinds than the bench has, for models that are trained."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from training.models import Attention


class Bert(nn.Module):
    """Token numbers and a padding mask to logits of classes; layers normalise last."""

    def __init__(
        self, width: int = 32, heads: int = 2, layers: int = 2, vocabulary: int = 61
    ) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(64, width)
        self.first_norm = nn.LayerNorm(width)
        self.attentions = nn.ModuleList(Attention(width, heads, False) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers))
        self.ups = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(layers))
        self.downs = nn.ModuleList(nn.Linear(4 * width, width) for _ in range(layers))
        self.pooler, self.head = nn.Linear(width, width), nn.Linear(width, 4)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        added = (1.0 - mask[:, None, None, :].to(torch.float32)) * -10000.0
        places = torch.arange(ids.shape[1], device=ids.device)
        states = self.first_norm(self.tokens(ids) + self.places(places))
        for number, attention in enumerate(self.attentions):
            states = self.norms[2 * number](states + attention(states, added))
            wide = self.downs[number](functional.gelu(self.ups[number](states)))
            states = self.norms[2 * number + 1](states + wide)
        logits: torch.Tensor = self.head(torch.tanh(self.pooler(states[:, 0])))
        return logits


class ResidualBlock(nn.Module):
    """Two convolutions with batch normalisation, and what came in added."""

    def __init__(self, channels: int, wider: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, wider, 3, stride, padding=1, bias=False)
        self.second = nn.Conv2d(wider, wider, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(wider), nn.BatchNorm2d(wider)])
        self.shortcut = nn.Conv2d(channels, wider, 1, stride, bias=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        inner = functional.relu(self.norms[0](self.first(image)))
        return functional.relu(self.norms[1](self.second(inner)) + self.shortcut(image))


class Resnet(nn.Module):
    """Images ``[batch, 3, size, size]`` to logits of classes."""

    def __init__(self, channels: int = 8, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.blocks = nn.ModuleList(
            [
                ResidualBlock(channels, channels, 1),
                ResidualBlock(channels, 2 * channels, 2),
            ]
        )
        self.head = nn.Linear(2 * channels, classes)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        image = functional.max_pool2d(functional.relu(self.norm(self.stem(pixels))), 3, 2, 1)
        for block in self.blocks:
            image = block(image)
        logits: torch.Tensor = self.head(functional.adaptive_avg_pool2d(image, 1).flatten(1))
        return logits


class Lenet(nn.Module):
    """Images ``[batch, 1, 28, 28]`` to logits of ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.layers = nn.ModuleList([nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)])

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        image = functional.avg_pool2d(torch.tanh(self.first(pixels)), 2)
        image = functional.avg_pool2d(torch.tanh(self.second(image)), 2)
        found = image.flatten(1)
        for layer in self.layers[:-1]:
            found = torch.tanh(layer(found))
        logits: torch.Tensor = self.layers[-1](found)
        return logits


class Llama(nn.Module):
    """Token numbers to logits: root mean squares, rotated heads, gated layers, fewer keys."""

    def __init__(self, width: int = 32, heads: int = 4, layers: int = 2, vocabulary: int = 61):
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.tokens = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "query": nn.Linear(width, width, bias=False),
                    "key": nn.Linear(width, width // 2, bias=False),
                    "value": nn.Linear(width, width // 2, bias=False),
                    "output": nn.Linear(width, width, bias=False),
                    "gate": nn.Linear(width, 2 * width, bias=False),
                    "up": nn.Linear(width, 2 * width, bias=False),
                    "down": nn.Linear(2 * width, width, bias=False),
                    "before": nn.RMSNorm(width, eps=1e-5),
                    "between": nn.RMSNorm(width, eps=1e-5),
                }
            )
            for _ in range(layers)
        )
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.register_buffer("rates", 10000.0 ** (-torch.arange(0, self.size, 2) / self.size))
        self.rates: torch.Tensor

    def rotate(self, states: torch.Tensor) -> torch.Tensor:
        angles = torch.arange(states.shape[2])[:, None] * self.rates[None, :]
        angles = torch.cat([angles, angles], dim=-1)
        one, other = states.chunk(2, dim=-1)
        return states * angles.cos() + torch.cat([-other, one], dim=-1) * angles.sin()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        batch, length = ids.shape
        states = self.tokens(ids)
        for layer in self.layers:
            inner = layer["before"](states)
            query, key, value = (
                layer[name](inner).view(batch, length, -1, self.size).transpose(1, 2)
                for name in ("query", "key", "value")
            )
            key, value = (part.repeat_interleave(2, dim=1) for part in (self.rotate(key), value))
            attended = functional.scaled_dot_product_attention(
                self.rotate(query), key, value, is_causal=True
            )
            states = states + layer["output"](attended.transpose(1, 2).reshape(batch, length, -1))
            inner = layer["between"](states)
            gated = functional.silu(layer["gate"](inner)) * layer["up"](inner)
            states = states + layer["down"](gated)
        logits: torch.Tensor = self.head(self.norm(states))
        return logits
