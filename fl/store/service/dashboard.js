// Shows what /v1/stats says, again every few seconds while somebody looks.
"use strict";

const EVERY_MS = 3000;
const TOKEN = "hocket-store-token";
const byId = (name) => document.getElementById(name);

function make(tag, text, parent, className) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  parent.append(made);
  return made;
}

function share(value) {
  return value === null ? "–" : `${(100 * value).toFixed(value === 1 ? 0 : 1)} %`;
}

function time(seconds) {
  if (seconds === null) return "–";
  if (seconds >= 3600) return `${(seconds / 3600).toFixed(1)} h`;
  if (seconds >= 1) return `${seconds.toPrecision(3)} s`;
  const ms = 1000 * seconds;
  return ms >= 0.1 ? `${ms.toPrecision(3)} ms` : `${Math.round(1000 * ms)} µs`;
}

function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let place = 0;
  while (bytes >= 1000 && place + 1 < units.length) {
    bytes /= 1000;
    place += 1;
  }
  return `${place ? bytes.toPrecision(3) : bytes} ${units[place]}`;
}

function money(cost) {
  const total = cost.a_month.total;
  return `${total < 1 ? total.toPrecision(2) : total.toFixed(2)} ${cost.currency}`;
}

function showTiles(found) {
  const { requests, instances, cost } = found;
  byId("tiles").replaceChildren();
  for (const [name, value, about] of [
    ["hit-rate", share(requests.hit_rate), "of entries read were in memory"],
    ["p50", time(requests.seconds.p50), "half of the requests"],
    ["p90", time(requests.seconds.p90), "90 % of the requests"],
    ["p99", time(requests.seconds.p99), "99 % of the requests"],
    ["cost", money(cost), "a month, at this rate"],
    ["instances", instances.num_instances, "instances are alive"],
  ]) {
    const tile = make("div", "", byId("tiles"), "tile");
    make("b", value, tile).id = name;
    make("span", about, tile);
  }
}

function showChart(last) {
  const chart = byId("chart");
  chart.replaceChildren();
  const seconds = last.map((each) => Math.max(each.seconds, 1e-6));
  const low = Math.log(Math.min(...seconds, 1e-4));
  const high = Math.log(Math.max(...seconds, 1e-3));
  last.forEach((each, place) => {
    const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const height = 6 + (110 * (Math.log(seconds[place]) - low)) / (high - low);
    bar.setAttribute("x", 400 - 4 * (last.length - place));
    bar.setAttribute("y", 120 - height);
    bar.setAttribute("width", 3);
    bar.setAttribute("height", height);
    const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
    title.textContent = `${each.number}: ${each.workload}, ${time(each.seconds)}`;
    bar.append(title);
    chart.append(bar);
  });
  byId("least").textContent = `lowest ${time(seconds.length ? Math.min(...seconds) : null)}`;
  byId("most").textContent = `highest ${time(seconds.length ? Math.max(...seconds) : null)}`;
}

function showWorkloads(workloads) {
  const parent = byId("workloads");
  parent.replaceChildren();
  if (!Object.keys(workloads).length) make("p", "Nothing has been asked yet.", parent, "about");
  for (const [name, each] of Object.entries(workloads)) {
    const row = make("div", "", parent, "workload");
    make("b", name, row);
    for (const [label, value] of [
      ["asked", each.count],
      ["hits", share(each.hit_rate)],
      ["median", time(each.seconds.p50)],
      ["99 %", time(each.seconds.p99)],
      ["failed", each.failed],
    ]) {
      const cell = make("div", "", row);
      make("span", label, cell);
      cell.append(String(value));
    }
  }
}

function showFacts(found) {
  const { instances, cost, kept, requests, service } = found;
  const facts = byId("facts");
  facts.replaceChildren();
  for (const [name, value] of [
    ["Held in memory", `${size(instances.held_bytes)} of ${size(instances.capacity_bytes)}`],
    ["Kept for good", `${size(kept.bytes)}, ${kept.entries} entries; jobs: ${kept.jobs}`],
    ["Answered from statistics", `${requests.from_statistics} of ${requests.count}`],
    ["Instances lost", `${instances.num_lost}; ${instances.num_retries} requests run again`],
    ["Cold starts", `${instances.num_cold_starts}, ${time(instances.cold_start_seconds)} in all`],
    ["Busy", time(instances.busy_seconds)],
    ["Waiting", `${service.waiting}; ${service.refused} were turned away`],
    ["Functions, a month", `${cost.a_month.functions.toPrecision(3)} ${cost.currency}`],
    ["Calls, a month", `${cost.a_month.calls.toPrecision(3)} ${cost.currency}`],
    ["Storage, a month", `${cost.a_month.storage.toPrecision(3)} ${cost.currency}`],
    ["Prices of", cost.prices_of],
  ]) {
    make("dt", name, facts);
    make("dd", value, facts);
  }
}

function show(found) {
  byId("ask").hidden = true;
  byId("main").hidden = false;
  say(`${found.requests.count} requests, up for ${time(found.up_seconds)}`);
  showTiles(found);
  showChart(found.last);
  showWorkloads(found.workloads);
  showFacts(found);
}

function say(text, isBad = false) {
  byId("state").textContent = text;
  byId("state").classList.toggle("bad", isBad);
}

async function look() {
  const token = sessionStorage.getItem(TOKEN);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  try {
    // Asked first, since browsers log whatever is refused.
    if (!token && (await (await fetch("healthz")).json()).wants_token) return askForToken(token);
    const response = await fetch("v1/stats", { headers });
    if (response.ok) return show(await response.json());
    if (response.status === 401 || response.status === 403) return askForToken(token);
    say((await response.json()).error, true);
  } catch (error) {
    say(`the store does not answer: ${error.message}`, true);
  }
}

function askForToken(token) {
  sessionStorage.removeItem(TOKEN);
  byId("ask").hidden = false;
  byId("main").hidden = true;
  say(token ? "this token is not taken" : "a token is wanted", Boolean(token));
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, byId("token").value.trim());
  look();
});
setInterval(() => {
  if (!document.hidden && byId("ask").hidden) look();
}, EVERY_MS);
look();
