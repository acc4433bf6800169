"""A simulated program as one HTML file: a Gantt chart to zoom into, with all that it needs inside.

The page holds the tasks as JSON, column by column, and a script of its own that draws them on a
canvas; it loads nothing, so it works from a mail or an archive. All text comes through
``html.escape`` or as JSON with ``<``, ``>`` and ``&`` escaped, and the script writes it by
``textContent`` alone.
"""

from __future__ import annotations

import html
import json
import re
from typing import TYPE_CHECKING, Any

from hocket.plotting import COLORS, LABELS, LANES

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from hocket.hwmodels.simulate import Timeline

MAX_TASKS = 100_000
"""More tasks than this are cut off at the end, and the page says so."""

MAX_MEMORY_STEPS = 4_000
"""More changes of the memory in use than this are thinned out, each kept one the highest of its
neighbours."""


def write_gantt_html(
    timeline: Timeline,
    path: str | os.PathLike[str],
    *,
    title: str,
    facts: Sequence[tuple[str, str]] = (),
    max_tasks: int = MAX_TASKS,
) -> None:
    """Write a timeline as an HTML file; see ``gantt_html``."""
    from pathlib import Path

    text = gantt_html(timeline, title=title, facts=facts, max_tasks=max_tasks)
    Path(path).write_text(text, encoding="utf-8")


def gantt_html(
    timeline: Timeline,
    *,
    title: str,
    facts: Sequence[tuple[str, str]] = (),
    max_tasks: int = MAX_TASKS,
) -> str:
    """Return a timeline as an HTML page.

    Args:
        timeline: The simulated program.
        title: What stands above.
        facts: Names and values of figures to show on top, both as text.
        max_tasks: How many tasks to show, from the first on.
    """
    data = _data(timeline, max_tasks)
    shown, total = len(data["tasks"]["start"]), timeline.program.schedule.num_tasks
    note = ""
    if shown < total:
        note = f"The first {shown:,} of {total:,} tasks are shown."
    figures = "\n".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in facts
    )
    fields = {
        "TITLE": html.escape(title),
        "FACTS": figures,
        "NOTE": html.escape(note),
        "DATA": _script_json(data),
        "STYLE": _STYLE,
        "SCRIPT": _SCRIPT,
    }
    # In one pass, so that what is put in is not looked at again.
    return re.sub("@([A-Z]+)@", lambda mark: fields[mark[1]], _PAGE)


