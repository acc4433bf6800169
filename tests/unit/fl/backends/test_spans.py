"""Models in pieces: what torch computes of the same pieces, their losses, gradients and steps."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from support.training_cases import MOST, TRAINING_CASES, compiled
from torch.nn import functional

from hocket.fl.backends.exits import ExitHead
from hocket.fl.backends.spans import CompiledSpans
from hocket.fl.core.backend import LocalTraining, Span
from hocket.fl.core.errors import CapabilityError, ConfigError
from hocket.fl.core.spans import Exit, Piece
from hocket.hwmodels.loader import load_target

MACHINE = load_target("mas-edge")
CLOSE = {"rtol": 2e-4, "atol": 2e-6}  # sums of some hundred float32 products in another order
CASES = ("resnet", "lenet", "vit")

BLOCKS = {
    "resnet": ("step0//MaxPool_output_0", "step0//blocks.0/Relu_1_output_0"),
    "vit": ("/Add_output_0", "/blocks.0/Add_1_output_0"),
}
"""Borders before and after the first block of a model."""


def new_spans(name: str, *exits: str) -> CompiledSpans:
    return CompiledSpans(compiled(name), exits)


def images(name: str, count: int = MOST) -> tuple[Any, Any]:
    examples = TRAINING_CASES[name].new_examples(count)
    return examples.inputs["pixels"], examples.targets


def module_of(name: str, spans: CompiledSpans) -> Any:
    """Return the torch module with a compiled model's numbers: exporting moves statistics."""
    module = TRAINING_CASES[name].new_module()
    state = {key: torch.from_numpy(array) for key, array in spans.parameters().items()}
    module.load_state_dict(state, strict=False)
    return module


class BlockWithExit(torch.nn.Module):
    """The first block of a model and an early exit, with a compiled exit's numbers."""

    def __init__(self, name: str, spans: CompiledSpans) -> None:
        super().__init__()
        self.block, self.is_image = module_of(name, spans).blocks[0], name == "resnet"
        parameters = spans.parameters()
        border = BLOCKS[name][1]
        self.weight = torch.nn.Parameter(torch.from_numpy(parameters[f"exit.{border}.weight"]))
        self.bias = torch.nn.Parameter(torch.from_numpy(parameters[f"exit.{border}.bias"]))

    def losses(self, value: torch.Tensor, targets: Any, convexity: float) -> torch.Tensor:
        value = self.block(value)
        mean = value.mean(dim=(2, 3)) if self.is_image else value.mean(dim=1)
        scores = functional.linear(mean, self.weight, self.bias)
        loss = functional.cross_entropy(scores, torch.from_numpy(targets), reduction="none")
        return loss + convexity / 2 * value.flatten(1).square().sum(dim=1)


@pytest.mark.parametrize("name", CASES)
def test_pieces_one_after_the_other_are_the_model(name: str) -> None:
    spans = new_spans(name)
    pixels, _ = images(name)
    whole = spans.features("", "", pixels)
    with torch.no_grad():
        wanted = module_of(name, spans).eval()(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(whole, wanted, **CLOSE)
    for border in spans.borders():
        value = spans.features("", border.name, pixels)
        assert value.shape == (len(pixels), *border.shape)
        np.testing.assert_array_equal(spans.features(border.name, "", value), whole)


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_is_on_one_side_of_a_border(name: str) -> None:
    spans = new_spans(name)
    names = frozenset(spans.parameters())
    for border in spans.borders():
        assert border.before | border.after == names
        assert not border.before & border.after
        assert spans.owned(Span("", border.name)) == border.before
        assert spans.owned(Span(border.name, "")) == border.after
    for one, other in itertools.pairwise(spans.borders()):
        assert one.before <= other.before


def test_a_border_has_no_way_around_it() -> None:
    names = [border.name for border in new_spans("resnet").borders()]
    assert not any("shortcut" in name or "blocks.0/first" in name for name in names)
    # Attention reads queries, keys and values, none of which is all there is.
    assert not any("attention" in border.name for border in new_spans("vit").borders())


@pytest.mark.parametrize("convexity", [0.0, 0.3])
@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_losses_and_gradients_of_a_piece_are_torchs(name: str, convexity: float) -> None:
    start, stop = BLOCKS[name]
    spans = new_spans(name, stop)
    pixels, targets = images(name)
    value = spans.features("", start, pixels)
    piece = Piece(start, (Exit(stop, convexity=convexity),))
    found, gradient = spans.gradient(piece, value, targets)
    module = BlockWithExit(name, spans).eval()
    leaf = torch.from_numpy(value.copy()).requires_grad_()
    losses = module.losses(leaf, targets, convexity)
    losses.sum().backward()
    np.testing.assert_allclose(found, losses.detach().numpy(), **CLOSE)
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), **CLOSE)
    np.testing.assert_allclose(spans.losses(piece, value, targets)[0], found, rtol=1e-6)


