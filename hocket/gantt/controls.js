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
