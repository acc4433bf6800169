"""How much of the attention in models of others is compiled, and are the numbers right?

python bench/model_coverage.py --quick                    what is installed, and a few exports
python bench/model_coverage.py --models bert swin         some models
python bench/model_coverage.py --json FILE --page         all of them, and docs/coverage.md

The module is not called coverage: that is the name of a package that tests and numba import.
"""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import PACKAGES, ROOT, choices_of, make_parser, report, stamp
from zoo.definitions import DEFINITIONS
from zoo.exports import default_cache
from zoo.models import Definition
from zoo.packaged import PACKAGED
from zoo.page import make_page, summarize
from zoo.survey import survey

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from zoo.models import Model, Size, Variant

COLUMNS = {
    "model": "",
    "made": "",
    "size": "",
    "found": "",
    "max_abs_error": "",
    "latency_ratio": "",
    "memory_ratio": "",
    "left_or_problem": "",
}

QUESTION = "attention of other people's models, compiled and compared"
PAGE = ROOT / "docs" / "coverage.md"
RESULT = ROOT / "bench" / "results" / "model_coverage.json"

MODELS: dict[str, Model] = {model.name: model for model in (*PACKAGED, *DEFINITIONS)}

# Exported within seconds; each has something the others have not.
QUICK = ("bert", "llama", "t5-encoder", "swin")

_TIMING_SECONDS = 5.0
_MORE_PACKAGES = ("torch", "transformers")


def main() -> None:
    """Read the command line, survey, print, and write what is asked for."""
    parser = make_parser(QUESTION)
    parser.add_argument("--models", nargs="+", choices=MODELS, metavar="NAME", default=None)
    parser.add_argument("--cache", type=Path, default=None, help="folder for exported files")
    parser.add_argument("--time", action="store_true", help="time, and measure memory, too")
    parser.add_argument("--page", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    found = parser.parse_args()
    choices = choices_of(found)
    names = found.models or (list(MODELS) if not found.quick else [*QUICK, *_packaged_names()])
    rows = [row for name in names for row in _survey_model(MODELS[name], found)]
    about = stamp((*PACKAGES, *(name for name in _MORE_PACKAGES if _is_installed(name))))
    if choices.json_path is not None:
        rows = with_kept(rows, choices.json_path)
    report(
        QUESTION,
        rows,
        COLUMNS,
        choices,
        shown=[shown_row(row) for row in rows],
        notes=(summarize(rows),),
        about=about,
    )
    if found.page:
        content = {"stamp": about, "rows": rows}
        PAGE.write_text(make_page(content), encoding="utf-8")
        print(f"written to {PAGE.relative_to(ROOT)}")


def work_of(model: Model, *, quick: bool) -> Iterator[tuple[Variant, Size]]:
    """Yield what is surveyed of a model; in the short form one size, exported the fast way."""
    variants = model.variants
    if quick and isinstance(model, Definition):
        variants = tuple(
            variant
            for variant in variants
            if variant.exporter == "legacy" and variant.implementation != "sdpa"
        )
    for variant in variants:
        for size in model.sizes[:1] if quick else model.sizes:
            yield variant, size


def with_kept(rows: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """Return the rows with those of models that were not surveyed now, as the file has them."""
    if not path.exists():
        return rows
    measured = {row["model"] for row in rows}
    kept = json.loads(path.read_text(encoding="utf-8"))["rows"]
    merged = [*rows, *(row for row in kept if row["model"] not in measured)]
    order = {name: place for place, name in enumerate(MODELS)}
    return sorted(merged, key=lambda row: order.get(row["model"], len(order)))


def shown_row(row: dict[str, Any]) -> dict[str, str]:
    """Return the cells of a row, by column."""
    ratios = {key: row[key] for key in ("latency_ratio", "memory_ratio")}
    error = row["max_abs_error"]
    reasons = dict.fromkeys(reason for _, reason in row["left"])
    remarks = [row["problem"], row["wrong"], row["judged"], *reasons]
    return {
        "model": row["model"],
        "made": row["made"],
        "size": row["size"],
        "found": f"{row['found']}/{row['expected']}",
        "max_abs_error": "-"
        if error is None
        else f"{error:.1e}{'' if row['in_tolerance'] else ' NO'}",
        **{key: "-" if value is None else f"{value:.2f}" for key, value in ratios.items()},
        "left_or_problem": "; ".join(remark for remark in remarks if remark),
    }


def _survey_model(model: Model, found: argparse.Namespace) -> Iterator[dict[str, Any]]:
    cache = found.cache or default_cache()
    for variant, size in work_of(model, quick=found.quick):
        print(f"{model.name}, {variant}, {size}", file=sys.stderr)
        yield survey(
            model,
            variant,
            size,
            cache,
            timing_seconds=_TIMING_SECONDS if found.time else None,
            num_threads=found.threads[0],
        ).to_json()


def _packaged_names() -> list[str]:
    return [model.name for model in PACKAGED]


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    main()
