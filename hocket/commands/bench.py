"""``hocket bench``: latency and memory beside onnxruntime on the original file."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    from hocket.benchmarking import Memory


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
    from hocket.runtime.cpu import usable_cores

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
    memory = contender.memory
    return asdict(contender.latency) | {
        "peak_memory_bytes": None if memory is None else memory.peak_bytes,
        "run_memory_bytes": None if memory is None else memory.run_bytes,
        "predicted_run_memory_bytes": contender.predicted_run_bytes,
    }


def _print_table(result: Any) -> None:
    table = plain_table(
        "engine", "median", "p10", "p90", "fastest", "runs", "peak memory", "of a run"
    )
    for name, contender in (("hocket", result.ours), ("onnxruntime", result.onnxruntime)):
        latency = contender.latency
        table.add_row(
            name,
            format_seconds(latency.median_seconds),
            format_seconds(latency.p10_seconds),
            format_seconds(latency.p90_seconds),
            format_seconds(latency.min_seconds),
            f"{latency.repeats}",
            *_memory_cells(contender.memory),
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
    console.print(
        f"a run of hocket's was predicted to take {format_bytes(result.ours.predicted_run_bytes)}, "
        "what onnxruntime takes within its steps not counted"
    )


def _memory_cells(memory: "Memory | None") -> tuple[str, str]:
    if memory is None:
        return format_bytes(None), format_bytes(None)
    return format_bytes(memory.peak_bytes), format_bytes(memory.run_bytes)
