"""The report of fleets: what jobs learned, who worked for them, what the store answered."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from hocket.fleet.report import compare_fleets, quality_of
from hocket.report.fleet_drawings import Work, draw_devices, draw_learning
from hocket.report.page import Section, facts, figure, page_html, paragraph, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Fleet = Mapping[str, Any]

_HOUR = 3600
_MEASURES = {
    "server_accuracy": "accuracy",
    "server_perplexity": "perplexity",
    "server_loss": "loss",
}
MAX_DEVICES = 60
"""Lines of a drawing: those of the devices that worked longest."""


def fleet_report(fleets: Sequence[Fleet]) -> str:
    """Return the report of a fleet, and beside it of others, as a page.

    Args:
        fleets: What ``read_fleet`` returns, one or more; the first is shown in full.

    Raises:
        PlotError: matplotlib is not installed.
    """
    first = fleets[0]
    sections = [
        Section("Jobs", tuple(_jobs(first))),
        Section("Learning", tuple(_learning(first))),
        Section("Devices", tuple(_devices(first))),
        Section("Requests", tuple(_requests(first))),
    ]
    if len(fleets) > 1:
        sections.insert(1, Section("Beside others", tuple(_compared(fleets))))
    return page_html(
        f"fleet {first['file']}",
        f"{len(first['jobs'])} jobs on {len(first['devices'])} devices, policy {first['policy']}, "
        f"dataflow {first['dataflow']}, in simulated time",
        sections,
    )


def _jobs(fleet: Fleet) -> Iterable[str]:
    totals = fleet["totals"]
    yield facts(
        [
            ("mean completion", _hours(fleet["mean_completion_seconds"])),
            ("device hours", f"{totals['device_hours']:.3g}"),
            ("energy", f"{totals['joules']:,.3g} J"),
            ("sent", _megabytes(totals)),
            ("answers that counted", f"{totals['num_answered']} of {totals['num_given']}"),
        ]
    )
    rows = []
    for name, job in fleet["jobs"].items():
        measure, value = quality_of(job)
        rows.append(
            (
                name,
                _hours(job["arrival_seconds"]),
                _hours(job["completion_seconds"]),
                _hours(job["waiting_seconds"]),
                str(job["num_rounds"]),
                str(job["num_failed_rounds"]),
                f"{job['device_hours']:.3g}",
                f"{job['joules']:,.3g} J",
                _megabytes(job),
                f"{measure} {value:.4g}",
            )
        )
    header = ("job", "came at", "took", "waiting", "rounds", "tried again", "device hours")
    yield table((*header, "energy", "sent", "model"), rows)
    yield paragraph(
        "Waiting: until rounds had their devices. Energy is of the machines' models: arithmetic, "
        "leakage, and memory as far as attention's programs tell it."
    )


def _compared(fleets: Sequence[Fleet]) -> Iterable[str]:
    rows = compare_fleets(fleets)
    first, jobs = rows[0]["mean_completion_seconds"], list(fleets[0]["jobs"])
    cells = []
    for row in rows:
        models = [row["quality"].get(job, ("", math.nan))[1] for job in jobs]
        cells.append(
            (
                row["policy"],
                row["dataflow"],
                _hours(row["mean_completion_seconds"]),
                f"{first / row['mean_completion_seconds']:.2f}x",
                f"{row['device_hours']:.3g}",
                f"{row['joules']:,.3g} J",
                f"{row['bytes'] / 1e6:,.3g} MB",
                *(f"{value:.4g}" for value in models),
            )
        )
    header = ("policy", "dataflow", "mean completion", "of first", "device hours", "energy", "sent")
    yield table((*header, *jobs), cells, text=("dataflow",))


def _learning(fleet: Fleet) -> Iterable[str]:
    curves: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(dict)
    for name, job in fleet["jobs"].items():
        for key, measure in _MEASURES.items():
            points = [
                (each["ended"] / _HOUR, each["evaluate_metrics"][key])
                for each in job["rounds"]
                if key in each["evaluate_metrics"]
            ]
            if points:
                curves[measure][name] = points
                break
    if not curves:
        yield paragraph("No round was evaluated.")
        return
    yield figure(
        draw_learning(list(fleet["jobs"]), curves),
        "Of the server's held-out data, when the round was over.",
    )


def _devices(fleet: Fleet) -> Iterable[str]:
    jobs, work = list(fleet["jobs"]), {}
    for name, device in fleet["devices"].items():
        mine = [
            Work(
                each["job"],
                each["began"] / _HOUR,
                each["ended"] / _HOUR,
                each["outcome"] == "answered",
            )
            for each in device["segments"]
        ]
        if mine:
            work[f"{name} ({device['class']})"] = mine
    longest = sorted(work, key=lambda name: -sum(each.ended - each.began for each in work[name]))
    shown = {name: work[name] for name in sorted(longest[:MAX_DEVICES])}
    if shown:
        yield figure(
            draw_devices(jobs, shown),
            f"Work of {len(shown)} devices, in the colours of the jobs above; pale where it was in "
            f"vain. {len(fleet['devices']) - len(work)} of {len(fleet['devices'])} had none.",
        )
    rows = [
        (
            name,
            each["target"],
            str(each["num_devices"]),
            ", ".join(each["jobs"]) or "none",
            *(f"{each['step_seconds'][job] * 1e3:,.3g} ms" for job in jobs),
        )
        for name, each in fleet["classes"].items()
    ]
    header = (
        "class",
        "machine",
        "devices",
        "can take part in",
        *(f"step of {job}" for job in jobs),
    )
    yield table(header, rows, text=("machine", "can take part in"))


def _requests(fleet: Fleet) -> Iterable[str]:
    asked: dict[str, list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = defaultdict(list)
    measured = fleet["measured"]["requests"]
    for each, took in zip(fleet["requests"], measured, strict=True):
        asked[each["workload"]].append((each, took))
    if not asked:
        yield paragraph("The file asks the store for nothing.")
        return
    rows = []
    for workload, answers in asked.items():
        seconds = [took["seconds"] for _, took in answers]
        reads = sum(each["num_reads"] for each, _ in answers)
        hits = sum(took["num_hits"] for _, took in answers)
        rows.append(
            (
                workload,
                ", ".join(sorted({each["job"] for each, _ in answers})),
                str(len(answers)),
                f"{statistics.median(seconds) * 1e3:,.3g} ms",
                f"{max(seconds) * 1e3:,.3g} ms",
                f"{hits} of {reads}" if reads else "reads none",
                str(sum(bool(each["error"]) for each, _ in answers)),
            )
        )
    header = ("workload", "of", "asked", "median", "longest", "from memory", "without an answer")
    yield table(header, rows, text=("of",))


def _hours(seconds: float) -> str:
    return f"{seconds / _HOUR:,.2f} h"


def _megabytes(spent: Mapping[str, Any]) -> str:
    return f"{(spent['download_bytes'] + spent['upload_bytes']) / 1e6:,.3g} MB"
