"""Attacks on a model's input through frozen modules, of which one at a time is in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from support.digits import (
    EXIT_FEATURES,
    MACHINE,
    TRAINING,
    DigitNet,
    all_digits,
    digit_artifact,
    planner,
)
from torch.nn import functional

from hocket.fl.backends.spans import CompiledSpans
from hocket.fl.core.data import Examples
from hocket.fl.core.errors import BudgetError
from hocket.fl.fat.attack import Attack, Linf
from hocket.fl.fat.evaluation import accuracy_under, attack_piece
from hocket.fl.fat.frozen import FrozenModules, peak_at_input
from hocket.fl.fat.partition import Cascade, CascadeModule, atoms_of

if TYPE_CHECKING:
    from hocket.fl.core.backend import Footprint, Span
    from hocket.fl.core.spans import Piece

COUNT = 32
CLOSE = {"rtol": 2e-4, "atol": 2e-6}


def three_modules() -> tuple[CompiledSpans, Cascade]:
    """Return the model cut wherever it can be, each part a module."""
    bare = planner()
    stops = [*(atom.name for atom in atoms_of(bare.borders(), bare.parameters())), ""]
    spans = CompiledSpans(digit_artifact(), stops[:-1], exit_features=EXIT_FEATURES)
    starts = ["", *stops[:-1]]
    modules = [
        CascadeModule(number, start, stop, frozenset({f"p{number}"}))
        for number, (start, stop) in enumerate(zip(starts, stops, strict=True))
    ]
    return spans, Cascade(tuple(modules))


def examples() -> tuple[Any, Any]:
    images, targets = all_digits()
    return images[:COUNT], targets[:COUNT]


def torch_gradient(spans: CompiledSpans, images: Any, targets: Any) -> Any:
    """Return what torch says of the whole model, in evaluation."""
    module = DigitNet().eval()
    state = {key: torch.from_numpy(array) for key, array in spans.parameters().items()}
    module.load_state_dict(state, strict=False)
    wanted = torch.from_numpy(images).requires_grad_()
    loss = functional.cross_entropy(module(wanted), torch.from_numpy(targets), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, [wanted])
    return gradient.numpy()


def test_gradients_through_frozen_modules_are_torchs_of_the_whole_model() -> None:
    spans, cascade = three_modules()
    images, targets = examples()
    frozen, last = FrozenModules(spans, cascade.modules[:-1]), cascade.piece(2, 2)
    losses, gradient = frozen.gradient(last, images, targets)
    np.testing.assert_allclose(gradient, torch_gradient(spans, images, targets), **CLOSE)
    np.testing.assert_allclose(losses, frozen.losses(last, images, targets)[0], **CLOSE)


def test_an_attack_through_frozen_modules_is_that_on_the_whole_model() -> None:
    """Of each module's own piece too: the same start, so the same points, within a sign's flip."""
    spans, cascade = three_modules()
    images, targets = examples()
    attack, ball = Attack(3, keep="last"), Linf(0.1)
    for number in range(3):
        piece = cascade.piece(number, number)
        frozen = FrozenModules(spans, cascade.modules[:number])
        whole = FrozenModules(spans, ())
        moved = attack_piece(frozen, piece, attack, ball, images, targets, np.random.default_rng(1))
        direct = attack_piece(
            whole, _from_input(piece), attack, ball, images, targets, np.random.default_rng(1)
        )
        assert np.abs(moved - images).max() <= 0.1 + 1e-6
        assert np.mean(np.abs(moved - direct) > 1e-5) < 0.01


def _from_input(piece: Piece) -> Piece:
    return type(piece)("", piece.exits)


def test_as_many_examples_at_a_time_are_taken_as_fit() -> None:
    spans, cascade = three_modules()
    images, targets = examples()
    modules, piece = cascade.modules[:-1], cascade.piece(2, 2)
    wanted = FrozenModules(spans, modules).gradient(piece, images, targets)[1]
    frozen = FrozenModules(spans, modules)
    free = spans.meter(piece, COUNT, 0, frozen.spans)
    with free:
        frozen.gradient(piece, images, targets)
    limit = int(0.4 * free.peak_bytes)
    frozen = FrozenModules(spans, modules)
    with spans.meter(piece, COUNT, limit, frozen.spans) as meter:
        for _ in range(2):  # found at first, and held to afterwards
            _, gradient = frozen.gradient(piece, images, targets)
    assert meter.peak_bytes <= limit
    np.testing.assert_allclose(gradient, wanted, **CLOSE)
    # No longer counted, and still in parts.
    sizes: list[int] = []
    original = spans.pull_back
    spans.pull_back = lambda a, b, x, g: sizes.append(len(x)) or original(a, b, x, g)  # type: ignore[method-assign]
    frozen.gradient(piece, images, targets)
    assert max(sizes) < COUNT
    assert sum(sizes) == 2 * COUNT


def test_what_does_not_fit_example_by_example_is_refused() -> None:
    spans, cascade = three_modules()
    images, targets = examples()
    frozen, piece = FrozenModules(spans, cascade.modules[:-1]), cascade.piece(2, 2)
    limit = spans.meter(piece, COUNT).live_bytes + 100
    with pytest.raises(BudgetError), spans.meter(piece, COUNT, limit, frozen.spans):
        frozen.gradient(piece, images, targets)


def test_peaks_are_predicted() -> None:
    """Of an attack and a step that are counted as they run, with a budget and without one."""
    spans, cascade = three_modules()
    images, targets = examples()
    modules, piece = cascade.modules[:-1], cascade.piece(2, 2)
    borders = spans.borders()

    def footprint(span: Span, count: int) -> Footprint:
        return spans.footprint(MACHINE, replace(TRAINING, batch_size=count), span)

    whole = peak_at_input(borders, footprint, modules, piece, COUNT)
    for budget in (0, int(0.6 * whole)):
        predicted = peak_at_input(borders, footprint, modules, piece, COUNT, budget)
        assert predicted <= (budget or whole)
        frozen, attack = FrozenModules(spans, modules), Attack(2, keep="last")
        steps, generator = spans.train_piece(piece, TRAINING, 0), np.random.default_rng(0)
        with spans.meter(piece, COUNT, budget, frozen.spans) as meter:
            for _ in range(2):
                moved = attack_piece(frozen, piece, attack, Linf(0.1), images, targets, generator)
                steps.step(frozen.features(moved), targets)
        assert meter.peak_bytes <= (budget or 1.02 * predicted)
        assert meter.peak_bytes > 0.85 * predicted


def test_accuracies_through_frozen_modules_are_the_models() -> None:
    spans, cascade = three_modules()
    images, targets = all_digits()
    held = Examples({"pixels": images[:100]}, targets[:100])
    frozen = FrozenModules(spans, cascade.modules[:-1])
    through = accuracy_under(frozen, held, Linf(0.1), Attack(2), 0, start=cascade.piece(2, 2).start)
    whole = accuracy_under(spans, held, Linf(0.1), Attack(2), 0)
    assert through.clean == whole.clean
    assert abs(through.attacked - whole.attacked) <= 0.02
