"""CPUs to export for: every one makes an object file of its machine that needs no other."""

from __future__ import annotations

import struct

import pytest
from support.kernel_strategies import make_parameters

from hocket.compiler.errors import ExportError
from hocket.compiler.export.c_text import c_source
from hocket.compiler.export.cpus import CPUS, MACHINES, find_cpu, find_machine
from hocket.compiler.export.objects import compile_kernel
from hocket.hwmodels.loader import list_targets
from hocket.runtime.kernels.generator import generate_source

# e_machine of ELF headers, by the System V ABI.
ELF_MACHINES = {"x86_64": 62, "aarch64": 183, "armv7": 40, "riscv64": 243}


@pytest.mark.parametrize("name", ["x86-64-v4", "cortex-a76"])
def test_a_kernel_becomes_an_object_file_of_the_machine(name: str) -> None:
    cpu = CPUS[name]
    source = generate_source(make_parameters(), cpu.kernel_features)
    code = compile_kernel(source, cpu, "a_kernel")
    assert code[:4] == b"\x7fELF"
    assert struct.unpack_from("<H", code, 18)[0] == ELF_MACHINES[cpu.machine]
    assert b"\0a_kernel\0" in code
    for word in (b"pickle", b"ValueError", b"numba"):
        assert word not in code


@pytest.mark.parametrize("name", CPUS)
def test_every_feature_is_one_that_a_library_can_find(name: str) -> None:
    text = c_source("cpu.h", "any")
    for feature in CPUS[name].features:
        assert f'{{"{feature}", ' in text, feature


@pytest.mark.parametrize(
    ("triple", "machine"),
    [
        ("aarch64-linux-gnu", "aarch64"),
        ("aarch64-unknown-linux-gnu", "aarch64"),
        ("arm64", "aarch64"),
        ("armv7-linux-gnueabihf", "armv7"),
        ("armv7l-unknown-linux-gnueabihf", "armv7"),
        ("riscv64-linux-gnu", "riscv64"),
        ("x86_64-linux", "x86_64"),
    ],
)
def test_triples_are_read_as_they_are_written(triple: str, machine: str) -> None:
    assert find_machine(triple).name == machine


@pytest.mark.parametrize(
    "triple",
    ["", "aarch64-linux-musl", "armv7-linux-gnu", "armv6-linux-gnueabihf", "aarch64-apple"],
)
def test_other_triples_are_refused(triple: str) -> None:
    with pytest.raises(ExportError, match="want one of aarch64-linux-gnu"):
        find_machine(triple)


def test_every_machine_has_a_cpu_of_its_own_to_begin_with() -> None:
    for machine in MACHINES.values():
        assert find_cpu(machine, "").machine == machine.name


def test_the_cpus_that_have_a_hardware_model_have_its_name() -> None:
    modelled = {"cortex-a53", "cortex-a72", "cortex-a76", "neoverse-n1", "spacemit-x60"}
    assert modelled <= set(CPUS)
    assert modelled <= set(list_targets())
