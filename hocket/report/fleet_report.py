"""The report of fleets: what jobs learned, who worked for them, what the store answered."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from hocket.fleet.report import compare_fleets, quality_of
from hocket.inspection import inspect_artifact
from hocket.report.fleet_drawings import Work, draw_devices, draw_learning
from hocket.report.module_report import attention_sections
from hocket.report.page import Section, facts, figure, page_html, paragraph, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hocket.runtime.artifact import Artifact

    Fleet = Mapping[str, Any]

_HOUR = 3600
_MEASURES = {
    "server_accuracy": "accuracy",
    "server_perplexity": "perplexity",
    "server_loss": "loss",
}
MAX_DEVICES = 60
"""Lines of a drawing: those of the devices that worked longest."""


def fleet_report(fleets: Sequence[Fleet], module: tuple[str, Artifact] | None = None) -> str:
    """Return the report of a fleet, and beside it of others, as a page.

    Args:
        fleets: What ``read_fleet`` returns, one or more; the first is shown in full.
        module: What ``read_module`` returns: whose attention is shown.

    Raises:
        PlotError: matplotlib is not installed.
    """
    first = fleets[0]
    rows = compare_fleets(fleets)
    sections = [
        Section("Jobs", tuple(_jobs(first))),
        Section("Learning", tuple(_learning(first))),
        Section("Devices", tuple(_devices(first))),
        Section("Classes of devices", tuple(_classes(first))),
        Section("Requests", tuple(_requests(first))),
        Section("Costs", tuple(_costs(rows))),
        *_attention(module),
    ]
    if len(fleets) > 1:
        sections.insert(1, Section("Beside others", tuple(_compared(rows))))
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


def _compared(rows: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    first, jobs = rows[0]["mean_completion_seconds"], list(rows[0]["quality"])
    cells = []
    for row in rows:
        models = [row["quality"].get(job, ("", math.nan))[1] for job in jobs]
        cells.append(
            (
                _name(row),
                _hours(row["mean_completion_seconds"]),
                f"{first / row['mean_completion_seconds']:.2f}x",
                f"{row['device_hours']:.3g}",
                f"{row['joules']:,.3g} J",
                f"{row['bytes'] / 1e6:,.3g} MB",
                *(f"{value:.4g}" for value in models),
                "yes" if row["digests"] == rows[0]["digests"] else "no",
            )
        )
    header = ("fleet", "mean completion", "of first", "device hours", "energy", "sent", *jobs)
    yield table((*header, "models as first"), cells)
    least, most = (f"{100 * share:.2g} %" for share in rows[0]["attention_share"])
    yield paragraph(
        f"Attention takes {least} to {most} of the time of a training step, by job and class of "
        "devices: a dataflow can save no more of it. Models as first: whether all jobs came "
        "to the very bits of the first fleet's, which another engine must."
    )


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


def _classes(fleet: Fleet) -> Iterable[str]:
    rows = []
    for name, each in fleet["classes"].items():
        for job, step in each["steps"].items():
            rows.append(
                (
                    name,
                    each["target"],
                    str(each["num_devices"]),
                    job,
                    "yes" if job in each["jobs"] else "no",
                    f"{step['seconds'] * 1e3:,.3g} ms",
                    f"{step['attention_seconds'] / step['seconds']:.2%}",
                    f"{step['joules'] * 1e6:,.3g} uJ",
                    f"{step['attention_memory_joules'] * 1e6:,.3g} uJ",
                )
            )
    header = (
        "class",
        "machine",
        "devices",
        "job",
        "takes part",
        "training step",
        "of it attention",
    )
    yield table((*header, "energy of a step", "attention's memory"), rows, text=("machine", "job"))
    yield paragraph(
        "By each job's model compiled for the class's machine: a step of the whole model, forward "
        "and backward. A class takes part that has the memory, and the time if the file gives one."
    )


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
                _duration(statistics.median(seconds)),
                _duration(max(seconds)),
                f"{hits} of {reads}" if reads else "reads none",
                str(sum(bool(each["error"]) for each, _ in answers)),
            )
        )
    header = ("workload", "of", "asked", "median", "longest", "from memory", "without an answer")
    yield table(header, rows, text=("of",))
    reads = sum(each["num_reads"] for each in fleet["requests"])
    hits = sum(took["num_hits"] for took in measured)
    rate = f": {hits / reads:.0%} of {reads} entries" if reads else ", for none was read"
    yield paragraph(
        f"From memory{rate}. Work that reads none is answered by what was worked out when updates "
        "came."
    )
    said = [
        (each["job"], str(each["round"]), f"{each['answer']['accuracy']:.3f}")
        for each in fleet["requests"]
        if each["workload"] == "inference" and "accuracy" in each["answer"]
    ]
    if said:
        yield paragraph(
            "Inference: how often a round's model, run by its compiled module, was right on the "
            "examples that the store has."
        )
        yield table(("job", "round", "accuracy"), said)


def _costs(rows: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    cells = []
    for row in rows:
        bill = row["bill"]
        amounts = (
            bill[key] for key in ("energy", "downloads", "mobile", "by_request", "always_on")
        )
        cells.append(
            (
                _name(row),
                f"{bill['hours']:,.1f} h",
                *(f"{amount:,.3g} {bill['currency']}" for amount in amounts),
            )
        )
    header = ("fleet", "simulated", "energy", "downloads", "mobile data", "store by request")
    yield table((*header, "store always on"), cells)
    yield paragraph(
        "From the first job's arrival to the last one's end, by hocket/fleet/prices.toml and the "
        "store's price book. Energy is of devices' work; downloads are what a cloud charges for "
        "them; mobile data is what devices would pay if all were on a mobile plan. The store: as "
        "functions with its memory, paid by the request and kept warm, or as a server that is on "
        "all the time."
    )


def _attention(module: tuple[str, Artifact] | None) -> Iterable[Section]:
    if module is None:
        yield Section("Layers", (paragraph("The compiled modules are not beside the result."),))
        return
    shown, artifact = module
    for number, section in enumerate(attention_sections(inspect_artifact(artifact))):
        lead = paragraph(
            f"{shown}, compiled for {artifact.target.name}: {artifact.target.description}"
        )
        yield Section(section.title, (lead, *section.parts) if not number else section.parts)


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['policy']}, {row['dataflow']}, {row['engine']}"


def _hours(seconds: float) -> str:
    return f"{seconds / _HOUR:,.2f} h"


def _duration(seconds: float) -> str:
    return f"{seconds * 1e3:,.3g} ms" if seconds < 1 else f"{seconds:,.3g} s"


def _megabytes(spent: Mapping[str, Any]) -> str:
    return f"{(spent['download_bytes'] + spent['upload_bytes']) / 1e6:,.3g} MB"