def _script_json(value: Any) -> str:
    """Return JSON that may stand in a script element: nothing in it can end the element."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _data(timeline: Timeline, max_tasks: int) -> dict[str, Any]:
    """Return all that the script needs: the first tasks by start, and the memory in use."""
    import numpy as np

    from hocket.hwmodels import columns as col
    from hocket.hwmodels.simulate import STALLS
    from hocket.hwmodels.tasks import TENSORS
    from hocket.hwmodels.trace import block_numbers

    table = timeline.program.schedule.table
    order = np.argsort(timeline.starts, kind="stable")[:max_tasks]
    rows = table.rows[order]
    operations = rows[:, col.OPERATION]
    # The rectangle a task is about: what it writes, or of a store what it reads.
    at = np.where(operations == col.STORE, col.READ, col.WRITE)
    index = np.arange(len(rows))
    machine = timeline.machine
    tasks = {
        "task": order.tolist(),
        "operation": operations.tolist(),
        "core": rows[:, col.CORE].tolist(),
        "start": _rounded(timeline.starts[order]),
        "end": _rounded(timeline.ends[order]),
        "idle": _rounded(timeline.idle_cycles[order]),
        "stall": timeline.stalls[order].tolist(),
        "block": block_numbers(timeline)[order].tolist(),
        "rows": rows[index, at + 3].tolist(),
        "columns": rows[index, at + 4].tolist(),
        "tensor": rows[:, col.TENSOR].tolist(),
        "matrix": rows[:, col.MATRIX].tolist(),
        "row": rows[:, col.ROW].tolist(),
        "column": rows[:, col.COLUMN].tolist(),
    }
    units = list(LANES)
    cores = sorted(set(table.rows[:, col.CORE].tolist())) or [0]
    ends = timeline.ends[order]
    is_all = len(order) == timeline.program.schedule.num_tasks
    end = timeline.cycles if is_all else float(ends.max(initial=0.0))
    return {
        "cycles": end,
        "microseconds": 1e6 / machine.clock_hz,
        "cores": cores,
        "lanes": list(LANES.values()),
        "operations": [
            {
                "name": str(operation),
                "label": LABELS[operation],
                "color": COLORS[operation],
                "lane": units.index(operation.unit),
            }
            for operation in col.OPERATIONS
        ],
        "legend": [col.OPERATIONS.index(operation) for operation in LABELS],
        "tensors": list(TENSORS),
        "stalls": [str(stall) for stall in STALLS],
        "tasks": tasks,
        "memory": _memory(timeline, end),
    }


def _memory(timeline: Timeline, end: float) -> dict[str, Any]:
    """Return the on-chip memory in use over time, in not too many steps."""
    import numpy as np

    from hocket.hwmodels.trace import on_chip_usage

    moments, counts = on_chip_usage(timeline)
    kept = moments <= end
    moments, counts = moments[kept], counts[kept]
    group = -(-len(moments) // MAX_MEMORY_STEPS)
    if group > 1:
        firsts = np.arange(0, len(moments), group)
        moments, counts = moments[firsts], np.maximum.reduceat(counts, firsts)
    memory = timeline.machine.on_chip_memory
    return {
        "name": memory.name,
        "capacity": memory.capacity_bytes,
        "reserved": timeline.program.peak_on_chip_bytes,
        "at": _rounded(moments),
        "bytes": counts.tolist(),
    }


def _rounded(values: Any) -> list[float | int]:
    """Return numbers with three digits behind the point, whole ones without any."""
    return [int(value) if value == int(value) else round(value, 3) for value in values.tolist()]


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'">
<title>@TITLE@</title>
<style>@STYLE@</style>
</head>
<body>
<h1>@TITLE@</h1>
<dl>@FACTS@</dl>
<p id="note">@NOTE@</p>
<div id="bar">
<ul id="legend"></ul>
<div id="buttons">
<button id="in" title="zoom in (+)">+</button>
<button id="out" title="zoom out (-)">&minus;</button>
<button id="all" title="show everything (0)">all</button>
</div>
</div>
<canvas id="map" height="34" aria-label="the whole program; drag to move"></canvas>
<canvas id="chart" tabindex="0" aria-label="Gantt chart; the figures stand above"></canvas>
<p id="help">Wheel: zoom. Drag: move. Double click: zoom in. Keys: + &minus; 0 and arrows.
A task under the pointer has the others of its row block outlined. Light strips: the unit is idle.
</p>
<div id="tip" hidden></div>
<script id="data" type="application/json">@DATA@</script>
<script>@SCRIPT@</script>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1d1d1f; --quiet: #6a6a70;
  --lane: #f1f1ee; --line: #dcdcd8; --idle: #d9d4c8; --tip: #ffffff; --memory: #a9b4c2;
  --outline: #111111; }
@media (prefers-color-scheme: dark) { :root { --ground: #17181b; --ink: #ececec; --quiet: #9a9aa2;
  --lane: #22242a; --line: #3a3d45; --idle: #35332f; --tip: #26282e; --memory: #53606f;
  --outline: #ffffff; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 20px 24px; background: var(--ground); color: var(--ink);
  font: 14px/1.45 system-ui, sans-serif; }
h1 { font-size: 19px; margin: 0 0 10px; }
dl { display: flex; flex-wrap: wrap; gap: 6px 26px; margin: 0 0 8px; }
dl div { min-width: 0; }
dt { color: var(--quiet); font-size: 12px; }
dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
#note { color: #b5562b; margin: 0 0 6px; }
#note:empty { display: none; }
#bar { display: flex; justify-content: space-between; align-items: end; gap: 16px; margin: 8px 0; }
#legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 0; padding: 0;
  font-size: 13px; }
#legend i { display: inline-block; width: 12px; height: 12px; margin-right: 6px; border-radius: 2px;
  vertical-align: -1px; }
#buttons { white-space: nowrap; }
button { font: inherit; min-width: 32px; padding: 2px 9px; border: 1px solid var(--line);
  border-radius: 5px; background: var(--lane); color: var(--ink); cursor: pointer; }
canvas { display: block; width: 100%; touch-action: none; }
#map { cursor: pointer; margin-bottom: 6px; }
#chart { cursor: grab; outline-offset: 3px; }
#chart.moving { cursor: grabbing; }
#help { color: var(--quiet); font-size: 12px; margin: 8px 0 0; }
#tip { position: fixed; z-index: 1; pointer-events: none; max-width: 340px; padding: 7px 10px;
  background: var(--tip); border: 1px solid var(--line); border-radius: 6px; font-size: 13px;
  box-shadow: 0 3px 12px rgb(0 0 0 / .22); white-space: pre-line;
  font-variant-numeric: tabular-nums; }
"""

