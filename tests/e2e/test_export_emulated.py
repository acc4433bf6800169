"""Exported libraries on other machines, which are emulated, and on this one, without Python.

``HOCKET_ALL_CPUS=1`` runs every form of attention on every CPU, which takes some minutes.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.attention_reference import attend, random_operands
from support.exports import (
    CASES,
    Runner,
    build,
    empty_output,
    make_runner,
    native_cpu,
    operands_by_name,
)
from support.kernel_strategies import make_parameters

from hocket.compiler.export.cpus import CPUS

SOME = ("plain", "few-rows")
MOST = (*SOME, "odd-sizes", "causal", "added-mask", "lengths", "float16")
CPUS_BY_CASES = {
    "native": MOST,
    "cortex-a53": SOME,
    "cortex-a76": MOST,
    "cortex-a7": SOME,
    "rv64gc": SOME,
    "rv64gcv": ("plain", "few-rows", "added-mask"),
    "spacemit-x60": SOME,
}
"""Every machine; of RISC-V vectors of two lengths, and none."""

if os.environ.get("HOCKET_ALL_CPUS") == "1":
    CPUS_BY_CASES = dict.fromkeys(("native", *CPUS), tuple(CASES))
    # This machine may lack what they need.
    CPUS_BY_CASES = {
        name: cases
        for name, cases in CPUS_BY_CASES.items()
        if name == "native" or CPUS[name].machine != "x86_64"
    }

RUNS = [(cpu, case) for cpu, cases in CPUS_BY_CASES.items() for case in cases]


@pytest.fixture(scope="module")
def runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    name: str = request.param
    cpu = native_cpu() if name == "native" else name
    folder: Path = tmp_path_factory.mktemp(name)
    build(folder, cpu, [make_parameters(**CASES[case]) for case in CPUS_BY_CASES[name]])
    return make_runner(folder, CPUS[cpu].machine)


@pytest.mark.parametrize(("runner", "case"), RUNS, indirect=["runner"])
def test_an_exported_attention_gives_the_right_numbers(
    request: pytest.FixtureRequest, runner: Runner, case: str
) -> None:
    cpu = request.node.callspec.params["runner"]
    number = CPUS_BY_CASES[cpu].index(case)
    parameters = make_parameters(**CASES[case])
    operands = random_operands(parameters, seed=number)
    expected = attend(parameters, operands)
    for workers in (1, 3):
        code, message, output = runner.run(
            number, operands_by_name(operands), empty_output(parameters), workers
        )
        assert (code, message) == (0, "done")
        expected.check(output)
