"""Write the vision transformers of the fleets beside this file.

python examples/fleet/write_models.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "federation"))

from make_models import Vit, write_onnx

SIZES = {"vit": (28, 7, 32, 2), "vit-digits": (8, 2, 16, 2)}
"""Of each file: size of an image, of a patch, width, and heads."""


def main() -> None:
    """Write all of them."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for name, (size, patch, width, heads) in SIZES.items():
        torch.manual_seed(0)
        write_onnx(Vit(size, patch, width, heads), folder / f"{name}.onnx", size)
        print(folder / f"{name}.onnx")


if __name__ == "__main__":
    main()
