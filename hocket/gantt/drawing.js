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
  // In a frame that has no size yet there is nothing to draw on; its size's change comes here.
  if (!map.clientWidth) return;
  if (!queued) { queued = true; requestAnimationFrame(draw); }
}
