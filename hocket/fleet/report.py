"""What came of a fleet, as values of JSON, and how two fleets differ.

All of it follows from the file and its seeds, except what is under ``measured``: a run that was
stopped and resumed says the same.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hocket.fl.core.errors import ConfigError
from hocket.fl.store.pricing import load_prices
from hocket.fleet.bills import bill_of, load_device_prices
from hocket.runtime.artifact import load_artifact

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    from hocket.fl.core.backend import LocalTraining
    from hocket.fleet.costs import ClassModel
    from hocket.fleet.history import History, RoundTimes, Segment
    from hocket.fleet.jobs import TrainedJob
    from hocket.fleet.run import Ended
    from hocket.runtime.artifact import Artifact

VERSION = 2
MODULES = "modules"
"""Folder beside the result: compiled modules, by ``module_name``."""
_MEASURED = ("seconds", "num_hits")
_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("file", "policy", "dataflow"), str),
    **dict.fromkeys(("totals", "classes", "jobs", "devices", "measured", "store"), dict),
    "mean_completion_seconds": (int, float),
    "requests": list,
}


def describe_fleet(ended: Ended) -> dict[str, Any]:
    """Return what came of a fleet."""
    config, history = ended.fleet.config, ended.history
    jobs = {job.name: _describe_job(job, history) for job in ended.jobs}
    return {
        "version": VERSION,
        "file": Path(config.origin).name,
        "policy": config.fleet.policy,
        "dataflow": config.fleet.dataflow,
        "seeds": {"fleet": config.fleet.seed, "population": config.population.seed},
        "fingerprint": ended.fleet.fingerprint,
        "mean_completion_seconds": statistics.fmean(
            job["completion_seconds"] for job in jobs.values()
        ),
        "totals": _totals(history.segments),
        "classes": _describe_classes(ended),
        "jobs": jobs,
        "devices": _describe_devices(ended),
        "store": {
            "memory_bytes": config.store.memory_bytes,
            "kept_bytes": ended.kept_bytes,
        },
        "requests": [
            {name: value for name, value in each.items() if name not in _MEASURED}
            for each in ended.answers
        ],
        "measured": {
            "engine": config.engine.name,
            "wall_seconds": ended.wall_seconds,
            "requests": [{name: each[name] for name in _MEASURED} for each in ended.answers],
        },
    }


def _describe_job(job: TrainedJob, history: History) -> dict[str, Any]:
    name = job.name
    arrival = history.arrivals[name]
    times = [each for each in history.rounds if each.job == name]
    mine = [each for each in history.segments if each.job == name]
    return {
        "arrival_seconds": arrival,
        "completion_seconds": history.completions[name] - arrival,
        "waiting_seconds": sum(each.filled - each.asked for each in times),
        "responding_seconds": sum(each.ended - each.filled for each in times),
        "num_rounds": len(times),
        "num_failed_rounds": sum(each.attempts - 1 for each in times),
        "digest": job.reports[-1].digest,
        "requirement": job.demand.minimum(name),
        **_totals(mine),
        "rounds": [
            _describe_round(each, job) for each in sorted(times, key=lambda each: each.round)
        ],
    }


def _describe_round(times: RoundTimes, job: TrainedJob) -> dict[str, Any]:
    report = job.reports[times.round - 1]
    found = asdict(times)
    del found["job"]
    return found | {
        "has_quorum": report.has_quorum,
        "train_metrics": dict(report.train_metrics),
        "evaluate_metrics": dict(report.evaluate_metrics),
        "digest": report.digest,
        "failures": list(report.failures),
    }


def _describe_classes(ended: Ended) -> dict[str, Any]:
    fleet = ended.fleet
    attributes, kinds = fleet.attributes(), list(fleet.population.classes.values())
    found = {}
    for each in fleet.config.classes:
        able = []
        for job in ended.jobs:
            wanted = job.demand.minimum(job.name).items()
            if all(attributes[each.name][key] >= least for key, least in wanted):
                able.append(job.name)
        found[each.name] = {
            "target": Path(each.target).name,
            "num_devices": kinds.count(each.name),
            "attributes": attributes[each.name],
            "jobs": able,
            "steps": {
                job.name: _describe_step(job.demand.models[each.name], job.demand.training)
                for job in ended.jobs
            },
            "modules": {
                job.name: job.demand.models[each.name].backend.artifact.digest for job in ended.jobs
            },
        }
    return found


def _describe_step(model: ClassModel, training: LocalTraining) -> dict[str, float]:
    """Return what a training step of the whole model takes, and what of it attention does."""
    footprint = model.footprint(training)
    moved = model.attention_joules(training)
    return {
        "seconds": footprint.step_seconds,
        "attention_seconds": footprint.attention_seconds,
        "joules": model.joules(footprint) + moved,
        "attention_memory_joules": moved,
    }


def module_name(digest: str) -> str:
    """Return the file's name that a module of a digest has among ``MODULES``."""
    return f"{digest[:16]}.hkt"


