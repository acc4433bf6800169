"""One file of the zoo at one size: what is found in it, and whether the numbers are right."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hocket
from hocket.benchmarking import compare_with_onnxruntime
from hocket.sampling import edge_case_feeds, random_feeds
from hocket.verification import ReferenceSession, VerificationError, verify_against_model
from zoo.exports import export
from zoo.judge import judge
from zoo.models import Packaged, ZooError, dims_of
from zoo.packaged import find_file

if TYPE_CHECKING:
    from hocket.runtime.artifact import Artifact
    from zoo.models import Expected, Model, Size, Variant


@dataclass(frozen=True)
class Row:
    """What became of one file at one size.

    Attributes:
        model: Its name in the zoo.
        made: Exporter, op set and implementation.
        size: Its sizes, in words.
        forms: Written forms of the attentions found, each with how often.
        expected: Attentions it is known to hold.
        found: Attentions that were compiled.
        decoys: Softmaxes that must not be taken.
        left: What was left to onnxruntime that looks like attention, each as node and reason.
        copied: Attentions that read copies of key heads, which were not taken out.
        wrong: What was taken that the model does not hold, in words; empty if nothing.
        max_abs_error: Of all outputs over all samples, beside onnxruntime; None if not run.
        worst: Output and sample of that error.
        in_tolerance: Whether ``hocket verify`` would accept it.
        is_noise: Of an error out of tolerance, whether ours is as near to the truth as onnxruntime.
        judged: How that is known.
        latency_ratio, memory_ratio: onnxruntime's over ours; None if not timed.
        problem: Why there is no answer; empty if there is one.
    """

    model: str
    made: str
    size: str
    expected: int
    decoys: int
    forms: tuple[str, ...] = ()
    found: int = 0
    left: tuple[tuple[str, str], ...] = ()
    copied: int = 0
    wrong: str = ""
    max_abs_error: float | None = None
    worst: str = ""
    in_tolerance: bool = False
    is_noise: bool = False
    judged: str = ""
    latency_ratio: float | None = None
    memory_ratio: float | None = None
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)


def find_model(model: Model, variant: Variant, cache: Path) -> Path:
    """Return the file of a model, which is exported now if need be.

    Raises:
        ZooError: It cannot be had.
    """
    if isinstance(model, Packaged):
        return find_file(model.package, model.file, model.version)
    return export(model, variant, cache)


def survey(
    model: Model,
    variant: Variant,
    size: Size,
    cache: Path,
    *,
    timing_seconds: float | None = None,
    num_threads: int = 1,
) -> Row:
    """Compile a model, compare its numbers with onnxruntime's, and time it if asked.

    Args:
        model: Of the zoo.
        variant: One of its variants.
        size: One of its sizes.
        cache: Folder of exported files.
        timing_seconds: Time to spend on timing; None to leave it.
        num_threads: Threads when timed.

    Returns:
        What was found; of a model that cannot be had, compiled or run, the reason.
    """
    row = {
        "model": model.name,
        "made": str(variant),
        "size": describe_size(size),
        "expected": model.expected.attentions,
        "decoys": model.expected.decoys,
    }
    try:
        path = find_model(model, variant, cache)
    except ZooError as error:
        return Row(**row, problem=str(error))
    try:
        module = hocket.compile(path, dims=dims_of(model, size), num_threads=num_threads)
        row |= describe_recognition(module.artifact, model.expected)
        row |= _compare(module, path, model.expected.atol)
        if timing_seconds is not None:
            row |= _time(module, path, timing_seconds, num_threads)
    except VerificationError as error:
        return Row(**row, problem=f"onnxruntime cannot run the file itself: {_tail(error, path)}")
    # Whatever goes wrong with one model is its row: the table is made to show that.
    except Exception as error:  # noqa: BLE001
        return Row(**row, problem=f"{type(error).__name__}: {_tail(error, path)}")
    return Row(**row)


def _tail(error: BaseException, path: Path) -> str:
    """Return an error in one line, without where the file is on this machine."""
    text = " ".join(str(error).split()).replace(str(path), path.name)
    return text.rpartition("Status Message: ")[2]


def describe_size(size: Size) -> str:
    """Return sizes in words, ``batch 1, length 32``."""
    return ", ".join(f"{name} {number}" for name, number in size.items())


def describe_recognition(artifact: Artifact, expected: Expected) -> dict[str, Any]:
    """Return the fields of a row that say what was taken and what was left."""
    steps = artifact.attention_steps
    forms = Counter(step.form for step in steps)
    problems = [step.parameters for step in steps]
    heads = [(each.query_heads, each.kv_heads, each.head_dim) for each in problems]
    # Copied for each query head, keys are read more often than need be, but the same.
    unshared = {(query, query, dim) for query, _, dim in expected.heads} - expected.heads
    copied = sum(each in unshared for each in heads)
    odd = set(heads) - expected.heads - unshared
    wrong = [f"{q} query heads, {kv} of keys, {dim} columns" for q, kv, dim in sorted(odd)]
    if len(steps) > expected.attentions:
        wrong.append(f"{len(steps) - expected.attentions} more than there are")
    if len(artifact.left_to_host) < expected.decoys:
        wrong.append(f"only {len(artifact.left_to_host)} of {expected.decoys} decoys left")
    return {
        "forms": tuple(f"{count} x {form}" for form, count in forms.items()),
        "found": len(steps),
        "left": tuple((f"{item.op} {item.node}", item.reason) for item in artifact.left_to_host),
        "copied": copied,
        "wrong": "; ".join(wrong),
    }


def _compare(module: hocket.CompiledModule, path: Path, atol: float) -> dict[str, Any]:
    """Return the fields of a row that say how far its numbers are from onnxruntime's.

    Raises:
        VerificationError: onnxruntime cannot run the file.
    """
    session = module.session()
    names = [spec.name for spec in module.outputs]
    # First, so that a file that nobody can run is not taken for one that we cannot.
    ReferenceSession(path).run(names, random_feeds(module.inputs))
    found = verify_against_model(session, path, samples=1, atol=atol)
    worst = max(found.outputs, key=lambda output: output.max_abs_error)
    fields = {
        "max_abs_error": worst.max_abs_error,
        "worst": f"{worst.name}, {worst.worst_sample}",
        "in_tolerance": found.ok,
    }
    if found.ok:
        return fields
    feeds = edge_case_feeds(module.inputs).get(worst.worst_sample) or random_feeds(module.inputs)
    ours = session.run([worst.name], feeds)[0]
    judgement = judge(path, worst.name, feeds, ours)
    return fields | {"is_noise": judgement.is_noise, "judged": judgement.reason}


def _time(
    module: hocket.CompiledModule, path: Path, seconds: float, num_threads: int
) -> dict[str, float | None]:
    with tempfile.TemporaryDirectory(prefix="hocket-zoo-") as folder:
        artifact = module.save(Path(folder) / "model.hkt")
        found = compare_with_onnxruntime(artifact, path, num_threads=num_threads, seconds=seconds)
    ours, theirs = found.ours.memory, found.onnxruntime.memory
    return {
        "latency_ratio": found.ratio,
        "memory_ratio": theirs.peak_bytes / ours.peak_bytes if ours and theirs else None,
    }
