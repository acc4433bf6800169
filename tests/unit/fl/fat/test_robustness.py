"""What a model withstands: our attack beside a library's, and checks that see through masks."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import foolbox
import numpy as np
import pytest
import torch
from support.digits import (
    DigitClients,
    Digits,
    digit_artifact,
    digit_cascade,
    robust_parameters,
    robust_spans,
)

from hocket.fl.backends.spans import CompiledSpans
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.spans import Exit, Piece
from hocket.fl.fat.attack import Attack, Linf
from hocket.fl.fat.evaluation import (
    ClientRobustness,
    Robustness,
    accuracy_of_clients,
    accuracy_under,
    survivors,
)
from hocket.fl.fat.libraries import auto_attack, decision_attack
from hocket.fl.fat.robustness import Evaluation, RobustnessReport, evaluate_robustness

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hocket.fl.core.data import Examples

RADIUS = 0.15


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Model(torch.nn.Module):
    """The compiled model as foolbox takes models, without its own gradients of parameters."""

    def __init__(self, spans: CompiledSpans) -> None:
        super().__init__()
        self.spans = spans

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.spans.scores(inputs)


class Masked(CompiledSpans):
    """A model whose gradients say nothing, as defences that only hide them have."""

    def gradient(self, piece: Piece, inputs: Any, targets: Any) -> tuple[Any, Any]:
        losses, gradient = super().gradient(piece, inputs, targets)
        return losses, np.zeros_like(gradient)


def examples(count: int = 200) -> Examples:
    return Digits().held_out().take(slice(0, count))


def pixels(count: int = 200) -> tuple[Any, Any]:
    found = examples(count)
    return found.inputs["pixels"], found.targets


@functools.cache
def evaluated(masked: bool = False) -> RobustnessReport:
    spans = Masked(digit_artifact()) if masked else CompiledSpans(digit_artifact())
    spans.load_parameters(robust_parameters())
    how = Evaluation(RADIUS, ("pgd-20", "pgd-100", "square", "sweep"), restarts=1, queries=300)
    return evaluate_robustness(spans, spans.scores, examples(64), how, 0)


def test_our_attack_is_as_strong_as_a_library_s() -> None:
    spans, (inputs, targets) = robust_spans(), pixels(128)
    model = foolbox.PyTorchModel(Model(spans).eval(), bounds=(0, 1), device="cpu")
    for radius in (0.1, 0.2):
        attack = foolbox.attacks.LinfPGD(steps=20, rel_stepsize=2.5 / 20)
        torch.manual_seed(0)
        _, _, is_wrong = attack(
            model, torch.from_numpy(inputs), torch.from_numpy(targets), epsilons=radius
        )
        theirs = 1 - float(is_wrong.float().mean())
        ours = accuracy_under(spans, examples(128), Linf(radius), Attack(20), 0)
        assert abs(ours.attacked - theirs) <= 0.03
        assert theirs < ours.clean


def test_scores_have_the_gradients_that_attacks_of_ours_see() -> None:
    spans, (inputs, targets) = robust_spans(), pixels(100)  # more than the artifact takes at once
    wanted = torch.from_numpy(inputs).requires_grad_()
    scores = spans.scores(wanted)
    loss = torch.nn.functional.cross_entropy(scores, torch.from_numpy(targets), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, [wanted])
    for start in (0, 50):
        part = slice(start, start + 50)
        _, like = spans.gradient(Piece(), inputs[part], targets[part])
        np.testing.assert_allclose(gradient[part].numpy(), like, rtol=1e-4, atol=1e-5)
    assert all(tensor.grad is None for tensor in spans._tensors.values())


def test_auto_attack_breaks_all_that_gradients_break_and_more() -> None:
    spans, (inputs, targets) = robust_spans(), pixels(24)
    alive = survivors(spans, examples(24), Linf(RADIUS), Attack(20, restarts=2), 0)
    found = auto_attack(
        spans.scores, inputs, targets, RADIUS, 0, attacks=("apgd-ce", "apgd-t"), batch_size=24
    )
    assert list(found.accuracies) == ["apgd-ce", "apgd-t"]
    assert found.accuracies["apgd-t"] <= found.accuracies["apgd-ce"] < alive.clean.mean()
    assert found.is_robust.mean() == found.accuracies["apgd-t"]
    assert found.is_robust.sum() <= alive.attacked.sum() + 1
    assert found.flags == ()


def test_auto_attack_s_doubts_are_reported() -> None:
    spans, (inputs, targets) = robust_spans(), pixels(16)

    def noisy(points: torch.Tensor) -> torch.Tensor:
        scores = spans.scores(points)
        return scores + 0.1 * torch.randn_like(scores)

    def flat(points: torch.Tensor) -> torch.Tensor:
        return spans.scores(points.detach()) + 0 * points.flatten(1).sum(dim=1, keepdim=True)

    found = auto_attack(noisy, inputs, targets, RADIUS, 0, attacks=("square",), queries=5)
    assert any("randomized" in flag for flag in found.flags)
    found = auto_attack(
        flat, inputs, targets, 0.3, 0, attacks=("apgd-t", "square"), queries=200, batch_size=16
    )
    assert any("zero gradient" in flag for flag in found.flags)
    assert any("Square" in flag for flag in found.flags)


def test_classes_alone_break_less_than_gradients_and_nothing_beyond_the_ball() -> None:
    spans, (inputs, targets) = robust_spans(), pixels(24)
    others = pixels()[0]
    seen = {
        radius: decision_attack(spans.scores, inputs, targets, others, radius, 0, steps=8)
        for radius in (0.01, 0.25)
    }
    alive = survivors(spans, examples(24), Linf(0.25), Attack(40, restarts=2), 0)
    assert alive.attacked.sum() <= seen[0.25].sum() < alive.clean.sum()
    np.testing.assert_array_equal(seen[0.01], alive.clean)


def test_a_model_that_says_one_class_leaves_no_place_to_begin() -> None:
    inputs, targets = pixels(24)

    def constant(points: torch.Tensor) -> torch.Tensor:
        return torch.eye(10)[3].expand(len(points), 10)

    found = decision_attack(constant, inputs, targets, inputs, 1.0, 0, steps=2)
    np.testing.assert_array_equal(found, targets == 3)


def test_an_honest_model_passes_the_checks() -> None:
    found = evaluated()
    assert found.clean > 0.85
    assert 0.1 < found.accuracies["pgd-20"] < found.clean
    assert found.worst <= min(found.accuracies.values())
    assert all(check.is_passed for check in found.checks), found.checks
    assert min(found.sweep.values()) <= 0.01


def test_masked_gradients_are_seen_through() -> None:
    found, honest = evaluated(masked=True), evaluated()
    assert found.accuracies["pgd-20"] > honest.accuracies["pgd-20"] + 0.1
    failed = {check.name for check in found.checks if not check.is_passed}
    assert "no gradients break no more than gradients" in failed
    assert "nothing is left in the largest ball" in failed
    assert "there are gradients" in failed


def test_early_exits_are_attacked_and_the_final_head_is_judged() -> None:
    cascade = digit_cascade(0.93)
    spans = DigitClients(cascade).spans()
    spans.load_parameters({**spans.parameters(), **robust_parameters()})
    (border,) = cascade.exits
    ball, attack = Linf(RADIUS), Attack(10)
    found = survivors(spans, examples(), ball, attack, 0, exits=(Exit(border),), judged=Exit())
    final = survivors(spans, examples(), ball, attack, 0)
    np.testing.assert_array_equal(found.clean, final.clean)
    # An exit that nothing was trained for knows less of how to break the final head.
    assert final.attacked.sum() < found.attacked.sum() < final.clean.sum()
    how = Evaluation(RADIUS, ("pgd-20", "exits"), restarts=1)
    report = evaluate_robustness(spans, spans.scores, examples(64), how, 0, exits=cascade.exits)
    assert list(report.accuracies) == ["pgd-20", "exits"]
    names = [check.name for check in report.checks]
    assert "early exits' gradients break no more than the final head's" in names


def test_devices_have_figures_of_their_own() -> None:
    found = accuracy_of_clients(robust_spans(), Digits(), Linf(RADIUS), Attack(3), 0)
    for name in Digits().device_ids():
        like = accuracy_under(robust_spans(), Digits().held_out(name), Linf(RADIUS), Attack(3), 0)
        assert found.devices[name] == like
    made = ClientRobustness(
        {f"{number}": Robustness(number / 100, number / 200, 10) for number in range(25)}
    )
    assert made.mean("clean") == pytest.approx(0.12)
    assert made.worst_decile("clean") == pytest.approx(0.005)  # of the two lowest
    assert made.worst_decile("attacked") == pytest.approx(0.0025)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attacks": ("magic",)}, "no attack 'magic'"),
        ({"radius": 0.0}, "radius must be"),
        ({"tolerance": 1.0}, "tolerance must be"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Evaluation(**{"radius": 0.1, **changes})
