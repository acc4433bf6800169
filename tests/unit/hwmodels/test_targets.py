"""The built-in targets: they have the published figures, and say where each one is from."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

import hocket.hwmodels.targets
from hocket.hwmodels.loader import list_targets, load_target
from hocket.hwmodels.machine import HardwareModel

FOLDER = Path(hocket.hwmodels.targets.__file__).parent

MARKS = ("[assumed]", "[measured]", "[calibrated]", "nominal", "order of magnitude", "no figure")
SOURCES = (
    "MAS-Attention",
    "TileFlow",
    "AccelForge",
    "FuseMax",
    "[Vela]",
    "[310]",
    "Hot Chips 31",
    "Huawei's slides",
    "Kirin 990",
    "our kernels",
    "Raspberry Pi",
    "The MagPi",
    "[ncnn]",
    "[vfpbench]",
    "[STREAM]",
    "[guide]",
    "[launch]",
    "[slides]",
    "[roofline]",
    "NEON register",
    "of 256 bits",
    "the same pipelines",
    "one cache line",
    "float32 kernels",
)
FIGURE = re.compile(r"(\w+) = (?:[\d.][\w.+-]*|true|false)\s*(?:# (.*))?")


def lines_without_source(text: str) -> list[str]:
    """Return the figures of a target file of which it does not say where they are from.

    A source, or that there is none, stands in the comment beside the figure or right above its
    table; for figures above all tables, in the one at the top of the file.
    """
    without = []
    said = ""
    block: list[str] = []
    is_top = True
    for line in text.splitlines():
        if line.startswith("#"):
            block.append(line)
            continue
        if line.startswith("["):
            is_top, said = False, " ".join(block)
        elif is_top and block:
            said = " ".join(block)
        figure = FIGURE.fullmatch(line)
        if figure:
            comments = f"{said} {figure[2] or ''}"
            if not any(word in comments for word in (*MARKS, *SOURCES)):
                without.append(line)
        block = []
    return without


def peak_macs_per_second(machine: HardwareModel) -> float:
    return machine.num_cores * machine.matrix_unit.macs_per_cycle * machine.clock_hz


@pytest.mark.parametrize("name", list_targets())
def test_every_figure_says_where_it_is_from(name: str) -> None:
    text = (FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    assert lines_without_source(text) == []
    figures = [line for line in text.splitlines() if FIGURE.fullmatch(line)]
    # All but the four names, or the pattern above misses some.
    assert len(figures) == text.count("\n") - sum(
        1 for line in text.splitlines() if re.match(r"#|\[|$|name|description", line)
    )


@pytest.mark.parametrize("name", list_targets())
def test_files_keep_to_a_hundred_columns(name: str) -> None:
    text = (FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= 100


def test_a_figure_without_a_source_is_found() -> None:
    text = (
        "# As in TileFlow.\n\nclock_hz = 1e9\n\n[a]\nlanes = 3\nrows = 4  # [assumed]\n\n"
        "# FuseMax\n[b]\ncolumns = 3_000  # many\n\n[c]\nis_wide = true  # it is\n"
    )
    assert lines_without_source(text) == ["lanes = 3", "is_wide = true  # it is"]


@pytest.mark.parametrize(
    ("name", "macs_per_second", "lanes", "capacity_bytes", "bytes_per_second"),
    [
        ("mas-edge", 2 * 16 * 16 * 3.75e9, 256, 5e6, 30e9),
        ("flat-edge", 32 * 32 * 940e6, 32, 512 * 2**10, 50 * 2**30),
        ("flat-cloud", 256 * 256 * 940e6, 256, 32 * 2**20, 400 * 2**30),
        ("fusemax-cloud", 256 * 256 * 940e6, 256, 16 * 2**20, 400 * 2**30),
        ("ethos-u85-512", 512 * 1e9, 8, 384 * 2**10, 12e9),
        ("davinci-lite", 2 * 16 * 16 * 4 * 680e6, 64, 2**20, 34.1e9),
        ("davinci-tiny", 512 * 680e6, 16, 2**18, 8.5e9),
    ],
)
def test_machines_have_the_stated_shape(
    name: str, macs_per_second: float, lanes: int, capacity_bytes: float, bytes_per_second: float
) -> None:
    machine = load_target(name)
    assert peak_macs_per_second(machine) == pytest.approx(macs_per_second, rel=1e-12)
    assert machine.vector_unit.lanes == lanes
    assert machine.on_chip_memory.capacity_bytes == capacity_bytes
    assert machine.dma.bandwidth_bytes_per_second == bytes_per_second


def test_mas_edge_reads_four_words_a_cycle() -> None:
    machine = load_target("mas-edge")
    assert machine.bandwidth_bytes_per_cycle / machine.element_bytes == pytest.approx(4.0)
    # TileFlow's five operators of one cycle.
    assert machine.vector_unit.softmax_lane_cycles == 5


@pytest.mark.parametrize("name", ["flat-edge", "flat-cloud", "fusemax-cloud"])
def test_flats_softmax_takes_four_cycles_an_element(name: str) -> None:
    assert load_target(name).vector_unit.softmax_lane_cycles == 4


def test_flat_takes_as_long_for_bert_with_1024_tokens_as_fusemax_reports() -> None:
    machine = load_target("flat-cloud")
    batch, heads, length, head_dim = 64, 12, 1024, 64
    scores = batch * heads * length**2
    softmax = scores * machine.vector_unit.softmax_lane_cycles / machine.vector_unit.lanes
    # attn-flat.csv of its artifact; softmax decides, and all else is hidden behind it.
    assert softmax / machine.clock_hz == pytest.approx(0.013386, rel=1e-3)
    products = 2 * scores * head_dim / peak_macs_per_second(machine)
    # flat_validation.csv: ideal_latency, with no place of the array empty.
    assert products == pytest.approx(0.00167326, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "length", "seconds"),
    # flat_validation.csv of FuseMax's artifact, actual_latency of BERT where the array decides.
    [
        ("flat-cloud", 1024, 0.00418843),
        ("flat-cloud", 4096, 0.0669357),
        ("flat-cloud", 65_536, 17.1354),
        ("flat-edge", 512, 0.0267809),
        ("flat-edge", 1024, 0.107101),
        ("flat-edge", 4096, 1.71384),
    ],
)
def test_flats_products_take_as_long_as_flat_reports(
    name: str, length: int, seconds: float
) -> None:
    machine = load_target(name)
    matrix = machine.matrix_unit
    batch, heads, head_dim = 64, 12, 64

    def product_cycles(rows: int, columns: int, depth: int) -> float:
        blocks = math.ceil(rows / matrix.block_rows) * math.ceil(columns / matrix.block_columns)
        macs = blocks * matrix.block_rows * matrix.block_columns * depth
        return matrix.startup_cycles + macs / matrix.macs_per_cycle

    cycles = product_cycles(length, length, head_dim) + product_cycles(length, head_dim, length)
    assert batch * heads * cycles / machine.clock_hz == pytest.approx(seconds, rel=2e-3)


def test_ethos_takes_as_long_for_bert_base_as_vela_estimates() -> None:
    machine = load_target("ethos-u85-512")
    heads, length, head_dim = 12, 512, 64
    scores = heads * length**2
    vector, matrix = machine.vector_unit, machine.matrix_unit
    softmax = scores * vector.softmax_lane_cycles / vector.lanes
    assert softmax == pytest.approx(4.174e6, rel=5e-3)
    assert softmax / scores == pytest.approx(1.327, rel=5e-3)
    # Its port to the SRAM does not hold softmax up: the calibrated cost holds.
    elements = (
        vector.exponentials_reads_per_element
        + vector.exponentials_writes_per_element
        + vector.divide_reads_per_element
        + vector.divide_writes_per_element
    )
    assert scores * elements * machine.element_bytes / vector.port_bytes_per_cycle < softmax
    # One product of each kind a head; Vela's report with all tensors in SRAM.
    full_rate = length**2 * head_dim / matrix.macs_per_cycle
    products = 2 * heads * (matrix.startup_cycles + full_rate)
    assert 2 * heads * full_rate == pytest.approx(0.786e6, rel=1e-3)
    assert products == pytest.approx(819_840, rel=0.01)


@pytest.mark.parametrize("name", list_targets())
def test_only_a_cpu_has_its_units_take_turns(name: str) -> None:
    cpus = ("host", "cortex-a53", "cortex-a72", "cortex-a76", "neoverse-n1", "spacemit-x60")
    assert load_target(name).has_concurrent_units == (name not in cpus)