def _describe_devices(ended: Ended) -> dict[str, Any]:
    segments: dict[str, list[dict[str, Any]]] = {}
    for each in ended.history.segments:
        about = asdict(each)
        segments.setdefault(about.pop("device"), []).append(about)
    return {
        name: {"class": kind, "segments": segments.get(name, [])}
        for name, kind in ended.fleet.population.classes.items()
    }


def _totals(segments: Iterable[Segment]) -> dict[str, float]:
    """Return what devices gave, useful and in vain."""
    found = list(segments)
    return {
        "device_hours": sum(each.ended - each.began for each in found) / 3600,
        "joules": sum(each.joules for each in found),
        "download_bytes": sum(each.download_bytes for each in found),
        "upload_bytes": sum(each.upload_bytes for each in found),
        "num_given": len(found),
        "num_answered": sum(each.outcome == "answered" for each in found),
    }


def read_fleet(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a fleet has left.

    Raises:
        ConfigError: There is no such file, or it holds something else.
    """
    place = Path(path)
    place = place / "fleet.json" if place.is_dir() else place
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{place}: no such file; `hocket fleet run` writes one") from None
    except ValueError as error:
        raise ConfigError(f"{place}: cannot be read: {error}") from error
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise ConfigError(f"{place}: want what `hocket fleet run` of this version writes")
    for key, kind in _KINDS.items():
        if not isinstance(found.get(key), kind):
            raise ConfigError(f"{place}: {key}: it is missing, or damaged; run the fleet again")
    return found


def read_module(path: str | os.PathLike[str], shown: str = "") -> tuple[str, Artifact] | None:
    """Return what a class of devices runs for a job, with a name; None if it is not there any more.

    Args:
        path: As ``read_fleet`` takes it.
        shown: ``CLASS/JOB``; empty for the first class that takes part in any job, and its first.

    Raises:
        ConfigError: There is no such class or job.
        ArtifactError: The file is damaged, or another one.
    """
    fleet, place = read_fleet(path), Path(path)
    choices = {
        f"{name}/{job}": digest
        for name, each in fleet["classes"].items()
        for job, digest in each["modules"].items()
        if job in each["jobs"]
    }
    if shown and shown not in choices:
        raise ConfigError(f"--module: no {shown!r}; there are {', '.join(choices)}")
    if not choices:
        return None
    shown = shown or next(iter(choices))
    folder = place if place.is_dir() else place.parent
    file = folder / MODULES / module_name(choices[shown])
    return (shown, load_artifact(file, choices[shown])) if file.exists() else None


def compare_fleets(fleets: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row a fleet: what may differ between them, in the order in which they are given."""
    prices, devices = load_prices(), load_device_prices()
    rows = []
    for fleet in fleets:
        jobs, totals = fleet["jobs"], fleet["totals"]
        rows.append(
            {
                "policy": fleet["policy"],
                "dataflow": fleet["dataflow"],
                "engine": fleet["measured"]["engine"],
                "mean_completion_seconds": fleet["mean_completion_seconds"],
                "device_hours": totals["device_hours"],
                "joules": totals["joules"],
                "bytes": totals["download_bytes"] + totals["upload_bytes"],
                "useful": totals["num_answered"] / max(totals["num_given"], 1),
                "attention_share": attention_shares(fleet),
                "digests": {name: job["digest"] for name, job in jobs.items()},
                "bill": asdict(bill_of(fleet, prices, devices)),
                "quality": {name: quality_of(job) for name, job in jobs.items()},
            }
        )
    return rows


def attention_shares(fleet: Mapping[str, Any]) -> tuple[float, float]:
    """Return the least and the largest part of a training step that attention takes.

    Of all jobs, on all classes of devices that take part in them.
    """
    shares = [
        step["attention_seconds"] / step["seconds"]
        for each in fleet["classes"].values()
        for job, step in each["steps"].items()
        if job in each["jobs"]
    ]
    return min(shares, default=0.0), max(shares, default=0.0)


def quality_of(job: Mapping[str, Any]) -> tuple[str, float]:
    """Return the last figure of how good a job's model is, with its name."""
    for each in reversed(job["rounds"]):
        for name in ("server_accuracy", "server_perplexity", "server_loss"):
            if name in each["evaluate_metrics"]:
                return name.removeprefix("server_"), each["evaluate_metrics"][name]
    return "", float("nan")
