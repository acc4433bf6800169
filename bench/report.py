"""Writes ``docs/benchmarks.md`` from the committed results in ``bench/results``.

python bench/report.py            writes the page
python bench/report.py --check    fails if the page is not what the results say
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import attention_cycles
import attention_peers
import exact_scheduling
import export_latency
import federated_accuracy
import federated_round
import kernel_latency
import model_latency
import on_chip_size
import peak_memory
import search_quality
import simulator_speed
import training_step
import vector_cost
from harness import ROOT

if TYPE_CHECKING:
    from types import ModuleType

RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Section:
    """One table of the page.

    Attributes:
        bench: Its module, which names the result file and has the columns.
        title: Heading.
        text: What stands between heading and table.
        omitted: Columns that the page does without.
    """

    bench: ModuleType
    title: str
    text: str
    omitted: tuple[str, ...] = ()

    @property
    def columns(self) -> dict[str, str]:
        """The keys that are shown, each with its format."""
        columns: dict[str, str] = self.bench.COLUMNS
        return {key: form for key, form in columns.items() if key not in self.omitted}


SECTIONS = (
    Section(
        vector_cost,
        "What two streams gain, by the cost of softmax",
        "Simulated on `mas-edge`: two cores of 256 multiply-accumulates and 256 lanes, four words "
        "a cycle from DRAM. The cost is in lane-cycles a score over all five steps of softmax. "
        "`flat` is FLAT with transfers prefetched, as our search finds it best; `serial flat` has "
        "the same tiles, but nothing is loaded ahead of its row block or stored behind it. Two "
        "units side by side gain at most a factor of two over taking turns; what a comparison "
        "shows beyond that, its baseline has lost elsewhere.",
    ),
    Section(
        attention_peers,
        "Beside what other tools plan",
        "Our programs are simulated. The peers' cycles are their own estimates, read off the tools "
        "run on the same sizes; `bench/attention_peers.py` says which versions, and on which "
        "machine each is compared. Of bound is ours.",
        ("dataflow",),
    ),
    Section(
        on_chip_size,
        "On-chip memory: overwriting, smaller tiles, spilling",
        "Simulated on `mas-edge` with other amounts of on-chip memory; cycles over the bound. "
        "`overwriting` may keep fewer key and value tiles than a head has and load them again; "
        "`smaller tiles` may not; `spilling` sends probabilities to DRAM and back. Saved is "
        "overwriting over smaller tiles.",
    ),
    Section(
        search_quality,
        "How good searches are, by what they may simulate",
        "Cycles of the best program found over the bound, for a budget of simulated tasks; medians "
        "over seeds.",
    ),
    Section(
        exact_scheduling,
        "How good the dataflows' orders are, against exact ones",
        "Small problems, the dataflow's own tiles: its cycles, those of the best order that CP-SAT "
        "found, and the bound it proved; then bytes of slots, of the same program placed anew, and "
        "the least that is possible.",
        ("tasks", "closed", "least_bytes", "seconds"),
    ),
    Section(
        simulator_speed,
        "How fast programs are built, simulated and verified",
        "Timed, million tasks a second.",
    ),
    Section(
        kernel_latency,
        "Kernels on the CPU, beside the best peer of each case",
        "Timed, float32. Peers are onnxruntime's Attention, MultiHeadAttention, "
        "GroupQueryAttention and decomposed graphs, torch's flash, math and flex attention, as "
        "shipped and with MKL's AVX-512 path forced, and OpenVINO's in float32; the ratio is that "
        "of the best of them, in its own process, over ours. With one thread times are the least "
        "process CPU time, with more the least wall time. `exported` is the graph as exporters "
        "write it, with its Transposes. Peak is of fused multiply-adds, read of memory.",
    ),
    Section(
        model_latency,
        "Whole trained models, beside onnxruntime on the original file",
        "Timed in turns in one process; medians. Of ours the time in attention, too: the rest is "
        "onnxruntime's, in our regions. A sentence encoder, a text recogniser of mostly "
        "convolutions, and a detector of the end of speech whose weights and activations have 8 "
        "bits. Peak memory is that of session and runs, each in a process of its own; of ours 44 "
        "MiB are the compiler of the kernels.",
    ),
    Section(
        export_latency,
        "An exported model in stock onnxruntime",
        "Timed in turns in one process: the sentence encoder exported for this CPU, our session on "
        "the module that it is from, and onnxruntime on the file. Ratios are of medians and "
        "of the fastest runs; with one thread, time is what the process had of its core.",
    ),
    Section(
        peak_memory,
        "Peak memory of attention, as sequences grow",
        "Measured in processes of their own: what session and runs add to the peak, inputs not "
        "counted. Of ours most is the compiler of the kernels, at work once a machine; predicted "
        "is what a run needs, outputs with it; of a run is what it took.",
    ),
    Section(
        training_step,
        "A training step from a compiled module, beside plain torch",
        "Timed in turns in one process; medians. A step is forward, backward and SGD, of a GPT of "
        "6 layers and 384 columns and of a ViT of DeiT-Tiny's sizes; torch runs the module "
        "that the artifact was made from, with its own attention. On this CPU most of the gain is "
        "from products by oneDNN, which torch has and uses only for compiled inference: with them "
        "switched off the ratio was 1.02 to 1.13.",
        ("torch_compile_ms",),
    ),
    Section(
        federated_accuracy,
        "What a federation learns, beside plain torch",
        "FedAvg on Fashion-MNIST, 100 devices with Dirichlet shares of the classes (alpha 0.3), 10 "
        "a round, an epoch of SGD each, from ONNX files. Plain torch is a loop over modules and "
        "optimizers of its own, with the same weights, devices and batches. Accuracy is of the "
        "10,000 test images after the last round, the mean difference of the last five "
        "evaluations. Nudged is plain torch again, from weights that are 1e-7 away: what rounding "
        "alone does.",
    ),
    Section(
        federated_round,
        "What a round takes beside the training in it",
        "Timed on Fashion-MNIST, the CNN, images spread evenly; medians without the first and the "
        "last round. Overhead is all of a round of the local engine that is not a client's "
        "training; a loop in plain torch takes turns with it and trains the same. Other engines "
        "have two workers or SuperNodes and end with the same model. Flower's deployment starts a "
        "process for each message.",
    ),
    Section(
        attention_cycles,
        "Every network, dataflow and machine",
        "Simulated. DRAM of floor is the traffic over what must move at least once.",
    ),
)


def main() -> None:
    """Write the page, or check it."""
    text = page()
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
            sys.exit(f"{PAGE.relative_to(ROOT)} is not what bench/results says: bench/report.py")
        print(f"{PAGE.relative_to(ROOT)} is what bench/results says")
        return
    temporary = PAGE.with_name(f".{PAGE.name}.new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(PAGE)
    print(f"written to {PAGE.relative_to(ROOT)}")


def page() -> str:
    """Return the text of the page."""
    parts = [
        "# Benchmarks\n",
        (
            "Made by `bench/report.py` from the files in `bench/results`; do not edit. Each result "
            "says with which command it was made, on what, at which commit. Simulated figures are "
            "exact: they are the same on every machine.\n"
        ),
    ]
    for section in SECTIONS:
        path = RESULTS / f"{section.bench.__name__}.json"
        if not path.exists():
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        parts += [f"## {section.title}\n", f"{section.text}\n", _table(section, content["rows"])]
        stamp = content["stamp"]
        parts.append(
            f"`{stamp['command']}`, {stamp['date']}, commit {stamp['commit']}, "
            f"{stamp['cores']} cores ({stamp['cpu']}).\n"
        )
    return "\n".join(parts)


def _table(section: Section, rows: list[dict[str, Any]]) -> str:
    titles = [key.replace("_", " ") for key in section.columns]
    lines = [f"| {' | '.join(titles)} |"]
    lines.append(f"|{'|'.join('---' if not form else '--:' for form in section.columns.values())}|")
    for row in rows:
        cells = [_cell(row.get(key), form) for key, form in section.columns.items()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(value: Any, form: str) -> str:
    if value is None or value != value:  # noqa: PLR0124 - NaN is the one number unlike itself
        return "-"
    return format(value, form)


if __name__ == "__main__":
    main()
