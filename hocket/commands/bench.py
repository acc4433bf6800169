"""``hocket bench``: latency and memory beside onnxruntime on the original file."""

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.text import Text

from hocket.commands.terminal import (
    AgainstOption,
    ArtifactArgument,
    JsonFlag,
    SeedOption,
    SizesOption,
    ThreadsOption,
    answer_console,
    format_bytes,
    format_seconds,
    parse_dims,
    plain_table,
    print_json,
    progress_bar,
)


def bench_command(
    module: ArtifactArgument,
    against: AgainstOption,
    *,
    repeats: Annotated[
        int | None,
        typer.Option(min=1, help="Timed runs of each, instead of --seconds.", show_default=False),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time to spend on timing.")] = 5.0,
    threads: ThreadsOption = 0,
    dim: SizesOption = None,
    seed: SeedOption = 0,
    memory: Annotated[
        bool, typer.Option(help="Measure peak memory, each in a fresh process.")
    ] = True,
    json_output: JsonFlag = False,
) -> None:
    """Time a compiled module and onnxruntime on the original file, in turns.

    Both get the same inputs and the same number of threads, and run one after the other in one
    process, so that whatever else the machine does hits both.

    **Examples**

    - `hocket bench model.hkt --against model.onnx`
    - `hocket bench model.hkt --against model.onnx --threads 1 --seconds 20 --json`
    """
    from hocket.benchmarking import compare_with_onnxruntime
    from hocket.diagnosis import usable_cores

    num_threads = threads or usable_cores()
    with progress_bar("timing") as bar:

        def show(count: int, spent: float) -> None:
            if repeats is None:
                bar.show(f"{count} runs", min(spent, seconds), seconds)
            else:
                bar.show(f"{count} runs", count, repeats)

        result = compare_with_onnxruntime(
            module,
            against,
            num_threads=num_threads,
            repeats=repeats,
            seconds=seconds,
            seed=seed,
            dims=parse_dims(dim or []),
            measures_memory=memory,
            progress=show,
        )
    if json_output:
        print_json(
            {
                "module": str(module),
                "against": str(against),
                "threads": result.num_threads,
                "ours": _to_json(result.ours),
                "peers": {"onnxruntime": _to_json(result.onnxruntime)},
                "ratio": result.ratio,
            }
        )
    else:
        _print_table(result)


def _to_json(contender: Any) -> dict[str, Any]:
    return asdict(contender.latency) | {"peak_memory_bytes": contender.peak_memory_bytes}


def _print_table(result: Any) -> None:
    table = plain_table("engine", "median", "p10", "p90", "fastest", "runs", "peak memory")
    for name, contender in (("hocket", result.ours), ("onnxruntime", result.onnxruntime)):
        latency = contender.latency
        table.add_row(
            name,
            format_seconds(latency.median_seconds),
            format_seconds(latency.p10_seconds),
            format_seconds(latency.p90_seconds),
            format_seconds(latency.min_seconds),
            f"{latency.repeats}",
            format_bytes(contender.peak_memory_bytes),
        )
    console = answer_console()
    console.print(table)
    faster = result.ratio >= 1
    factor = result.ratio if faster else 1 / result.ratio
    console.print(
        Text.assemble(
            "hocket is ",
            (f"{factor:.2f}x {'faster' if faster else 'slower'}", "bold"),
            " than onnxruntime on the original file, ",
            f"{result.num_threads} thread(s) each",
        )
    )
