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
    build,
    empty_output,
    make_runner,
    native_cpu,
    operands_by_name,
    start_command,
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


@pytest.mark.parametrize("name", CPUS_BY_CASES)
def test_exported_attention_gives_the_right_numbers(name: str, tmp_path: Path) -> None:
    cpu = native_cpu() if name == "native" else name
    start_command(CPUS[cpu].machine)  # skips, before the work
    all_parameters = [make_parameters(**CASES[case]) for case in CPUS_BY_CASES[name]]
    build(tmp_path, cpu, all_parameters)
    runner = make_runner(tmp_path, CPUS[cpu].machine)
    for number, parameters in enumerate(all_parameters):
        operands = random_operands(parameters, seed=number)
        expected = attend(parameters, operands)
        for workers in (1, 3):
            code, message, output = runner.run(
                number, operands_by_name(operands), empty_output(parameters), workers
            )
            assert (code, message) == (0, "done")
            expected.check(output)


@pytest.mark.parametrize(
    ("name", "emulated", "lacking"),
    [
        ("x86-64-v3", "Nehalem", "avx"),
        ("cortex-a76", "cortex-a53", "atomics"),
        ("rv64gcv", "rv64,v=false", "v"),
        ("spacemit-x60", "rv64,v=true,vext_spec=v1.0,vlen=128", "vlen256"),
    ],
)
def test_a_cpu_that_lacks_a_feature_is_told_so(
    name: str, emulated: str, lacking: str, tmp_path: Path
) -> None:
    machine = CPUS[name].machine
    start_command(machine, emulated)  # skips, before the work
    parameters = make_parameters()
    build(tmp_path, name, [parameters])
    runner = make_runner(tmp_path, machine, emulated)
    arrays = operands_by_name(random_operands(parameters, 0))
    code, message, _ = runner.run(0, arrays, empty_output(parameters))
    assert code == 1
    assert message.startswith(f"this library is for {name} and needs '{lacking}', which this CPU ")
