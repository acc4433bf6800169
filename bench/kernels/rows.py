"""What was measured of each case, and the rows and footnotes it makes."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kernels.kinds import KINDS
from kernels.settings import FORCED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kernels.cases import Case

_MIB = 2**20
_FAR_BEHIND = 2.0
_FORMATS = {"thr.": "d", "ours": ".2f", "MiB": ".2f"}


@dataclass
class Measured:
    """What is known of one case with one number of threads.

    Attributes:
        case: What was computed.
        threads: With how many threads.
        ours_seconds, ours_median_seconds: Our best and median run, beside peers as shipped.
        peers: Best seconds of each peer.
        medians: Median seconds of each peer.
        ratios: Of each peer's best run to ours in the same process.
        reasons: Why a peer has no figure.
        extra_bytes: Memory of ours besides operands and output.
        peer_extra_bytes: The same of peers.
        flops_per_second, bytes_per_second: The most the CPU was seen to do right before and after;
            None if that was not measured.
        failure: Why there is nothing of ours; empty if there is.
    """

    case: Case
    threads: int
    ours_seconds: float = 0.0
    ours_median_seconds: float = 0.0
    peers: dict[str, float] = field(default_factory=dict)
    medians: dict[str, float] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    extra_bytes: int = 0
    peer_extra_bytes: dict[str, int] = field(default_factory=dict)
    flops_per_second: float | None = None
    bytes_per_second: float | None = None
    failure: str = ""

    def add(self, answer: Mapping[str, Any], suffix: str) -> None:
        """Take in what one process found; names of its peers get the suffix."""
        if "failure" in answer:
            if suffix:
                self.reasons[suffix.strip()] = answer["failure"]
            else:
                self.failure = answer["failure"]
            return
        seconds, medians = dict(answer["seconds"]), dict(answer["medians"])
        ours, ours_median = seconds.pop("ours"), medians.pop("ours")
        if not suffix:
            self.ours_seconds, self.ours_median_seconds = ours, ours_median
            self.extra_bytes = answer["extra_bytes"]
            self.flops_per_second = answer["flops_per_second"]
            self.bytes_per_second = answer["bytes_per_second"]
        for name, value in seconds.items():
            self.peers[f"{name}{suffix}"] = value
            self.medians[f"{name}{suffix}"] = medians[name]
            self.ratios[f"{name}{suffix}"] = value / ours
        self.reasons |= {f"{name}{suffix}": why for name, why in answer["reasons"].items()}

    @property
    def best_peer(self) -> str | None:
        """The peer that was least slower than ours, or most faster; None if there is none."""
        return min(self.ratios, key=self.ratios.__getitem__, default=None)

    def to_row(self, peak: Peak) -> dict[str, Any]:
        """Return a JSON object, with shares of what the CPU can do."""
        kind, case, seconds = KINDS[self.case.kind], self.case, self.ours_seconds
        best = self.best_peer
        of_bandwidth = None
        if kind.is_bound_by_memory and peak.bytes_per_second is not None:
            of_bandwidth = 100 * case.kv_bytes / seconds / peak.bytes_per_second
        return {
            "kind": case.kind,
            "name": case.name,
            "problem": case.text,
            "threads": self.threads,
            "ours_ms": seconds * 1e3,
            "ours_median_ms": self.ours_median_seconds * 1e3,
            "peers": {name: value * 1e3 for name, value in self.peers.items()},
            "peers_median_ms": {name: value * 1e3 for name, value in self.medians.items()},
            "ratios": self.ratios,
            "best_peer": best,
            "ratio": None if best is None else self.ratios[best],
            "percent_of_peak": 100 * kind.flops(case.problem) / seconds / peak.flops_per_second,
            "percent_of_bandwidth": of_bandwidth,
            "extra_bytes": self.extra_bytes,
            "peer_extra_bytes": self.peer_extra_bytes,
            "reasons": self.reasons,
        }


@dataclass(frozen=True)
class Peak:
    """What the CPU can do with a number of threads.

    Attributes:
        flops_per_second: float32 operations.
        bytes_per_second: Bytes read from memory; None if that was not measured.
    """

    flops_per_second: float
    bytes_per_second: float | None

    @classmethod
    def of(cls, measured: Sequence[Measured], threads: int) -> Peak:
        """Return the median of what was seen beside each case.

        The most of all would be a clock that no case was lucky enough to have.
        """
        alike = [each for each in measured if each.threads == threads]
        flops = [each.flops_per_second for each in alike if each.flops_per_second is not None]
        read = [each.bytes_per_second for each in alike if each.bytes_per_second is not None]
        return cls(statistics.median(flops), statistics.median(read) if read else None)


def make_rows(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Return a JSON object for each case that was measured."""
    return [
        found.to_row(Peak.of(measured, found.threads))
        for found in measured
        if not found.failure and found.ours_seconds
    ]


