"""A model that withstands attacks, from devices that have no room to train it.

A network that reads scikit-learn's digits takes 0.6 MB to train, its devices have 0.3. So it is cut
into modules, and these are trained one after the other against attacks on the pixels. Beside it is
the same federation without attacks. `fedprophet.toml` says all of it; with the network's file,
`hocket prophet train examples/fedprophet.toml` does the same on any engine.

It needs the extras ``fl`` and ``data``.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

import hocket
from hocket.fl.backends.task import Task
from hocket.fl.config import load_config
from hocket.fl.fat.attack import Attack, Linf
from hocket.fl.fat.evaluation import accuracy_under
from hocket.prophet_evaluation import load_subject
from hocket.prophet_plan import compile_open, plan_prophet, spans_with_exits

RADIUS = 0.1


def make_model(path: Path) -> None:
    """Write the network: images ``[batch, 1, 8, 8]`` to scores of ten digits."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, width in ((1, 16), (16, 32)):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    layers += [nn.Flatten(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            nn.Sequential(*layers),
            (torch.zeros(2, 1, 8, 8),),
            path,
            input_names=["pixels"],
            output_names=["scores"],
            dynamic_axes={"pixels": {0: "batch"}, "scores": {0: "batch"}},
            training=torch.onnx.TrainingMode.TRAINING,
            dynamo=False,
            do_constant_folding=False,
        )


def plan(config: Any) -> None:
    """Print the modules and what they take."""
    training, section = config.training.as_training(), config.prophet
    artifact = compile_open(Path(config.model.onnx), {}, training.batch_size)
    spans = spans_with_exits(artifact, Task(), exit_features=section.exit_features)
    found = plan_prophet(spans, training, section.memory_bytes)
    print(f"whole model: {found.whole.peak_bytes / 1e3:.0f} kB")
    for module in found.modules:
        print(f"{module.name}: {module.footprint.peak_bytes / 1e3:.0f} kB")


def train(config: Any) -> None:
    """Train, and print what the model withstands on images that no device has."""
    hocket.federate(config)
    subject = load_subject(Path(config.federation.folder))
    found = accuracy_under(
        subject.spans, subject.partitions.held_out(), Linf(RADIUS), Attack(20), seed=0
    )
    print(f"{config.federation.name}: {found.clean:.3f} clean, {found.attacked:.3f} attacked")


def main() -> None:
    """Plan, train robustly and otherwise, and compare."""
    torch.set_num_threads(1)
    beside = Path(__file__).with_suffix(".toml")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fedprophet.toml"
        path.write_text(beside.read_text("utf-8"), encoding="utf-8")
        make_model(path.with_name("digits.onnx"))
        plan(load_config(path))
        train(load_config(path, {"federation.folder": f"{folder}/robust"}))
        undefended = {"federation.name": "undefended", "strategy.warm-up": 100}
        train(load_config(path, {**undefended, "federation.folder": f"{folder}/clean"}))


if __name__ == "__main__":
    main()
