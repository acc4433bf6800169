"""A Flower user's ClientApp that trains a compiled module: three lines of it know of Hocket.

Everything else is what one writes for Flower anyway: its messages, its FedAvg, its simulation. Four
nodes learn to read scikit-learn's digits with a small transformer over the rows of an image.

It needs the extras ``fl``, ``data`` and ``flower``.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import hocket
from hocket.fl.backends.compiled import CompiledBackend
from hocket.fl.core.backend import LocalTraining
from hocket.fl.core.data import Examples

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_LOG_LEVEL", "ERROR")

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

NUM_NODES, NUM_ROUNDS = 4, 3
TRAINING = LocalTraining(epochs=2, batch_size=16, optimizer="adam", learning_rate=0.003)


class RowTransformer(nn.Module):
    """Images ``[batch, 8, 8]`` to scores of ten digits, by attention among their rows."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Linear(8, width)
        self.places = nn.Parameter(torch.randn(1, 8, width) * 0.1)
        self.project, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.head = nn.Linear(8 * width, 10)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return scores ``[batch, 10]``."""
        states = self.embed(rows) + self.places
        batch, length, width = states.shape
        query, key, value = (
            part.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for part in self.project(states).split(width, dim=2)
        )
        attended = functional.scaled_dot_product_attention(query, key, value)
        states = states + self.join(attended.transpose(1, 2).reshape(batch, length, width))
        scores: torch.Tensor = self.head(functional.gelu(states).flatten(1))
        return scores


def compile_model(folder: Path) -> Path:
    """Return the file of a compiled module: the batch is open, parameters keep their names."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            RowTransformer(),
            (torch.zeros(2, 8, 8),),
            folder / "rows.onnx",
            input_names=["rows"],
            output_names=["scores"],
            dynamic_axes={"rows": {0: "batch"}, "scores": {0: "batch"}},
            dynamo=False,
            do_constant_folding=False,
        )
    module = hocket.compile(folder / "rows.onnx", dims={"batch": (1, 64)})
    return module.save(folder / "rows.hkt")


def load_partition(context: Context, *, is_training: bool) -> Examples:
    """Return the digits of a node: every fourth one, of these every fifth to evaluate on."""
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    first = int(context.node_config["partition-id"])
    step = int(context.node_config["num-partitions"])
    rows = (images[first::step] / 16).astype(np.float32).reshape(-1, 8, 8)
    is_held_out = np.arange(len(rows)) % 5 == 0
    chosen = ~is_held_out if is_training else is_held_out
    return Examples({"rows": rows[chosen]}, digits[first::step][chosen].astype(np.int64))


client_app = ClientApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Train the model that came, and send it back."""
    config = message.content["config"]
    examples = load_partition(context, is_training=True)
    backend = CompiledBackend(hocket.load(config["module"]).artifact)
    backend.load_parameters(to_numpy(message.content["arrays"]))
    result = backend.train(TRAINING, examples, seed=int(config["server-round"]))
    metrics = MetricRecord({"num-examples": result.num_examples, **result.metrics})
    arrays = to_record(backend.parameters())
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@client_app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the model that came on the digits held out."""
    examples = load_partition(context, is_training=False)
    backend = CompiledBackend(hocket.load(message.content["config"]["module"]).artifact)
    backend.load_parameters(to_numpy(message.content["arrays"]))
    result = backend.evaluate(examples)
    metrics = MetricRecord({"num-examples": result.num_examples, **result.metrics})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def to_numpy(record: ArrayRecord) -> dict[str, np.ndarray]:
    """Return arrays by name."""
    return {name: array.numpy() for name, array in record.items()}


def to_record(arrays: dict[str, np.ndarray]) -> ArrayRecord:
    """Return them as Flower's."""
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def make_server_app(module: Path) -> ServerApp:
    """Return Flower's own FedAvg, which tells nodes where the module is."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        initial = to_record(CompiledBackend(hocket.load(module).artifact).parameters())
        config = ConfigRecord({"module": str(module)})
        result = FedAvg(min_available_nodes=NUM_NODES).start(
            grid, initial, NUM_ROUNDS, train_config=config, evaluate_config=config
        )
        for number, metrics in sorted(result.evaluate_metrics_clientapp.items()):
            print(f"round {number}: accuracy {metrics['accuracy']:.3f}")

    return app


def main() -> None:
    """Compile, and simulate."""
    with tempfile.TemporaryDirectory() as folder:
        module = compile_model(Path(folder))
        backend_config = {"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": 2}}
        run_simulation(
            make_server_app(module), client_app, NUM_NODES, backend_config=backend_config
        )


if __name__ == "__main__":
    main()
