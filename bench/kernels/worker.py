"""A process that does what the bench asks of it, and answers with one JSON object a line.

Run as ``python -m kernels.worker`` with a request on its standard input: in a process of its own
because settings of libraries are read when they load, and because the peak of the memory of one
that has already done something else says nothing. A request holds a ``task`` of ``TASKS``, the
``cases``, the number of ``threads``, the ``libraries`` to take part, and whether it ``is_quick``.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

from hocket.memory_probe import peak_bytes, start_counting
from hocket.runtime.workers import WorkerPool
from kernels import onnx_peers, openvino_peer, torch_peers
from kernels.cases import Case, parse_problem, shrink
from kernels.contenders import NotServedError
from kernels.kinds import KINDS, LIBRARIES, OUR_LIBRARY, is_installed
from kernels.operands import Operands
from kernels.peaks import Peaks
from kernels.turns import take_turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kernels.contenders import Contender, Peer
    from kernels.operands import Expected

OURS = "ours"

_SECONDS, _QUICK_SECONDS = 3.0, 0.5
_SGEMM_SIZE = 1024
_MEMORY_RUNS = 2
# Libraries keep scores two or three times over while they work.
_COPIES_OF_SCORES = 3


def describe(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Say which kernels each library took, and how fast its matrix product is."""
    threads = request["threads"]
    own_words: dict[str, Callable[[], str]] = {
        "onnxruntime": lambda: "picks by CPUID, does not say which",
        "torch": torch_peers.describe,
        "openvino": lambda: openvino_peer.describe(Operands(parse_problem("2,256,256,64"))),
    }
    products: dict[str, Callable[[int, int], Contender]] = {
        "onnxruntime": onnx_peers.sgemm,
        "torch": torch_peers.sgemm,
        "openvino": openvino_peer.sgemm,
    }
    for library in _present(request):
        words = own_words[library]()
        product = products[library](threads, _SGEMM_SIZE)
        seconds = take_turns({library: product.run}, 1, seconds=0.3)[library].best_seconds
        yield {
            "library": library,
            "kernels": words,
            "sgemm_gflops": 2 * _SGEMM_SIZE**3 / seconds / 1e9,
        }


def measure_time(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Time each case in turns: ours, one peer after the other, and again."""
    threads, is_quick = request["threads"], request["is_quick"]
    with WorkerPool(threads) as pool:
        peaks = Peaks(pool, is_quick=is_quick)
        for case in _cases(request):
            kind = KINDS[case.kind]
            operands = Operands(case)
            expected = kind.expect(operands)
            ours = kind.make_ours(operands, pool)
            ours.run()
            error = expected.error(ours.result())
            if not error <= kind.tolerance:
                raise ArithmeticError(
                    f"ours is off by {error:.1e} on {case.text}; {kind.tolerance:.0e} is allowed"
                )
            contenders, reasons = {OURS: ours}, {}
            for peer in _peers(case, request):
                try:
                    contenders[peer.name] = _make_checked(peer, operands, expected, threads)
                except Exception as failure:  # noqa: BLE001 - whatever a peer does is its footnote
                    reasons[peer.name] = _reason(failure)
            flops_per_second = peaks.flops_per_second()
            timings = take_turns(
                {name: contender.run for name, contender in contenders.items()},
                threads,
                seconds=_QUICK_SECONDS if is_quick else _SECONDS,
            )
            yield {
                "seconds": {name: timing.best_seconds for name, timing in timings.items()},
                "medians": {name: timing.median_seconds for name, timing in timings.items()},
                "reasons": reasons,
                "extra_bytes": ours.extra_bytes,
                "flops_per_second": max(flops_per_second, peaks.flops_per_second()),
                "bytes_per_second": peaks.bytes_per_second() if kind.is_bound_by_memory else None,
            }


def measure_memory(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Measure what each peer adds to the peak of a process that has loaded its library."""
    for library in _present(request):
        __import__(library)
    for case in _cases(request):
        operands = Operands(case)
        # Made now, so that nobody is charged for them.
        _ = operands.merged, operands.causal_mask if case.problem.is_causal else None
        found = {}
        for peer in _peers(case, request):
            if peer.compiles:
                continue
            extra_bytes = _in_child(
                functools.partial(_extra_bytes, peer, operands, request["threads"])
            )
            if extra_bytes is not None:
                found[peer.name] = extra_bytes
        yield {"extra_bytes": found}


TASKS: dict[str, Callable[[dict[str, Any]], Iterator[dict[str, Any]]]] = {
    "describe": describe,
    "time": measure_time,
    "memory": measure_memory,
}


def main() -> None:
    """Read the request and carry it out."""
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    warnings.simplefilter("ignore")
    request = json.load(sys.stdin)
    for answer in TASKS[request["task"]](request):
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _cases(request: dict[str, Any]) -> Iterator[Case]:
    for entry in request["cases"]:
        parsed = parse_problem(entry["problem"])
        yield dataclasses.replace(parsed, kind=entry["kind"], name=entry["name"])


def _present(request: dict[str, Any]) -> list[str]:
    return [name for name in LIBRARIES if name in request["libraries"] and is_installed(name)]


def _peers(case: Case, request: dict[str, Any]) -> list[Peer]:
    return [
        peer
        for peer in KINDS[case.kind].peers
        if peer.library in (*_present(request), OUR_LIBRARY)
        and not (peer.compiles and request["is_quick"])
        and (peer.uses_mkl or not request["is_forced"])
    ]


def _make(peer: Peer, operands: Operands, threads: int) -> Contender:
    if peer.keeps_scores:
        problem = operands.problem
        wanted = _COPIES_OF_SCORES * math.prod(problem.scores_shape) * problem.dtype.itemsize
        present = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if wanted > present // 2:
            raise NotServedError(f"would take some {wanted / 2**30:.0f} GiB for scores")
    return peer.make(operands, threads)


def _make_checked(peer: Peer, operands: Operands, expected: Expected, threads: int) -> Contender:
    contender = _make(peer, operands, threads)
    contender.run()
    error, tolerance = expected.error(contender.result()), KINDS[operands.case.kind].tolerance
    if not error <= tolerance:
        raise NotServedError(f"off by {error:.1e}, more than {tolerance:.0e}")
    return contender


def _extra_bytes(peer: Peer, operands: Operands, threads: int) -> int:
    # What the library itself takes once is not counted.
    _make(peer, Operands(shrink(operands.case)), threads).run()
    before = start_counting()
    contender = _make(peer, operands, threads)
    for _ in range(_MEMORY_RUNS):
        contender.run()
    return max(peak_bytes() - before - contender.operand_bytes, 0)


def _in_child(function: Callable[[], int]) -> int | None:
    """Return what a function returns in a copy of this process; None if it fails there."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, str(function()).encode())
        except Exception:  # noqa: BLE001 - the time task says why a peer fails
            os._exit(1)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        content = file.read()
    os.waitpid(child, 0)
    return int(content) if content else None


def _reason(failure: Exception) -> str:
    lines = str(failure).strip().splitlines() or [type(failure).__name__]
    sentence = lines[0].split(". ")[0].rstrip(".")
    return sentence if len(sentence) <= 120 else f"{sentence[:117]}..."


if __name__ == "__main__":
    main()