def make_table(
    rows: Sequence[Mapping[str, Any]],
) -> tuple[list[dict[str, Any]], dict[str, str], tuple[str, ...]]:
    """Return rows as a table shows them, the formats of its columns, and its footnotes.

    Peers that are far behind everywhere get a note instead of a column.
    """
    behind = _behind_best(rows)
    names = [name for name, (least, _) in behind.items() if least < _FAR_BEHIND]
    numbers: dict[str, int] = {}
    shown = []
    for row in rows:
        is_read = row["percent_of_bandwidth"] is not None
        share = row["percent_of_bandwidth" if is_read else "percent_of_peak"]
        entry = {
            "kind": row["kind"],
            "case": row["name"] or row["problem"],
            "thr.": row["threads"],
            "ours": row["ours_ms"],
            "%_of": f"{share:.0f} {'read' if is_read else 'peak'}",
            "MiB": row["extra_bytes"] / _MIB,
            "ratio": "-" if row["ratio"] is None else f"{row['ratio']:.2f}",
        }
        for name in names:
            if name in row["peers"]:
                mark = "*" if name == row["best_peer"] else ""
                entry[name] = f"{mark}{row['peers'][name]:.2f}"
            elif reason := row["reasons"].get(name):
                entry[name] = f"-({numbers.setdefault(reason, len(numbers) + 1)})"
            else:
                entry[name] = "-"
        shown.append(entry)
    formats = dict.fromkeys(shown[0], "") if shown else {}
    formats |= {key: form for key, form in _FORMATS.items() if shown}
    notes = [f"({number}) {reason}" for reason, number in numbers.items()]
    notes += [
        f"{name}: {least:.1f} to {most:.1f} times the best peer's time"
        for name, (least, most) in behind.items()
        if name not in names
    ]
    missing = dict.fromkeys(
        name.removesuffix(FORCED) for row in rows for name in row["reasons"] if name not in behind
    )
    for name in missing:
        reasons = dict.fromkeys(row["reasons"][name] for row in rows if name in row["reasons"])
        notes.append(f"no {name}: {'; '.join(reasons)}")
    return shown, formats, tuple(notes)


def _behind_best(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Return how far each peer is behind the best one, at least and at most."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for name, ratio in row["ratios"].items():
            found.setdefault(name, []).append(ratio / row["ratio"])
    return {name: (min(values), max(values)) for name, values in found.items()}


def memory_notes(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return what peers take besides operands and output, the largest first, in one line each."""
    largest: dict[str, tuple[int, str]] = {}
    for row in rows:
        for name, size in row["peer_extra_bytes"].items():
            largest[name] = max(largest.get(name, (0, "")), (size, row["problem"]))
    return tuple(
        f"extra memory of {name}: up to {size / _MIB:.1f} MiB ({problem})"
        for name, (size, problem) in sorted(largest.items(), key=lambda item: -item[1][0])
    )
