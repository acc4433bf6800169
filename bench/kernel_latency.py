"""How fast are the kernels beside other libraries' attention, and beside what the CPU can do?

Ours and the peers take turns in one process, on the same operands in float32, and each is first
checked against numpy in float64. Every peer's best form is looked for: onnxruntime by its own ops
and by the graph that exporters write, torch by each backend it has for CPUs and by compiled flex
attention, OpenVINO by its op, told not to round to bfloat16. Libraries that pick slower kernels on
some CPUs than these can run are measured a second time with the choice forced, in a process of its
own in which ours runs, too; the ratio of a peer is to ours in its own process.

A ratio is the best peer's time over ours: above 1 we are faster. `kernels/turns.py` says why
figures are least CPU time with one thread, least time by the clock with several. Kinds: `dense`,
`causal`, `mask` (additive, shared by all heads), `gqa`, `decode` (one query, 4096 keys) are in
layout [batch, heads, rows, columns], `exported` in [batch, rows, heads * columns], as models have
it. ORT MHA and ORT GQA read the latter always, as they are made to; a cache of keys is in the
former. `bf16` has operands and output of that type, and our own kernel in float32 among its peers;
`backward` is the gradients of query, key and value from an output that is there. Share of peak
counts the operations that must be done (half and the diagonal if causal), over multiply-adds of
float32 in registers as measured here, of which products in bfloat16 may do twice as many; share of
read is key and value of a decode step over the measured bandwidth, above 100 if they fit a cache.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import PACKAGES, Choices, choices_of, make_parser, report, stamp
from kernels.cases import NOTATION, Case, ProblemError, parse_problem
from kernels.kinds import KINDS, LIBRARIES, is_installed
from kernels.plot import plot_ratios
from kernels.rows import Measured, Peak, make_rows, make_table, memory_notes
from kernels.settings import Setting, ask, force_mkl

from hocket.compiler.driver import kernels_refuse
from hocket.hwmodels.dtypes import DType

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

# Of the page; the table on the terminal has a column for every peer.
COLUMNS = {
    "kind": "",
    "problem": "",
    "threads": "d",
    "ours_ms": ".2f",
    "percent_of_peak": ".0f",
    "percent_of_bandwidth": ".0f",
    "best_peer": "",
    "ratio": ".2f",
}

QUESTION = "our kernels beside other libraries' attention, ms (timed)"


def main() -> None:
    """Print and write the table, and draw it."""
    found, choices, cases = read_command_line()
    if found.plot is not None:
        _require_matplotlib()
    with tempfile.TemporaryDirectory(prefix="hocket-bench-") as folder:
        settings, notes = [Setting()], []
        forced, why_not = force_mkl(Path(folder), found.peers)
        if forced is not None:
            settings.append(forced)
        elif why_not:
            notes.append(why_not)
        kernel_sets = describe_peers(settings, choices, found.peers)
        measured = measure(cases, settings, choices, found.peers)
    rows = make_rows(measured)
    if rows:
        notes += remarks(measured, choices, found.peers)
        shown, columns, footnotes = make_table(rows)
        packages = tuple(name for name in LIBRARIES if name not in PACKAGES and is_installed(name))
        report(
            QUESTION,
            rows,
            columns,
            choices,
            shown=shown,
            notes=("* best peer", *footnotes, *memory_notes(rows), *kernel_sets, *notes),
            about=stamp((*PACKAGES, *packages)) | {"peers": kernel_sets},
        )
        if found.plot is not None:
            plot_ratios(rows, found.plot)
            print(f"drawn to {found.plot}")
    failures = [f"{each.case.text}: {each.failure}" for each in measured if each.failure]
    if failures:
        sys.exit("\n".join(failures))


def read_command_line() -> tuple[argparse.Namespace, Choices, list[Case]]:
    """Return what was asked for; ends the process, with a message, if that makes no sense."""
    parser = make_parser(QUESTION)
    parser.add_argument(
        "--problem",
        action="append",
        metavar="SIZES",
        help=f"a case to time in place of the usual ones, {NOTATION}; may be repeated",
    )
    parser.add_argument(
        "--kind", nargs="+", choices=list(KINDS), default=list(KINDS), help="kinds to time"
    )
    parser.add_argument(
        "--peers", nargs="+", choices=LIBRARIES, default=list(LIBRARIES), help="to compare with"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the ratios into a PNG")
    found = parser.parse_args()
    choices = choices_of(found)
    if min(choices.threads) < 1:
        parser.error(f"--threads must be at least 1, got {min(choices.threads)}")
    try:
        cases = [read_problem(text) for text in found.problem or ()]
    except ProblemError as error:
        parser.error(str(error))
    if not cases:
        cases = [case for kind in found.kind for case in KINDS[kind].make_cases(choices.quick)]
    return found, choices, cases


def read_problem(text: str) -> Case:
    """Read a case that the kernels can compute.

    Raises:
        ProblemError: It cannot be read, or they cannot.
    """
    case = parse_problem(text)
    # In float32, because the compiler leaves bfloat16 alone, which the kernels do not.
    refusal = kernels_refuse(dataclasses.replace(case.problem, dtype=DType.FLOAT32))
    if refusal is not None:
        raise ProblemError(f"problem {text!r}: the kernels do not serve it: {refusal}")
    return case


def measure(
    cases: Sequence[Case],
    settings: Sequence[Setting],
    choices: Choices,
    libraries: Sequence[str],
) -> list[Measured]:
    """Time every case in every setting, and measure the memory of peers."""
    measured = []
    for threads in choices.threads[:1] if choices.quick else choices.threads:
        found = [Measured(case, threads) for case in cases]
        switches: dict[str, Any] = {
            "threads": threads,
            "libraries": libraries,
            "is_quick": choices.quick,
        }
        for setting in settings:
            for answer, each in zip(ask("time", cases, setting, **switches), found, strict=False):
                each.add(answer, setting.name)
                _say(each, setting)
        for answer, each in zip(ask("memory", cases, settings[0], **switches), found, strict=False):
            each.peer_extra_bytes = answer.get("extra_bytes", {})
        measured += found
    return measured


def describe_peers(
    settings: Sequence[Setting], choices: Choices, libraries: Sequence[str]
) -> list[str]:
    """Return which kernels each library took, a line each."""
    lines = []
    for setting in settings:
        answers = ask(
            "describe",
            [],
            setting,
            threads=1,
            libraries=["torch"] if setting.is_forced else libraries,
            is_quick=choices.quick,
        )
        lines += [
            f"{answer['library']}{setting.name}: {answer['kernels']}; product of matrices "
            f"{answer['sgemm_gflops']:.0f} GFLOP/s a core"
            for answer in answers
            if "failure" not in answer
        ]
    return lines


def remarks(measured: Sequence[Measured], choices: Choices, libraries: Sequence[str]) -> list[str]:
    """Return what a reader must know of the run: who was missing, and what the CPU could do."""
    lines = [f"not installed: {name}" for name in libraries if not is_installed(name)]
    if choices.quick and "torch" in libraries and is_installed("torch"):
        lines.append("torch flex takes part in the full form only: it compiles for each case")
    served = [each for each in measured if not each.failure]
    counts = list(dict.fromkeys(each.threads for each in served))
    if max(counts) > 1 and os.getloadavg()[0] > len(os.sched_getaffinity(0)):
        lines.append("others kept the machine busy: rows of several threads say little")
    for threads in counts:
        peak = Peak.of(served, threads)
        read = peak.bytes_per_second
        memory = "" if read is None else f", {read / 1e9:.1f} GB/s read from memory"
        count = f"{threads} threads" if threads > 1 else "one thread"
        lines.append(f"peak of {count}: {peak.flops_per_second / 1e9:.0f} GFLOP/s{memory}")
    return lines


def _say(found: Measured, setting: Setting) -> None:
    """Show on standard error how far the measurement is."""
    ratio = found.ratios[found.best_peer] if found.best_peer else float("nan")
    what = found.failure or f"{found.ours_seconds * 1e3:.2f} ms, {ratio:.2f} {found.best_peer}"
    label = f"{found.case.kind} {found.case.name or found.case.text}{setting.name}"
    print(f"{label}, {found.threads} threads: {what}", file=sys.stderr)


def _require_matplotlib() -> None:
    if not is_installed("matplotlib"):
        sys.exit("--plot needs matplotlib: pip install 'hocket[plot]'")


if __name__ == "__main__":
    main()