_SCRIPT = r"""
"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const t = data.tasks, ops = data.operations, numLanes = data.lanes.length;
const chart = document.getElementById("chart"), map = document.getElementById("map");
const tip = document.getElementById("tip");
const LABEL = 108, LANE = 26, GAP = 3, CORE_GAP = 14, AXIS = 26, MEMORY = 56;
const total = Math.max(data.cycles, 1);
let from = 0, to = total, hovered = -1, width = 0, height = 0, memoryTop = 0, queued = false;

// Tasks of each lane, by start; the page's tasks are sorted by it already.
const lanes = [];
for (const core of data.cores)
  for (let lane = 0; lane < numLanes; lane++)
    lanes.push({ core, lane, tasks: [], y: 0 });
const firstOf = new Map(data.cores.map((core, place) => [core, place * numLanes]));
for (let i = 0; i < t.start.length; i++)
  lanes[firstOf.get(t.core[i]) + ops[t.operation[i]].lane].tasks.push(i);

// The first task of a lane that ends after a cycle.
function firstAfter(tasks, cycle) {
  let low = 0, high = tasks.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (t.end[tasks[middle]] > cycle) high = middle; else low = middle + 1;
  }
  return low;
}

const count = (x) => x.toLocaleString("en-US", { maximumFractionDigits: x < 100 ? 1 : 0 });
const size = (x) => x < 1e6 ? `${count(x / 1e3)} kB` : `${(x / 1e6).toPrecision(4)} MB`;
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function prepare(canvas, w, h) {
  const ratio = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio)) {
    canvas.width = Math.round(w * ratio);
    canvas.height = Math.round(h * ratio);
    canvas.style.height = `${h}px`;
  }
  const g = canvas.getContext("2d");
  g.setTransform(ratio, 0, 0, ratio, 0, 0);
  g.clearRect(0, 0, w, h);
  g.font = "12px system-ui, sans-serif";
  g.textBaseline = "middle";
  return g;
}

// Draw the tasks of a lane: wide ones as boxes, and of narrow ones, pixel by pixel, which share of
// the time each operation has.
function drawLane(g, lane, x0, w, y, h, begin, end, idle) {
  const scale = w / (end - begin), shares = new Map();
  const add = (operation, a, b) => {
    let share = shares.get(operation);
    if (!share) shares.set(operation, share = new Float32Array(Math.ceil(w) + 2));
    for (let pixel = Math.max(Math.floor(a), 0); pixel < Math.min(b, w); pixel++)
      share[pixel] += Math.min(b, pixel + 1) - Math.max(a, pixel);
  };
  for (let k = firstAfter(lane.tasks, begin); k < lane.tasks.length; k++) {
    const i = lane.tasks[k];
    const a = (t.start[i] - begin) * scale, b = (t.end[i] - begin) * scale;
    const c = a - t.idle[i] * scale;
    if (idle && t.idle[i] > 0 && a - c > 1.5 && c < w) {
      g.fillStyle = idle;
      const left = Math.max(c, 0);
      g.fillRect(x0 + left, y + h * 0.38, Math.min(a, w) - left, h * 0.24);
    }
    if (a > w) break;
    if (b - a < 2.5) { add(t.operation[i], a, b); continue; }
    const left = Math.max(a, 0), right = Math.min(b, w);
    g.fillStyle = ops[t.operation[i]].color;
    g.fillRect(x0 + left, y, Math.max(right - left - (b <= w ? 0.7 : 0), 0.5), h);
  }
  const floor = new Float32Array(Math.ceil(w) + 2);
  for (const [operation, share] of shares) {
    g.fillStyle = ops[operation].color;
    for (let pixel = 0; pixel < w; pixel++) {
      if (!share[pixel]) continue;
      const part = Math.min(share[pixel], 1) * h;
      g.fillRect(x0 + pixel, y + h - floor[pixel] - part, 1, part);
      floor[pixel] += part;
    }
  }
}

function niceStep(range, most) {
  const rough = range / most, power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((x) => x * power).find((x) => x >= rough);
}

const LETTERS = { scores: "C", softmax: "P", exponentials: "P", output: "O" };

function draw() {
  queued = false;
  width = chart.clientWidth;
  const w = Math.max(width - LABEL, 50), scale = w / (to - from);
  let y = AXIS;
  for (const [place, lane] of lanes.entries()) {
    if (place && lane.lane === 0) y += CORE_GAP;
    lane.y = y;
    y += LANE + GAP;
  }
  memoryTop = y + CORE_GAP;
  height = memoryTop + MEMORY + 4;
  const g = prepare(chart, width, height);
  const ink = style("--ink"), quiet = style("--quiet"), line = style("--line");
  const ground = style("--lane"), idle = style("--idle");
  // Time: cycles above, microseconds in brackets.
  g.textAlign = "center";
  const step = niceStep(to - from, Math.max(w / 130, 1));
  for (let cycle = Math.ceil(from / step) * step; cycle <= to; cycle += step) {
    const x = LABEL + (cycle - from) * scale;
    g.fillStyle = line;
    g.fillRect(x, AXIS - 6, 1, height - AXIS);
    if (x > LABEL + 20 && x < width - 46) {
      g.fillStyle = quiet;
      const time = cycle * data.microseconds;
      const rounded = time.toLocaleString("en-US", { maximumSignificantDigits: 4 });
      g.fillText(`${count(cycle)} (${rounded} \u00b5s)`, x, 9);
    }
  }
  g.fillStyle = quiet;
  g.textAlign = "left";
  g.fillText("cycles (time)", 0, 9);
  for (const lane of lanes) {
    g.fillStyle = ground;
    g.fillRect(LABEL, lane.y, w, LANE);
    g.fillStyle = lane.lane < 2 ? ink : quiet;
    const core = data.cores.length > 1 ? `${lane.core}  ` : "";
    g.fillText(core + data.lanes[lane.lane], 0, lane.y + LANE / 2);
    drawLane(g, lane, LABEL, w, lane.y, LANE, from, to, idle);
    label(g, lane, w, scale);
  }
  outline(g, w, scale);
  drawMemory(g, w, scale, quiet, ground);
  drawMap();
}

// Write C0, P0, O0 on the tasks of a row block where there is room; one for a run of them.
function label(g, lane, w, scale) {
  if (lane.lane > 1) return;
  g.textAlign = "center";
  g.font = "11px system-ui, sans-serif";
  let run = null;
  const write = () => {
    if (!run) return;
    const text = run.letter + run.block, middle = LABEL + (run.a + run.b) / 2;
    if (run.b - run.a < g.measureText(text).width + 4) return;
    g.fillStyle = run.letter === "O" ? "#10202f" : "#ffffff";
    g.fillText(text, middle, lane.y + LANE / 2 + 1);
  };
  for (let k = firstAfter(lane.tasks, from); k < lane.tasks.length; k++) {
    const i = lane.tasks[k];
    if (t.start[i] > to) break;
    const letter = LETTERS[ops[t.operation[i]].name], block = t.block[i];
    const a = Math.max((t.start[i] - from) * scale, 0), b = Math.min((t.end[i] - from) * scale, w);
    if (run && letter === run.letter && block === run.block && a - run.b < 2) {
      run.b = b;
      continue;
    }
    write();
    run = letter && block >= 0 ? { letter, block, a, b } : null;
  }
  write();
  g.textAlign = "left";
  g.font = "12px system-ui, sans-serif";
}

// Frame the hovered task, and thinner the others of its row block.
function outline(g, w, scale) {
  if (hovered < 0) return;
  g.strokeStyle = style("--outline");
  const mine = t.block[hovered];
  for (const lane of lanes) {
    if (lane.core !== t.core[hovered]) continue;
    for (let k = firstAfter(lane.tasks, from); k < lane.tasks.length; k++) {
      const i = lane.tasks[k];
      if (t.start[i] > to) break;
      if (i !== hovered && (mine < 0 || t.block[i] !== mine)) continue;
      const a = Math.max((t.start[i] - from) * scale, 0);
      const b = Math.min((t.end[i] - from) * scale, w);
      g.lineWidth = i === hovered ? 2.5 : 1.5;
      g.strokeRect(LABEL + a, lane.y, Math.max(b - a, 1), LANE);
    }
  }
}

// How many changes of the memory in use come up to a cycle.
function usedAt(cycle) {
  const at = data.memory.at;
  let low = 0, high = at.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (at[middle] <= cycle) low = middle + 1; else high = middle;
  }
  return low;
}

function drawMemory(g, w, scale, quiet, ground) {
  const m = data.memory, top = Math.max(m.reserved, 1);
  g.fillStyle = ground;
  g.fillRect(LABEL, memoryTop, w, MEMORY);
  g.fillStyle = style("--memory");
  const bottom = memoryTop + MEMORY;
  g.beginPath();
  g.moveTo(LABEL, bottom);
  let x = LABEL;
  for (let k = Math.max(usedAt(from) - 1, 0); k < m.at.length && m.at[k] < to; k++) {
    const next = k + 1 < m.at.length ? m.at[k + 1] : total;
    const y = bottom - m.bytes[k] / top * MEMORY;
    g.lineTo(x, y);
    x = LABEL + Math.min(Math.max((next - from) * scale, 0), w);
    g.lineTo(x, y);
  }
  g.lineTo(x, bottom);
  g.fill();
  g.fillStyle = quiet;
  g.fillText(`${m.name} in use`, 0, memoryTop + 8);
  g.fillText(`top: ${size(m.reserved)}`, 0, memoryTop + 24);
  g.fillText(`of ${size(m.capacity)}`, 0, memoryTop + 40);
}

// The whole program in small, a line for each of the two voices, and a frame around what is shown.
let mapImage = null, mapKey = "";
function drawMap() {
  const w = Math.max(map.clientWidth - LABEL, 50), g = prepare(map, map.clientWidth, 34);
  const key = `${map.width} ${style("--lane")}`;
  if (key !== mapKey) {
    g.fillStyle = style("--lane");
    g.fillRect(LABEL, 0, w, 34);
    drawLane(g, lanes[0], LABEL, w, 2, 14, 0, total, null);
    drawLane(g, lanes[1], LABEL, w, 18, 14, 0, total, null);
    mapImage = document.createElement("canvas");
    mapImage.width = map.width;
    mapImage.height = map.height;
    mapImage.getContext("2d").drawImage(map, 0, 0);
    mapKey = key;
  } else {
    g.drawImage(mapImage, 0, 0, map.clientWidth, 34);
  }
  g.fillStyle = style("--quiet");
  g.fillText("the whole", 0, 17);
  const a = from / total * w, b = to / total * w;
  g.fillStyle = style("--ground");
  g.globalAlpha = 0.65;
  g.fillRect(LABEL, 0, a, 34);
  g.fillRect(LABEL + b, 0, w - b, 34);
  g.globalAlpha = 1;
  g.strokeStyle = style("--outline");
  g.lineWidth = 1.2;
  g.strokeRect(LABEL + a, 0.6, Math.max(b - a, 2), 32.8);
}

function redraw() {
  if (!queued) { queued = true; requestAnimationFrame(draw); }
}

function show(a, b) {
  const range = Math.min(Math.max(b - a, Math.min(20, total)), total);
  const middle = (a + b) / 2;
  from = Math.min(Math.max(middle - range / 2, 0), total - range);
  to = from + range;
  redraw();
}

function zoom(factor, share) {
  const range = Math.min(Math.max((to - from) * factor, Math.min(20, total)), total);
  const cycle = from + (to - from) * share;
  const start = Math.min(Math.max(cycle - range * share, 0), total - range);
  show(start, start + range);
}

const chartWidth = () => Math.max(chart.clientWidth - LABEL, 50);
function shareAt(event) {
  const x = event.clientX - chart.getBoundingClientRect().left - LABEL;
  return Math.min(Math.max(x / chartWidth(), 0), 1);
}

function describe(i) {
  const op = ops[t.operation[i]], lines = [];
  let what = `${op.label.replace(/^[CPO] {2}/, "")}, core ${t.core[i]}`;
  if (t.block[i] >= 0) what += `, row block ${t.block[i]}`;
  lines.push(what);
  let extent = `${count(t.rows[i])} x ${count(t.columns[i])}`;
  if (t.tensor[i] >= 0)
    extent += ` of ${data.tensors[t.tensor[i]]} ${t.matrix[i]}, `
      + `from row ${t.row[i]}, column ${t.column[i]}`;
  lines.push(extent);
  const cycles = t.end[i] - t.start[i];
  lines.push(`${count(cycles)} cycles (${(cycles * data.microseconds).toPrecision(3)} \u00b5s), `
    + `${count(t.start[i])} to ${count(t.end[i])}`);
  lines.push(t.idle[i] > 0
    ? `idle before: ${count(t.idle[i])} cycles, ${data.stalls[t.stall[i]]}` : "not idle before");
  lines.push(`task ${t.task[i]}`);
  return lines.join("\n");
}

// The task under a point; or, where its unit is idle, the task that it waits for to begin.
function find(x, y) {
  const lane = lanes.find((each) => y >= each.y && y < each.y + LANE);
  if (!lane || x < LABEL) return { task: -1, idle: false };
  const cycle = from + (x - LABEL) / chartWidth() * (to - from);
  const slack = 1.5 * (to - from) / chartWidth();
  const at = firstAfter(lane.tasks, cycle - slack);
  if (at >= lane.tasks.length) return { task: -1, idle: false };
  const i = lane.tasks[at];
  if (t.start[i] <= cycle + slack) return { task: i, idle: false };
  return { task: t.start[i] - t.idle[i] <= cycle ? i : -1, idle: true };
}

function hover(event) {
  const box = chart.getBoundingClientRect();
  const x = event.clientX - box.left, y = event.clientY - box.top;
  const found = find(x, y);
  let text = "";
  if (found.task >= 0 && found.idle) {
    const i = found.task;
    text = `idle for ${count(t.idle[i])} cycles: ${data.stalls[t.stall[i]]}\nthen ${describe(i)}`;
  } else if (found.task >= 0) {
    text = describe(found.task);
  } else if (x >= LABEL && y >= memoryTop && y < memoryTop + MEMORY) {
    const cycle = from + (x - LABEL) / chartWidth() * (to - from), k = usedAt(cycle) - 1;
    const used = k < 0 ? 0 : data.memory.bytes[k];
    text = `${count(used)} bytes in use at cycle ${count(Math.round(cycle))}`;
  }
  const now = found.idle ? -1 : found.task;
  if (now !== hovered) { hovered = now; redraw(); }
  tip.textContent = text;
  tip.hidden = !text;
  if (!text) return;
  const own = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(Math.min(event.clientX + 14, innerWidth - own.width - 8), 4)}px`;
  const below = event.clientY + 16;
  const fits = below + own.height + 8 < innerHeight;
  tip.style.top = `${fits ? below : Math.max(event.clientY - own.height - 12, 4)}px`;
}

function leave() {
  tip.hidden = true;
  if (hovered >= 0) { hovered = -1; redraw(); }
}

let grip = null;
chart.addEventListener("pointerdown", (event) => {
  grip = { x: event.clientX, from };
  chart.setPointerCapture(event.pointerId);
  chart.classList.add("moving");
});
chart.addEventListener("pointermove", (event) => {
  if (!grip) { hover(event); return; }
  tip.hidden = true;
  const range = to - from;
  const start = grip.from - (event.clientX - grip.x) / chartWidth() * range;
  const kept = Math.min(Math.max(start, 0), total - range);
  show(kept, kept + range);
});
const release = () => { grip = null; chart.classList.remove("moving"); };
chart.addEventListener("pointerup", release);
chart.addEventListener("pointercancel", release);
chart.addEventListener("pointerleave", leave);
chart.addEventListener("dblclick", (event) => zoom(0.4, shareAt(event)));
chart.addEventListener("wheel", (event) => {
  event.preventDefault();
  const range = to - from;
  if (Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey) {
    const turn = (event.deltaX || event.deltaY) / chartWidth() * range;
    const start = Math.min(Math.max(from + turn, 0), total - range);
    show(start, start + range);
  } else {
    zoom(Math.exp(Math.max(Math.min(event.deltaY, 200), -200) * 0.004), shareAt(event));
  }
  hover(event);
}, { passive: false });
chart.addEventListener("keydown", (event) => {
  const range = to - from;
  const act = {
    "+": () => zoom(0.6, 0.5), "=": () => zoom(0.6, 0.5), "-": () => zoom(1 / 0.6, 0.5),
    0: () => show(0, total), Home: () => show(0, range), End: () => show(total - range, total),
    ArrowLeft: () => show(Math.max(from - range / 8, 0), Math.max(from - range / 8, 0) + range),
    ArrowRight: () => show(from + range / 8, to + range / 8),
  }[event.key];
  if (act) { event.preventDefault(); act(); }
});
const aim = (event) => {
  const w = Math.max(map.clientWidth - LABEL, 50), range = to - from;
  const cycle = (event.clientX - map.getBoundingClientRect().left - LABEL) / w * total;
  const start = Math.min(Math.max(cycle - range / 2, 0), total - range);
  show(start, start + range);
};
map.addEventListener("pointerdown", (event) => {
  map.setPointerCapture(event.pointerId);
  aim(event);
});
map.addEventListener("pointermove", (event) => { if (event.buttons) aim(event); });
document.getElementById("in").addEventListener("click", () => zoom(0.5, 0.5));
document.getElementById("out").addEventListener("click", () => zoom(2, 0.5));
document.getElementById("all").addEventListener("click", () => show(0, total));
addEventListener("resize", redraw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

const present = new Set(t.operation), legend = document.getElementById("legend");
for (const number of data.legend) {
  const op = ops[number];
  if (!present.has(number)) continue;
  const item = document.createElement("li"), patch = document.createElement("i");
  patch.style.background = op.color;
  item.append(patch, op.label);
  legend.append(item);
}
// Begin where one sees single tasks: some dozens of the first core's matrix unit.
const opening = lanes[0].tasks;
if (opening.length > 60) show(0, Math.max(t.end[opening[40]], total / 400));
else redraw();
})();
"""
