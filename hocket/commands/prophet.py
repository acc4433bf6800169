"""``hocket prophet``: models that withstand attacks, trained on devices with little memory."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hocket.commands.federate import (
    NOTHING_LEARNED,
    ConfigArgument,
    RoundBar,
    RoundsOption,
    SetOption,
    overrides_of,
    print_rounds,
    result_to_json,
)
from hocket.commands.terminal import (
    JsonFlag,
    answer_console,
    format_bytes,
    format_seconds,
    parse_open_dims,
    plain_table,
    print_json,
    progress_bar,
)

if TYPE_CHECKING:
    from hocket.prophet_plan import ProphetPlan

app = typer.Typer(
    no_args_is_help=True,
    help="Train models that withstand attacks, a module at a time (docs/fedprophet.md).",
)

PlotOption = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE.png", help="Also draw it; .png, .svg or .pdf."),
]


@app.command("plan")
def plan_command(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="An ONNX file or a compiled module, of a classifier."),
    ],
    *,
    memory: Annotated[
        str, typer.Option("--memory", metavar="SIZE", help="What every device has, as 60MB.")
    ],
    dims: Annotated[
        list[str] | None,
        typer.Option("--dim", "-d", metavar="NAME=SIZE", help="Size of an open dimension."),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Of training.")] = 64,
    momentum: Annotated[float, typer.Option("--momentum", min=0.0, help="Of sgd.")] = 0.9,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Batches a round.")] = 30,
    attack_steps: Annotated[int, typer.Option("--attack-steps", min=0, help="A batch.")] = 10,
    pool: Annotated[
        Literal["cifar", "caltech"], typer.Option("--pool", help="Published pool of devices.")
    ] = "cifar",
    plot: PlotOption = None,
    json_output: JsonFlag = False,
) -> None:
    """Cut a model into modules that fit into devices' memory; say what they take, and how long.

    Nothing is trained. Open dimensions that no `--dim` binds take batches from 1 to
    `--batch-size`. An atom that does not fit is named, and the exit status is 2.

    **Examples**

    - `hocket prophet plan vgg16.onnx --memory 60MB`
    - `hocket prophet plan vgg16.onnx --memory 60MB --pool caltech --plot modules.png --json`
    """
    from hocket.fl.backends.task import Task
    from hocket.fl.core.backend import LocalTraining
    from hocket.fl.fat.pool import load_pool
    from hocket.prophet_plan import compile_open, plan_prophet, spans_with_exits
    from hocket.prophet_plots import draw_plan

    budget = _parse_memory(memory)
    training = LocalTraining(batch_size=batch_size, max_steps=steps, momentum=momentum)
    with progress_bar("compiling") as bar:
        sizes = parse_open_dims(dims or [])
        artifact = compile_open(model, sizes, batch_size, progress=bar.show)
        bar.show("planning", 0, 1)
        spans = spans_with_exits(artifact, Task())
        classes = load_pool(pool, float(budget)).classes
        plan = plan_prophet(spans, training, budget, classes, attack_steps)
    if plot is not None:
        draw_plan(plan, plot)
    if json_output:
        print_json(_plan_to_json(plan))
    else:
        _print_plan(plan)


@app.command("train")
def train_command(
    config: ConfigArgument,
    *,
    engine: Annotated[
        Literal["local", "ray", "flower"] | None,
        typer.Option("--engine", help="Where clients run.", show_default=False),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=0, help="Clients at once; 0 for the engine's own choice."),
    ] = None,
    rounds: RoundsOption = None,
    settings: SetOption = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on after the last round that is over, if one is."),
    ] = False,
    plot: PlotOption = None,
    json_output: JsonFlag = False,
) -> None:
    """Train a model to withstand attacks, from a federation's file with a section `[prophet]`.

    All that `hocket federate run` says of files, engines and resuming holds here.

    **Examples**

    - `hocket prophet train prophet.toml`
    - `hocket prophet train prophet.toml --set strategy.name=jfat --plot rounds.png`
    - `hocket prophet train prophet.toml --engine flower --workers 4 --rounds 50 --resume`
    """
    from hocket.federation import prepare_federation
    from hocket.federation_launch import launch
    from hocket.fl.config import load_config
    from hocket.fl.core.errors import ConfigError
    from hocket.prophet_plots import draw_rounds

    given = {"engine.name": engine, "engine.workers": workers, "federation.rounds": rounds}
    loaded = load_config(config, overrides_of(settings, given))
    if loaded.prophet is None:
        raise ConfigError(f"{config}: want a section [prophet]; see docs/fedprophet.md")
    with progress_bar("preparing") as bar:
        federation = prepare_federation(loaded, progress=bar.show)
    with progress_bar("training") as bar:
        watcher = RoundBar(bar, loaded.federation.rounds)
        result = launch(federation, [watcher], resume=resume)
    if plot is not None:
        draw_rounds(result.reports, plot)
    if json_output:
        answer = result_to_json(config, loaded.engine.name, result)
        print_json({**answer, "method": loaded.strategy.name})
    else:
        print_rounds(result)
    if not any(report.has_quorum for report in result.reports):
        raise typer.Exit(NOTHING_LEARNED)


def _parse_memory(text: str) -> int:
    from hocket.fl.config import parse_bytes

    try:
        found = parse_bytes(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--memory") from error
    if not found:
        raise typer.BadParameter("want more than 0 bytes", param_hint="--memory")
    return found


def _plan_to_json(plan: "ProphetPlan") -> dict[str, Any]:
    from dataclasses import asdict

    modules = [
        {"name": each.name, "share": each.share, **asdict(each.footprint)} for each in plan.modules
    ]
    return {
        "budget_bytes": plan.budget_bytes,
        "peak_bytes": plan.peak_bytes,
        "whole": asdict(plan.whole),
        "modules": modules,
        "classes": [asdict(each) for each in plan.classes],
    }


def _print_plan(plan: "ProphetPlan") -> None:
    console = answer_console()
    table = plain_table("module", "weights", "activations", "peak", "of the whole", "flops")
    rows = [(each.name, each.footprint, each.share) for each in plan.modules]
    for name, footprint, share in [*rows, ("the whole model", plan.whole, 1.0)]:
        table.add_row(
            name,
            format_bytes(footprint.weight_bytes),
            format_bytes(footprint.activation_bytes),
            format_bytes(footprint.peak_bytes),
            f"{share:.1%}",
            f"{footprint.flops / 1e9:.3g} G",
        )
    console.print(table)
    console.print()
    console.print(
        f"devices need {format_bytes(plan.peak_bytes)} of the {format_bytes(plan.budget_bytes)} "
        f"they have, {1 - plan.peak_bytes / plan.whole.peak_bytes:.1%} less than for all of it",
        soft_wrap=True,
    )
    console.print()
    times = plain_table(
        "device", "free memory", "slowest module", "the whole", "published: module", "the whole"
    )
    for each in plan.classes:
        times.add_row(
            each.name,
            format_bytes(each.free_bytes),
            format_seconds(max(each.modules)),
            format_seconds(each.whole),
            format_seconds(max(each.published_modules)),
            format_seconds(each.published_whole),
        )
    console.print(times)
    console.print(
        "seconds of a round, predicted: all that a device does, and by the authors' model",
        style="dim",
        soft_wrap=True,
    )
