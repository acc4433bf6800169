"""``hocket verify``: does the compiled module give the original's numbers?"""

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
    parse_dims,
    plain_table,
    print_json,
    progress_bar,
)

NOT_OK = 1


def verify_command(
    module: ArtifactArgument,
    against: AgainstOption,
    *,
    rtol: Annotated[float, typer.Option(min=0, help="Relative tolerance.")] = 1e-3,
    atol: Annotated[float, typer.Option(min=0, help="Absolute tolerance.")] = 1e-5,
    samples: Annotated[
        int, typer.Option(min=0, help="Random inputs to try; edge cases come on top.")
    ] = 3,
    dim: SizesOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = 0,
    json_output: JsonFlag = False,
) -> None:
    """Compare a compiled module with onnxruntime on the original file.

    Random inputs, then edge cases: zeros, ones, large floats, the ends of integer ranges, padding
    masks. Past tolerance, where |ours - theirs| > atol + rtol * |theirs|, the exit status is 1.

    **Examples**

    - `hocket verify model.hkt --against model.onnx`
    - `hocket verify model.hkt --against model.onnx --atol 1e-6 --samples 20 --json`
    """
    from hocket.inference import InferenceSession
    from hocket.runtime.session import SessionOptions
    from hocket.verification import verify_against_model

    session = InferenceSession(module, SessionOptions(intra_op_num_threads=threads))
    done = 0
    with progress_bar("verifying") as bar:

        def show(sample: str, total: int) -> None:
            nonlocal done
            bar.show(sample, done, total)
            done += 1

        result = verify_against_model(
            session,
            against,
            samples=samples,
            rtol=rtol,
            atol=atol,
            seed=seed,
            dims=parse_dims(dim or []),
            num_threads=threads,
            progress=show,
        )
    if json_output:
        print_json(_to_json(str(module), str(against), result))
    else:
        _print_table(result)
    if not result.ok:
        raise typer.Exit(NOT_OK)


def _to_json(module: str, against: str, result: Any) -> dict[str, Any]:
    outputs = {}
    for output in result.outputs:
        fields = asdict(output)
        outputs[fields.pop("name")] = fields | {"ok": output.ok}
    return {
        "ok": result.ok,
        "module": module,
        "against": against,
        "rtol": result.rtol,
        "atol": result.atol,
        "samples": list(result.samples),
        "outputs": outputs,
    }


def _print_table(result: Any) -> None:
    table = plain_table("output", "max abs error", "max rel error", "past tolerance", "worst on")
    for output in result.outputs:
        table.add_row(
            output.name,
            f"{output.max_abs_error:.3g}",
            f"{output.max_rel_error:.3g}",
            f"{output.num_mismatched:,} of {output.num_elements:,}",
            output.worst_sample,
        )
    console = answer_console()
    console.print(table)
    verdict = ("same numbers", "green") if result.ok else ("numbers differ", "bold red")
    tolerances = f"(rtol {result.rtol:g}, atol {result.atol:g})"
    console.print(Text.assemble(verdict, f" on {len(result.samples)} samples {tolerances}"))
