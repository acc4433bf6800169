"""What the compiled backend alone promises; ``tests/conformance`` has what every backend does."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from support.training_cases import (
    LEGACY_CASES,
    MOST,
    TRAINING_CASES,
    compiled,
    new_backend,
    state_of,
    torch_loss,
)
from training.models import Gpt, export

import hocket
from hocket.fl.backends.compiled import CompiledBackend
from hocket.fl.backends.task import Task
from hocket.fl.core.backend import LocalTraining
from hocket.fl.core.data import Examples
from hocket.fl.core.errors import CapabilityError, ConfigError, FederationError
from hocket.runtime.errors import FeedError

MODELS = [
    *((name, "legacy") for name in LEGACY_CASES),
    *((name, "dynamo") for name in TRAINING_CASES),
]
# Sums of some hundred float32 products through a dozen layers, in another order.
TOLERANCE = {"rtol": 2e-4, "atol": 2e-6}


@pytest.mark.parametrize(("name", "exporter"), MODELS)
def test_gradients_are_those_of_the_original_module(name: str, exporter: str) -> None:
    backend, module = new_backend(name, exporter), TRAINING_CASES[name].new_module()
    examples = TRAINING_CASES[name].new_examples()
    torch_loss(module, examples).backward()
    before = backend.parameters()
    backend.train(LocalTraining(batch_size=MOST, learning_rate=1.0), examples, 0)
    after = backend.parameters()
    wanted = dict(module.named_parameters(remove_duplicate=False))
    assert set(before) - backend.statistics <= set(wanted)
    for each in sorted(set(before) - backend.statistics):
        np.testing.assert_allclose(
            before[each] - after[each], wanted[each].grad, rtol=5e-4, atol=5e-6, err_msg=each
        )


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.01},
        {"optimizer": "adam", "learning_rate": 0.001},
        {"optimizer": "adamw", "learning_rate": 0.001, "weight_decay": 0.1},
        {"optimizer": "sgd", "clip_norm": 0.05},
    ],
    ids=["sgd", "adam", "adamw", "clipped"],
)
@pytest.mark.parametrize("name", ["lenet", "resnet"])  # all of whose gradients are sizeable
def test_training_is_that_of_torch(name: str, settings: dict[str, Any]) -> None:
    training = LocalTraining(epochs=2, batch_size=4, **settings)
    backend, module = new_backend(name), TRAINING_CASES[name].new_module()
    examples = TRAINING_CASES[name].new_examples()
    # To export a module in training is to run it, which moves running statistics.
    backend.load_parameters(state_of(module, backend.parameters()))
    result = backend.train(training, examples, 7)
    rates = {"lr": training.learning_rate, "weight_decay": training.weight_decay}
    optimizer = {
        "sgd": lambda all_: torch.optim.SGD(all_, momentum=training.momentum, **rates),
        "adam": lambda all_: torch.optim.Adam(all_, **rates),
        "adamw": lambda all_: torch.optim.AdamW(all_, **rates),
    }[training.optimizer](module.parameters())
    order = np.random.default_rng(7)
    for _ in range(2):
        losses = []
        for batch in examples.batches(4, order):
            optimizer.zero_grad()
            loss = torch_loss(module, batch)
            loss.backward()
            if training.clip_norm:
                torch.nn.utils.clip_grad_norm_(module.parameters(), training.clip_norm)
            optimizer.step()
            losses.append(loss.item())
    found = backend.parameters()
    for each, wanted in state_of(module, found).items():
        # Adam divides gradients by their size, so that rounding tells in small ones.
        np.testing.assert_allclose(found[each], wanted, rtol=1e-3, atol=5e-5, err_msg=each)
    assert result.num_steps == 4
    np.testing.assert_allclose(result.metrics["loss"], np.mean(losses), rtol=1e-4)


def test_parameters_are_named_as_in_the_module() -> None:
    backend, module = new_backend("resnet"), TRAINING_CASES["resnet"].new_module()
    named = {name for name in module.state_dict() if "num_batches" not in name}
    assert set(backend.parameters()) == named
    assert backend.statistics == {name for name in named if "running" in name}


def test_filled_batches_train_as_small_ones() -> None:
    examples = TRAINING_CASES["vit"].new_examples(3)
    training = LocalTraining(batch_size=MOST, learning_rate=0.1)
    found = []
    for least in (1, MOST):
        backend = new_backend("vit", least=least, most=MOST)
        result = backend.train(training, examples, 0)
        gradient = backend.input_gradient(examples, "pixels")
        found.append((backend.parameters(), result.metrics, gradient))
    (small, metrics, gradient), (filled, filled_metrics, filled_gradient) = found
    assert metrics["accuracy"] == filled_metrics["accuracy"]
    np.testing.assert_allclose(metrics["loss"], filled_metrics["loss"], rtol=1e-5)
    np.testing.assert_allclose(gradient, filled_gradient, **TOLERANCE)
    assert filled_gradient.shape == (3, 3, 16, 16)
    for name, array in small.items():
        np.testing.assert_allclose(filled[name], array, **TOLERANCE, err_msg=name)


def test_batch_normalisation_is_not_filled_up() -> None:
    backend = new_backend("resnet", least=MOST, most=MOST)
    examples = TRAINING_CASES["resnet"].new_examples(MOST + 1)
    with pytest.raises(CapabilityError, match="leave the batch open when compiling"):
        backend.train(LocalTraining(batch_size=MOST), examples, 0)
    # In evaluation examples do not see each other.
    assert backend.evaluate(examples).num_examples == MOST + 1


def test_tokens_that_do_not_count_have_no_part_in_the_loss() -> None:
    backend, examples = new_backend("gpt"), TRAINING_CASES["gpt"].new_examples(4)
    targets = examples.targets.copy()
    targets[:, 5:] = -100
    found = backend.evaluate(Examples(examples.inputs, targets)).metrics["loss"]
    with torch.no_grad():
        module = TRAINING_CASES["gpt"].new_module().eval()
        scores = module(torch.from_numpy(examples.inputs["ids"]))[:, :5]
        wanted = torch.nn.functional.cross_entropy(
            scores.reshape(-1, scores.shape[-1]), torch.from_numpy(targets[:, :5]).reshape(-1)
        )
    np.testing.assert_allclose(found, wanted.item(), rtol=1e-5)


def test_frozen_weights_are_no_parameters_and_stay() -> None:
    examples = TRAINING_CASES["vit"].new_examples()
    backend = CompiledBackend(compiled("vit"), Task(), frozen=("blocks.0.*", "positions"))
    names = set(backend.parameters())
    assert "positions" not in names
    assert not any(name.startswith("blocks.0.") for name in names)
    assert "blocks.1.attention.project.bias" in names
    module = TRAINING_CASES["vit"].new_module()
    backend.train(LocalTraining(batch_size=MOST, learning_rate=0.1), examples, 0)
    with torch.no_grad():
        for name, array in backend.parameters().items():
            module.get_parameter(name).copy_(torch.from_numpy(array))
        wanted = torch_loss(module.eval(), examples).item()
    np.testing.assert_allclose(backend.evaluate(examples).metrics["loss"], wanted, rtol=1e-5)


def test_dropout_is_drawn_by_the_seed_and_gone_in_evaluation() -> None:
    torch.manual_seed(0)
    module, case = Gpt(dropout=0.3).train(), TRAINING_CASES["gpt"]
    examples = case.new_examples()
    model = export(module, {"ids": torch.from_numpy(examples.inputs["ids"])}, is_training=True)
    artifact = hocket.compile(model, dims={"batch": MOST}).artifact
    losses = []
    for seed in (1, 1, 2):
        backend = CompiledBackend(artifact, case.task)
        losses.append(backend.train(LocalTraining(batch_size=MOST), examples, seed).metrics["loss"])
    with torch.no_grad():
        wanted = torch_loss(module.eval(), examples).item()
    found = CompiledBackend(artifact, case.task).evaluate(examples).metrics["loss"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert losses[0] == losses[1]
    assert len({*losses, found}) == 3


def _product(dtype: np.dtype[Any]) -> tuple[onnx.ModelProto, Any]:
    """Return a model that is one product with a weight, and that weight."""
    weight = np.random.default_rng(0).standard_normal((6, 3)).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(dtype)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", kind, (4, 6))],
        [helper.make_tensor_value_info("y", kind, (4, 3))],
        [numpy_helper.from_array(weight, "weight")],
    )
    opset = helper.make_opsetid("", 20)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10), weight


@pytest.mark.parametrize("element", ["float16", "float32", "float64"])
def test_models_of_all_floating_point_types_train(element: str) -> None:
    model, weight = _product(np.dtype(element))
    backend = CompiledBackend(hocket.compile(model).artifact, Task())
    x = np.random.default_rng(1).standard_normal((4, 6)).astype(element)
    examples = Examples({"x": x}, np.array([0, 1, 2, 1]))
    backend.train(LocalTraining(batch_size=4, learning_rate=1.0), examples, 0)
    leaf = torch.from_numpy(weight.astype(np.float64)).requires_grad_()
    scores = torch.from_numpy(x.astype(np.float64)) @ leaf
    torch.nn.functional.cross_entropy(scores, torch.from_numpy(examples.targets)).backward()
    found = backend.parameters()["weight"]
    assert found.dtype == weight.dtype
    # Some roundings of numbers of up to 4.
    atol = 10 * float(np.finfo(element).eps)
    np.testing.assert_allclose(found, leaf.detach() - leaf.grad, rtol=0, atol=atol)


def test_a_model_without_weights_is_not_trained() -> None:
    model, _ = _product(np.dtype(ml_dtypes.bfloat16))  # which host models hold themselves
    backend = CompiledBackend(hocket.compile(model).artifact, Task())
    examples = Examples({"x": np.ones((4, 6), ml_dtypes.bfloat16)}, np.zeros(4, np.int64))
    assert backend.evaluate(examples).num_examples == 4
    with pytest.raises(CapabilityError, match="no weights to train"):
        backend.train(LocalTraining(batch_size=4), examples, 0)


def test_one_backend_does_not_change_another_or_the_artifact() -> None:
    artifact = compiled("lenet")
    digest, examples = artifact.digest, TRAINING_CASES["lenet"].new_examples()
    one, other = CompiledBackend(artifact, Task()), CompiledBackend(artifact, Task())
    before = other.parameters()
    one.train(LocalTraining(batch_size=4, learning_rate=0.5), examples, 0)
    for name, array in other.parameters().items():
        np.testing.assert_array_equal(array, before[name])
        np.testing.assert_array_equal(artifact.weights[name], before[name])
    assert artifact.digest == digest


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": Task(output="nothing")}, "no output 'nothing'; it has .'logits'."),
        ({"task": Task(), "frozen": ("odd*",)}, "no weight is like 'odd[*]'"),
    ],
)
def test_settings_that_match_nothing_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CompiledBackend(compiled("lenet"), **settings)


def test_examples_that_do_not_fit_are_errors() -> None:
    backend, examples = new_backend("lenet"), TRAINING_CASES["lenet"].new_examples()
    training = LocalTraining(batch_size=4)
    pixels = examples.inputs["pixels"]
    with pytest.raises(ConfigError, match="no examples"):
        backend.train(training, examples.take(slice(0, 0)), 0)
    with pytest.raises(ConfigError, match="no examples"):
        backend.evaluate(examples.take(slice(0, 0)))
    with pytest.raises(ConfigError, match=r"targets must be 0 to 9, .* got 3 to 10"):
        backend.train(training, Examples({"pixels": pixels[:2]}, np.array([3, 10])), 0)
    with pytest.raises(ConfigError, match="batch_size must be at most 8, got 9"):
        backend.train(LocalTraining(batch_size=9), examples, 0)
    with pytest.raises(FeedError, match="pixels"):
        backend.evaluate(Examples({"pixels": pixels.astype(np.float64)}, examples.targets))
    with pytest.raises(FeedError, match="missing"):
        backend.evaluate(Examples({"images": pixels}, examples.targets))


def test_a_loss_that_is_not_finite_ends_training() -> None:
    backend, examples = new_backend("lenet"), TRAINING_CASES["lenet"].new_examples()
    pixels = np.full_like(examples.inputs["pixels"], np.nan)
    with pytest.raises(FederationError, match="loss is nan at step 0; lower the learning rate"):
        backend.train(
            LocalTraining(batch_size=4), Examples({"pixels": pixels}, examples.targets), 0
        )
