"""Pictures of schedules: the page that can be mailed, and the PNG."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from hocket.compiler.attention.schedule.build import build_program
from hocket.compiler.attention.schedule.dataflows import DATAFLOWS
from hocket.compiler.attention.tiling import Softmax, Tiling
from hocket.compiler.problem import AttentionProblem
from hocket.gantt.data import MAX_MEMORY_STEPS
from hocket.gantt.page import gantt_html, write_gantt_html
from hocket.hwmodels.dtypes import DType
from hocket.hwmodels.loader import load_target
from hocket.hwmodels.simulate import Timeline, simulate
from hocket.hwmodels.tasks import Operation
from hocket.plotting import COLORS, LABELS, draw_schedule

NASTY = "</script><script>alert('x')</script> & \"quoted\" <b>"


def make_timeline(dataflow: str = "mas", length: int = 128, heads: int = 2) -> Timeline:
    problem = AttentionProblem(1, heads, heads, length, length, 32, 32, DType.FLOAT16, 0.125)
    flow = DATAFLOWS[dataflow]
    tiling = Tiling(
        query_rows=16,
        kv_columns=32,
        resident_tiles=1000,
        live_blocks=flow.live_blocks[-1],
        softmax=flow.softmaxes[-1],
    )
    machine = load_target("mas-edge")
    return simulate(build_program(problem, tiling, flow, machine), machine)


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


class Tags(HTMLParser):
    """Counts tags, and collects attributes that would load something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.count: dict[str, int] = {}
        self.loads: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.loads += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "srcset")]


def test_the_page_needs_nothing_else() -> None:
    page = gantt_html(make_timeline(), title="a schedule")
    tags = Tags(page)
    assert tags.loads == []
    assert tags.count["script"] == 2
    assert not re.search(r"https?://|@import|url\(", page)
    assert "default-src 'none'" in page
    assert not re.search("@[A-Z]+@", page)


def test_text_cannot_become_markup() -> None:
    plain = gantt_html(make_timeline(), title="x", facts=[("name", "value")])
    page = gantt_html(make_timeline(), title=NASTY, facts=[(NASTY, NASTY)])
    assert Tags(page).count == Tags(plain).count
    assert "alert('x')" not in page
    # Twice in each text; the title stands in the head and in the body.
    assert page.count("&lt;/script&gt;") == 2 * 4


def test_names_from_a_target_file_cannot_end_the_data() -> None:
    timeline = make_timeline()
    machine = timeline.machine
    memory = dataclasses.replace(machine.on_chip_memory, name=NASTY)
    timeline = dataclasses.replace(
        timeline, machine=dataclasses.replace(machine, on_chip_memory=memory)
    )
    page = gantt_html(timeline, title="x")
    assert Tags(page).count["script"] == 2
    assert data_of(page)["memory"]["name"] == NASTY


def test_the_page_holds_every_task() -> None:
    timeline = make_timeline()
    data = data_of(gantt_html(timeline, title="x", facts=[("cycles", "12")]))
    tasks = data["tasks"]
    assert {len(column) for column in tasks.values()} == {timeline.program.schedule.num_tasks}
    assert tasks["start"] == sorted(tasks["start"])
    spans = timeline.spans
    for place, index in enumerate(tasks["task"]):
        task, span = timeline.program.schedule.tasks[index], spans[index]
        operation = data["operations"][tasks["operation"][place]]
        assert operation["name"] == str(task.operation)
        assert data["lanes"][operation["lane"]].startswith(str(task.unit))
        assert tasks["start"][place] == pytest.approx(span.start, abs=1e-3)
        assert tasks["end"][place] == pytest.approx(span.end, abs=1e-3)
        assert tasks["idle"][place] == pytest.approx(span.idle_cycles, abs=1e-3)
        assert data["stalls"][tasks["stall"][place]] == str(span.stall)
        block = (task.writes or task.reads)[0]
        assert (tasks["rows"][place], tasks["columns"][place]) == (block.rows, block.columns)
    assert data["cycles"] == pytest.approx(timeline.cycles)
    assert data["memory"]["reserved"] == timeline.program.peak_on_chip_bytes


def test_facts_stand_on_top() -> None:
    page = gantt_html(make_timeline(), title="x", facts=[("energy", "3 mJ")])
    assert "<dt>energy</dt><dd>3 mJ</dd>" in page


def test_a_long_program_is_cut_and_the_page_says_so() -> None:
    timeline = make_timeline()
    total = timeline.program.schedule.num_tasks
    page = gantt_html(timeline, title="x", max_tasks=20)
    assert f"The first 20 of {total:,} tasks are shown." in page
    data = data_of(page)
    assert len(data["tasks"]["start"]) == 20
    assert data["cycles"] == max(data["tasks"]["end"])
    assert "tasks are shown" not in gantt_html(timeline, title="x")


def test_memory_is_thinned_out_but_keeps_its_peaks() -> None:
    timeline = make_timeline(length=2048, heads=10)
    data = data_of(gantt_html(timeline, title="x"))
    from hocket.hwmodels.trace import on_chip_usage

    moments, counts = on_chip_usage(timeline)
    assert len(moments) > MAX_MEMORY_STEPS
    assert len(data["memory"]["at"]) <= MAX_MEMORY_STEPS
    assert max(data["memory"]["bytes"]) == counts.max()


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to read the script")
def test_the_script_is_sound(tmp_path: Path) -> None:
    page = gantt_html(make_timeline(), title="x")
    script = tmp_path / "script.js"
    script.write_text(re.findall(r"<script>(.*?)</script>", page, re.DOTALL)[0])
    subprocess.run(["node", "--check", str(script)], check=True)


def test_a_page_is_written(tmp_path: Path) -> None:
    path = tmp_path / "schedule.html"
    write_gantt_html(make_timeline(), path, title="a schedule")
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_every_operation_has_a_colour_and_a_label() -> None:
    assert set(COLORS) == set(LABELS) == set(Operation)


@pytest.mark.parametrize("dataflow", sorted(DATAFLOWS))
def test_every_dataflow_can_be_drawn(dataflow: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="drawing is the extra [plot]")
    path = tmp_path / "schedule.png"
    draw_schedule(make_timeline(dataflow), path, title="a schedule", core=1, max_tasks=30)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_core_without_tasks_can_be_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="drawing is the extra [plot]")
    problem = AttentionProblem(1, 1, 1, 16, 16, 32, 32, DType.FLOAT16, 0.125)
    machine = load_target("mas-edge")
    tiling = Tiling(16, 16, 4, softmax=Softmax.FULL_ROW)
    timeline = simulate(build_program(problem, tiling, DATAFLOWS["mas"], machine), machine)
    draw_schedule(timeline, tmp_path / "schedule.png", core=1)
    assert (tmp_path / "schedule.png").is_file()
