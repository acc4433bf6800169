"""The federations of ``examples/federation``, and small ones like them, for benches."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from harness import ROOT

from hocket.federation import prepare_federation
from hocket.fl.config import load_config

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from hocket.federation import Federation

FOLDER = ROOT / "examples" / "federation"
# The example's file is in no package.
sys.path.append(str(FOLDER))
models = importlib.import_module("make_models")

_SMALL_FEDERATION = {
    "data.devices": 10,
    "strategy.fraction-train": 0.5,
    "training.batch-size": 8,
}
_SMALL = {"cnn": {"size": 8, "channels": 4}, "vit": {"size": 8, "patch": 2, "width": 24}}


@dataclass(frozen=True)
class Case:
    """A model and its data.

    Attributes:
        model: ``cnn`` or ``vit``.
        is_small: Whether it is a tenth of it, on scikit-learn's digits.
    """

    model: str
    is_small: bool = False

    @property
    def source(self) -> str:
        """The data set."""
        return "digits" if self.is_small else "fashion-mnist"

    @property
    def size(self) -> int:
        """Height and width of an image."""
        return 8 if self.is_small else 28

    def module(self) -> nn.Module:
        """Return the torch module, the same each time."""
        torch.manual_seed(0)
        made: nn.Module = {"cnn": models.Cnn, "vit": models.Vit}[self.model](
            **(_SMALL[self.model] if self.is_small else {})
        )
        return made

    def prepare(self, folder: Path, **overrides: Any) -> Federation:
        """Return the federation of the example's file, with its folder and other values.

        Args:
            folder: For the model and all that the federation leaves.
            overrides: Of the file, as ``section__key``.
        """
        path = folder / f"{self.model}-{self.size}.onnx"
        models.write_onnx(self.module(), path, self.size)
        values: dict[str, Any] = dict(_SMALL_FEDERATION) if self.is_small else {}
        values |= {name.replace("__", "."): value for name, value in overrides.items()}
        values |= {
            "model.onnx": str(path),
            "federation.folder": str(folder / self.model),
            "federation.tensorboard": False,
            "data.source": self.source,
        }
        return prepare_federation(load_config(FOLDER / f"fashion-mnist-{self.model}.toml", values))
