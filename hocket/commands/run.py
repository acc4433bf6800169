"""``hocket run``: one run of a compiled module on given or random inputs."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from hocket.commands.output_files import check_outputs
from hocket.commands.terminal import (
    ArtifactArgument,
    JsonFlag,
    SeedOption,
    SizesOption,
    ThreadsOption,
    answer_console,
    format_seconds,
    parse_dims,
    parse_pairs,
    plain_table,
    print_json,
)


def run_command(
    module: ArtifactArgument,
    *,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", "-i", metavar="NAME=FILE.npy", help="An input; repeat it for each."
        ),
    ] = None,
    random: Annotated[
        bool, typer.Option("--random", help="Make up the inputs that are not given.")
    ] = False,
    dim: SizesOption = None,
    seed: SeedOption = 0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="OUT.npz", help="Write the outputs to this file."),
    ] = None,
    threads: ThreadsOption = 0,
    profile: Annotated[
        Path | None,
        typer.Option(
            "--profile", metavar="TRACE.json", help="Write a trace of the run for a trace viewer."
        ),
    ] = None,
    digest: Annotated[
        str | None,
        typer.Option("--digest", metavar="SHA256", help="Refuse the module if it has another."),
    ] = None,
    json_output: JsonFlag = False,
) -> None:
    """Run a compiled module once.

    **Examples**

    - `hocket run model.hkt --random -o outputs.npz`
    - `hocket run model.hkt -i input_ids=ids.npy -i attention_mask=mask.npy --json`
    """
    from hocket.inference import InferenceSession
    from hocket.runtime.session import SessionOptions

    pairs = parse_pairs(inputs or [], "--input")
    if not pairs and not random:
        raise typer.BadParameter("give each input, or --random", param_hint="--input")
    read = [module, *map(Path, pairs.values())]
    check_outputs({"--output": output, "--profile": profile}, inputs=read)
    options = SessionOptions(intra_op_num_threads=threads, enable_profiling=profile is not None)
    if profile is not None:
        options.profile_file_prefix = str(profile.parent / f".{profile.name}.")
    session = InferenceSession(module, options, expected_digest=digest)
    feeds = _read_feeds(session, pairs, seed if random else None, parse_dims(dim or []))
    start = time.perf_counter()
    arrays = session.run(None, feeds)
    seconds = time.perf_counter() - start
    results = {spec.name: array for spec, array in zip(session.get_outputs(), arrays, strict=True)}
    if output is not None:
        _write_outputs(output, results)
    if profile is not None:
        Path(session.end_profiling()).replace(profile)
    answer = {
        "module": str(module),
        "seconds": seconds,
        "outputs": {name: _summary(array) for name, array in results.items()},
        "written": None if output is None else str(output),
        "profile": None if profile is None else str(profile),
    }
    if json_output:
        print_json(answer)
    else:
        _print_table(answer)


def _read_feeds(
    session: Any, pairs: dict[str, str], seed: int | None, dims: dict[str, int]
) -> dict[str, Any]:
    import numpy as np

    from hocket.sampling import random_feeds

    feeds = {} if seed is None else random_feeds(session.sized_inputs(dims), seed)
    for name, file in pairs.items():
        try:
            array = np.load(file, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise typer.BadParameter(
                f"{file}: not a .npy file: {error}", param_hint="--input"
            ) from error
        if not isinstance(array, np.ndarray):
            raise typer.BadParameter(
                f"{file}: holds several arrays; give one .npy file an input", param_hint="--input"
            )
        feeds[name] = array
    return feeds


def _write_outputs(path: Path, results: dict[str, Any]) -> None:
    import numpy as np

    from hocket.runtime.files import atomic_file

    # Through a file of our own: given a name, savez appends .npz to it.
    with atomic_file(path) as file:
        np.savez(file, **results)


def _summary(array: Any) -> dict[str, Any]:
    import numpy as np

    values = array.astype(np.float64)
    return {
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "min": float(values.min()) if array.size else None,
        "mean": float(values.mean()) if array.size else None,
        "max": float(values.max()) if array.size else None,
    }


def _print_table(answer: dict[str, Any]) -> None:
    table = plain_table("output", "type", "shape", "min", "mean", "max")
    for name, summary in answer["outputs"].items():
        figures = [
            "-" if summary[key] is None else f"{summary[key]:.4g}" for key in ("min", "mean", "max")
        ]
        table.add_row(name, summary["dtype"], str(summary["shape"]), *figures)
    console = answer_console()
    console.print(table)
    console.print(f"one run, the first: {format_seconds(answer['seconds'])}")
    for key in ("written", "profile"):
        if answer[key]:
            console.print(f"{key}: {answer[key]}", soft_wrap=True)
