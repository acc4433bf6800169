"""``hocket photon plan``: what it says, and what it refuses."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from hocket.cli import app
from hocket.fl.photon.plan import PUBLISHED_7B, assumed
from hocket.fl.photon.sizes import SIZES

PAPER = ("photon", "plan", "--model", "7B", "--clients", "4", "--bandwidth", "10Gbps")


def ask(*arguments: str, exit_code: int = 0) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == exit_code, result.output
    return result.output


def test_it_says_the_papers_hours() -> None:
    text = ask(*PAPER)
    for figure in ("147.9", "97.2", "95.6", "0.1", "21.7 Gbps"):
        assert figure in text


def test_json_has_the_same() -> None:
    answer = json.loads(ask(*PAPER, "--json"))
    assert answer["synchronous_seconds"] / 3600 == pytest.approx(147.9, abs=0.1)
    assert answer["federated_seconds"] / 3600 == pytest.approx(95.6, abs=0.1)
    assert answer["break_even_bits_per_second"] == pytest.approx(21.7e9, rel=2e-3)
    assert answer["client_bytes"] == pytest.approx((16 + 2) * 6.657e9, rel=1e-3)


def test_what_is_not_given_is_as_in_the_papers_run() -> None:
    """The machines that its throughput says it had make that throughput again."""
    found = assumed(SIZES["7B"], 4, num_tokens=PUBLISHED_7B.steps * 1_024 * 2_048)
    assert found.steps == pytest.approx(PUBLISHED_7B.steps)
    assert found.steps_per_second == pytest.approx(PUBLISHED_7B.steps_per_second)
    hours = found.local_steps / found.local_steps_per_second / 3600
    assert hours == pytest.approx(95.5, abs=0.1)


def test_faster_machines_make_links_matter_more() -> None:
    other = ("photon", "plan", "-m", "125M", "--clients", "8", "--bandwidth", "100Mbps", "--json")
    slow, fast = (json.loads(ask(*other, "--tflops", each)) for each in ("10", "1000"))
    assert slow["federated_compute"] == pytest.approx(100 * fast["federated_compute"])
    assert slow["federated_communication"] == fast["federated_communication"]
    assert slow["break_even_bits_per_second"] < fast["break_even_bits_per_second"]


@pytest.mark.parametrize(
    "wrong",
    [
        ("--model", "8B"),
        ("--bandwidth", "fast"),
        ("--topology", "star"),
        ("--scheme", "int2"),
        ("--tflops", "0"),
    ],
    ids=lambda wrong: wrong[0][2:],
)
def test_what_it_does_not_know_is_refused(wrong: tuple[str, str]) -> None:
    ask(*PAPER, *wrong, exit_code=2)