def test_pieces_are_not_trained_in_bfloat16() -> None:
    start, stop = BLOCKS["vit"]
    spans, settings = new_spans("vit", stop), LocalTraining(precision="bf16")
    with pytest.raises(CapabilityError, match="not trained in bf16"):
        spans.train_piece(Piece(start, (Exit(stop, convexity=0.01),)), settings, seed=0)


@pytest.mark.parametrize("keeps", [False, True], ids=["zeroed", "kept"])
@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_steps_of_a_piece_are_torchs_and_leave_all_else_alone(name: str, keeps: bool) -> None:
    start, stop = BLOCKS[name]
    spans = new_spans(name, stop, BLOCKS[name][0])
    before = spans.parameters()
    pixels, targets = images(name)
    value = spans.features("", start, pixels)
    piece = Piece(start, (Exit(stop, convexity=0.01),))
    module = BlockWithExit(name, spans).train()
    settings = LocalTraining(learning_rate=0.05, momentum=0.9, weight_decay=0.01)
    training = spans.train_piece(piece, settings, seed=0, keeps_exit_gradients=keeps)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    for _ in range(3):
        loss = module.losses(torch.from_numpy(value), targets, 0.01).mean()
        (module.block if keeps else module).zero_grad()
        loss.backward()
        optimizer.step()
        assert training.step(value, targets) == pytest.approx(loss.item(), rel=1e-4)
    after = spans.parameters()
    owned = spans.owned(piece.span)
    for key, array in module.block.state_dict().items():
        if "num_batches" not in key:
            np.testing.assert_allclose(
                after[f"blocks.0.{key}"], array.numpy(), rtol=2e-3, atol=2e-5
            )
            assert f"blocks.0.{key}" in owned
    np.testing.assert_allclose(
        after[f"exit.{stop}.weight"], module.weight.detach().numpy(), rtol=2e-3, atol=2e-5
    )
    changed = {key for key in after if not np.array_equal(after[key], before[key])}
    assert changed == owned


def test_two_exits_count_by_their_weights() -> None:
    first, second = BLOCKS["vit"]
    spans = new_spans("vit", first, second)
    pixels, targets = images("vit")
    one, two = (spans.gradient(Piece("", (Exit(b),)), pixels, targets) for b in (first, second))
    both = spans.gradient(Piece("", (Exit(first, 0.3), Exit(second, 0.7))), pixels, targets)
    for place in range(2):
        wanted = 0.3 * one[place] + 0.7 * two[place]
        np.testing.assert_allclose(both[place], wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_pulled_back_as_torch_does_it(name: str) -> None:
    spans = new_spans(name)
    pixels, _ = images(name)
    given = torch.from_numpy(pixels).requires_grad_()
    scores = module_of(name, spans).eval()(given)
    slope = np.random.default_rng(0).standard_normal(scores.shape).astype(np.float32)
    (wanted,) = torch.autograd.grad([scores], [given], [torch.from_numpy(slope)])
    np.testing.assert_allclose(spans.pull_back("", "", pixels, slope), wanted.numpy(), **CLOSE)
    for border in spans.borders():
        value = spans.features("", border.name, pixels)
        inner = spans.pull_back(border.name, "", value, slope)
        found = spans.pull_back("", border.name, pixels, inner)
        np.testing.assert_allclose(found, wanted.numpy(), **CLOSE)


def test_displacement_is_a_squared_distance_and_its_gradient() -> None:
    spans, (start, stop) = new_spans("vit"), BLOCKS["vit"]
    pixels, _ = images("vit", 3)
    value = spans.features("", start, pixels)
    origin = spans.features(start, stop, value)
    moved = value + np.random.default_rng(0).normal(0, 0.1, value.shape).astype(np.float32)
    distances, gradient = spans.displacement(start, stop, moved, origin)
    leaf = torch.from_numpy(moved.copy()).requires_grad_()
    wanted = (
        (module_of("vit", spans).blocks[0].eval()(leaf) - torch.from_numpy(origin))
        .square()
        .sum(dim=(1, 2))
    )
    wanted.sum().backward()
    np.testing.assert_allclose(distances, wanted.detach().numpy(), rtol=1e-4)
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-3, atol=1e-5)


