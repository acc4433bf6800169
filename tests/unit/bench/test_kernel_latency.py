from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from kernel_latency import read_problem
from kernels import worker
from kernels.cases import NOTATION, Case, ProblemError, make_problem, parse_problem, shrink
from kernels.kinds import KINDS, LIBRARIES, OUR_LIBRARY
from kernels.operands import Operands, attend, differentiate
from kernels.rows import Measured, make_rows, make_table
from kernels.turns import take_turns

BENCH = Path(__file__).parents[3] / "bench" / "kernel_latency.py"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("12,512,256,64", "dense"),
        ("12,512,512,64,causal", "causal"),
        ("12,512,512,64,mask", "mask"),
        ("12,512,512,64,causal,mask", "mask"),
        ("12,512,512,64,exported", "exported"),
        ("32,512,512,128,kv_heads=8,causal", "gqa"),
        ("32,1,4096,128,kv_heads=8", "decode"),
        ("12,512,512,64,causal,bf16", "bf16"),
        ("12,512,512,64,causal,backward", "backward"),
    ],
)
def test_a_problem_is_read_and_written_alike(text: str, kind: str) -> None:
    case = parse_problem(text)
    assert (case.text, case.kind) == (text, kind)


def test_sizes_are_read_in_their_order() -> None:
    problem = parse_problem(" 6, 7, 9, 16 , kv_heads=3 ").problem
    assert (problem.query_heads, problem.kv_heads) == (6, 3)
    assert (problem.query_length, problem.kv_length) == (7, 9)
    assert (problem.head_dim, problem.value_dim) == (16, 16)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("12,512", r"lacks kv_len, head_dim; write heads,q_len"),
        ("", r"heads must be a whole number from 1, got ''"),
        ("12,512,x,64", r"kv_len must be a whole number from 1, got 'x'"),
        ("12,512,0,64", r"kv_len must be a whole number from 1, got '0'"),
        ("12,512,512,64,casual", r"unknown part 'casual'; known: kv_heads=K, causal"),
        ("12,512,512,64,kv_heads=", r"kv_heads must be a whole number from 1, got ''"),
        ("12,512,512,64,kv_heads=5", r"kv_heads must divide heads, and 5 does not divide 12"),
        ("12,1,512,64,causal", r"sees only the first key .* leave causal out"),
        ("12,512,512,64,bf16,backward", r"backward is not timed with bf16; leave one of them out"),
        ("12,512,512,64,kv_heads=4,bf16", r"bf16 is not timed with fewer heads .* leave kv_heads"),
        ("12,512,512,4096", r"the kernels do not serve it: head_dim must be at most 1024"),
    ],
)
def test_a_bad_problem_names_the_part_and_the_mend(text: str, message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        read_problem(text)


def test_a_bad_problem_ends_the_bench_with_a_message() -> None:
    ended = subprocess.run(
        [sys.executable, str(BENCH), "--problem", "12,512"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert f"lacks kv_len, head_dim; write {NOTATION}" in ended.stderr


@pytest.mark.parametrize("is_quick", [True, False])
def test_every_kind_has_cases_of_its_own_name(is_quick: bool) -> None:
    for name, kind in KINDS.items():
        cases = kind.make_cases(is_quick)
        assert cases
        assert {case.kind for case in cases} == {name}
        assert all(peer.library in (*LIBRARIES, OUR_LIBRARY) for peer in kind.peers)
        # A worker gets them by their text.
        assert [parse_problem(case.text).problem for case in cases] == [
            case.problem for case in cases
        ]


def test_a_library_that_is_not_installed_takes_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "is_installed", lambda _library: False)
    request = {"cases": [], "threads": 1, "libraries": LIBRARIES, "is_quick": True}
    assert list(worker.describe(request)) == []


def test_all_peers_have_names_of_their_own() -> None:
    for kind in KINDS.values():
        names = [peer.name for peer in kind.peers]
        assert len(set(names)) == len(names)


def test_the_reference_is_attention() -> None:
    operands = Operands(parse_problem("2,5,7,4,kv_heads=1,mask"))
    assert operands.mask is not None
    scores = operands.query[0, 1] @ operands.key[0, 0].T / 2 + operands.mask[0, 0]
    weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    found = attend(operands)
    np.testing.assert_allclose(found.output[0, 1], weights @ operands.value[0, 0], atol=1e-6)
    assert found.error(found.output.astype(np.float32)) < 1e-6
    assert found.error(np.full((1, 2, 5, 4), np.nan, np.float32)) == np.inf


def test_causal_rows_of_the_reference_see_no_later_key() -> None:
    operands = Operands(parse_problem("1,4,4,8,causal"))
    np.testing.assert_allclose(attend(operands).output[0, 0, 0], operands.value[0, 0, 0])


@pytest.mark.parametrize("flags", ["", ",causal"])
def test_the_reference_of_gradients_is_that_of_torch(flags: str) -> None:
    torch = pytest.importorskip("torch")
    operands = Operands(parse_problem(f"2,5,5,4{flags},backward"))
    inputs = [
        torch.from_numpy(array.astype(np.float64)).requires_grad_()
        for array in (operands.query, operands.key, operands.value)
    ]
    output = torch.nn.functional.scaled_dot_product_attention(*inputs, is_causal=bool(flags))
    output.backward(torch.from_numpy(operands.output_gradient.astype(np.float64)))
    found = np.concatenate([array.grad.numpy() for array in inputs], axis=2)
    assert differentiate(operands).error(found) < 1e-12


def test_operands_in_bfloat16_are_numbers_that_it_has() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    operands = Operands(parse_problem("2,5,7,4,bf16"))
    for array, bits in zip(
        (operands.query, operands.key, operands.value), operands.upper_halves, strict=True
    ):
        np.testing.assert_array_equal(bits.view(ml_dtypes.bfloat16).astype(np.float32), array)


def test_a_shrunk_case_is_of_the_same_kind() -> None:
    case = shrink(parse_problem("8,512,512,64,kv_heads=2,mask"))
    assert case.text == "8,32,32,64,kv_heads=2,mask"


def test_turns_time_everybody_and_leave_out_the_hopeless() -> None:
    calls = {"fast": 0, "slow": 0}

    def fast() -> None:
        calls["fast"] += 1

    def slow() -> None:
        calls["slow"] += 1
        sum(range(200_000))

    timings = take_turns({"fast": fast, "slow": slow}, 1, seconds=0.1)
    assert timings["fast"].best_seconds < timings["slow"].best_seconds
    assert timings["slow"].median_seconds > 0
    assert calls["slow"] < calls["fast"]


def answer(ours: float, **peers: float) -> dict[str, object]:
    seconds = {"ours": ours, **peers}
    return {
        "seconds": seconds,
        "medians": {name: 2 * value for name, value in seconds.items()},
        "reasons": {"none": "there is none"},
        "extra_bytes": 1024,
        "flops_per_second": 1e9,
        "bytes_per_second": 1e10,
    }


def measured(case: Case) -> Measured:
    found = Measured(case, 1)
    found.add(answer(0.002, quick=0.003, slow=0.02), "")
    # Ours was slowed down by half there, so the peer counts as that much faster.
    found.add(answer(0.003, quick=0.0033), " forced")
    return found


def test_a_ratio_is_to_ours_in_the_same_process() -> None:
    row = make_rows([measured(parse_problem("2,8,8,16"))])[0]
    assert row["ours_ms"] == pytest.approx(2.0)
    assert row["peers"]["quick forced"] == pytest.approx(3.3)
    assert row["best_peer"] == "quick forced"
    assert row["ratio"] == pytest.approx(1.1)
    assert row["percent_of_bandwidth"] is None
    assert row["percent_of_peak"] == pytest.approx(100 * 4 * 2 * 8 * 8 * 16 / 0.002 / 1e9)
    assert row["extra_bytes"] == 1024
    json.dumps(row)


def test_a_decode_step_has_its_share_of_bandwidth() -> None:
    row = make_rows([measured(parse_problem("2,1,64,16,kv_heads=1"))])[0]
    assert row["kind"] == "decode"
    assert row["percent_of_bandwidth"] == pytest.approx(100 * 2 * 64 * 16 * 4 / 0.002 / 1e10)


def test_the_table_marks_the_best_peer_and_says_who_is_missing() -> None:
    rows = make_rows([measured(parse_problem("2,8,8,16"))])
    shown, formats, notes = make_table(rows)
    assert shown[0]["quick forced"] == "*3.30"
    assert shown[0]["quick"] == "3.00"
    assert "slow" not in formats
    assert set(formats) == set(shown[0])
    assert any("slow: 9.1 to 9.1 times the best peer's time" in note for note in notes)
    assert "no none: there is none" in notes


def test_what_failed_makes_no_row() -> None:
    found = Measured(Case("dense", "", make_problem(2, 2, (8, 8), 16)), 1)
    found.add({"failure": "ended with status -9"}, "")
    assert make_rows([found]) == []
    assert found.failure == "ended with status -9"


def test_a_tiny_comparison_with_onnxruntime_alone(tmp_path: Path) -> None:
    result, drawing = tmp_path / "result.json", tmp_path / "ratios.png"
    problems = ("2,32,32,16,causal", "2,1,64,16,kv_heads=1", "2,32,32,16,mask,exported")
    command = [sys.executable, str(BENCH), "--quick", "--threads", "1", "--peers", "onnxruntime"]
    for problem in problems:
        command += ["--problem", problem]
    ended = subprocess.run(
        [*command, "--json", str(result), "--plot", str(drawing)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert drawing.stat().st_size > 1000
    rows = json.loads(result.read_text(encoding="utf-8"))["rows"]
    assert [row["problem"] for row in rows] == list(problems)
    assert [row["kind"] for row in rows] == ["causal", "decode", "exported"]
    for row in rows:
        assert row["threads"] == 1
        assert row["ours_ms"] > 0
        assert row["extra_bytes"] > 0
        assert row["percent_of_peak"] > 0
        assert row["best_peer"] in row["peers"]
        assert row["ratio"] == pytest.approx(
            min(value / row["ours_ms"] for value in row["peers"].values())
        )
        assert set(row["peer_extra_bytes"]) == set(row["peers"])
    assert set(rows[0]["peers"]) == {
        "ORT Attention",
        "ORT MHA",
        "ORT GQA",
        "ORT decomposed",
    }
    assert "heads of key" in rows[1]["reasons"]["ORT MHA"]