def test_an_artifact_of_one_batch_size_is_cut_too() -> None:
    fixed, open_ = CompiledSpans(compiled("vit", least=MOST, most=MOST)), new_spans("vit")
    assert [each.shape for each in fixed.borders()] == [each.shape for each in open_.borders()]
    pixels, targets = images("vit", 3)
    for one, other in zip(
        fixed.gradient(Piece(), pixels, targets), open_.gradient(Piece(), pixels, targets),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_allclose(one, other, **CLOSE)


def test_early_exits_are_evaluated_and_saved_like_other_parameters() -> None:
    border = BLOCKS["vit"][1]
    spans, other = new_spans("vit", border), new_spans("vit", border)
    changed = {name: array + 0.01 for name, array in spans.parameters().items()}
    spans.load_parameters(changed)
    assert np.array_equal(spans.parameters()[f"exit.{border}.bias"], changed[f"exit.{border}.bias"])
    examples = TRAINING_CASES["vit"].new_examples()
    other.load_parameters(copy.deepcopy(changed))
    assert spans.evaluate(examples) == other.evaluate(examples)


@pytest.mark.parametrize(("features", "side"), [(1, 1), (2, 2), (8, 3), (100, 4)])
def test_an_exit_reads_as_much_of_an_image_as_it_is_told_to(features: int, side: int) -> None:
    head = ExitHead("border", (7, 4, 5), 5, features)
    arrays = {name: torch.from_numpy(array) for name, array in head.start(np.dtype("f4")).items()}
    wide = 5 if features == 100 else side  # all of the image, and no more
    assert arrays[head.weight].shape == (5, 7 * side * wide)
    value = torch.rand(3, 7, 4, 5)
    found = head.scores(value, arrays[head.weight], arrays[head.bias])
    means = functional.adaptive_avg_pool2d(value, (side, wide)).reshape(3, -1)
    wanted = means @ arrays[head.weight].T + arrays[head.bias]
    torch.testing.assert_close(found, wanted)


def test_an_exit_adds_its_head_to_a_footprint() -> None:
    start, stop = BLOCKS["resnet"]
    spans, training = new_spans("resnet", stop), LocalTraining(batch_size=4, momentum=0.9)
    bare = spans.footprint(MACHINE, training, Span(start, stop))
    found = spans.footprint(MACHINE, training, Span(start, stop, (stop,), is_attacked=True))
    head = sum(array.nbytes for name, array in spans.parameters().items() if "exit" in name)
    assert found.weight_bytes - bare.weight_bytes == head
    assert found.gradient_bytes - bare.gradient_bytes == head
    assert found.optimizer_bytes - bare.optimizer_bytes == head
    assert found.peak_bytes > bare.peak_bytes


def test_models_that_cannot_be_cut_are_refused() -> None:
    with pytest.raises(CapabilityError, match="want a model of one floating-point input"):
        CompiledSpans(compiled("gpt"), task=TRAINING_CASES["gpt"].task)
    with pytest.raises(ConfigError, match="the model has no border 'nowhere'"):
        new_spans("vit", "nowhere")
