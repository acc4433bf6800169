"""``hocket prophet``: models that withstand attacks, trained on devices with little memory."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hocket.commands.federate import (
    ConfigArgument,
    EngineOption,
    ResumeFlag,
    RoundsOption,
    SetOption,
    WorkersOption,
    answer_rounds,
    overrides_of,
    result_to_json,
    run_watched,
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
    from hocket.prophet_evaluation import SubjectReport
    from hocket.prophet_plan import ProphetPlan

NOT_TRUSTED = 1
"""Exit status where a check of robust accuracies fails."""

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
    exit_features: Annotated[
        int,
        typer.Option("--exit-features", min=1, help="Numbers an exit reads of an image a class."),
    ] = 1,
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
        spans = spans_with_exits(artifact, Task(), exit_features=exit_features)
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
    engine: EngineOption = None,
    workers: WorkersOption = None,
    rounds: RoundsOption = None,
    settings: SetOption = None,
    resume: ResumeFlag = False,
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
    from hocket.fl.config import load_config
    from hocket.fl.core.errors import ConfigError
    from hocket.prophet_plots import draw_rounds

    given = {"engine.name": engine, "engine.workers": workers, "federation.rounds": rounds}
    loaded = load_config(config, overrides_of(settings, given))
    if loaded.prophet is None:
        raise ConfigError(f"{config}: want a section [prophet]; see docs/fedprophet.md")
    result = run_watched(loaded, resume=resume)
    if plot is not None:
        draw_rounds(result.reports, plot)
    answer = result_to_json(config, loaded.engine.name, result)
    answer_rounds(result, {**answer, "method": loaded.strategy.name}, as_json=json_output)


@app.command("evaluate")
def evaluate_command(
    subject: Annotated[
        Path,
        typer.Argument(metavar="RUN|MODEL", help="A federation's folder, or a model's file."),
    ],
    *,
    attacks: Annotated[
        str,
        typer.Option(
            "--attack",
            metavar="NAME,...|all",
            help="pgd-20, pgd-100, autoattack, square, decision, exits, sweep.",
        ),
    ] = "pgd-20",
    radius: Annotated[
        float | None,
        typer.Option("--radius", help="Largest change of a pixel; a run's own if not given."),
    ] = None,
    restarts: Annotated[int, typer.Option("--restarts", min=1, help="Of pgd.")] = 3,
    num_images: Annotated[
        int, typer.Option("--images", min=0, help="Of the test set, the first; 0 for all.")
    ] = 500,
    source: Annotated[
        str, typer.Option("--source", help="Data set, where the subject is a file.")
    ] = "",
    clients: Annotated[
        bool, typer.Option("--clients/--no-clients", help="Also on what each device holds out.")
    ] = True,
    queries: Annotated[int, typer.Option("--queries", min=1, help="Of square.")] = 5000,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images at once.")] = 64,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of all searches.")] = 0,
    plot: PlotOption = None,
    json_output: JsonFlag = False,
) -> None:
    """Attack a trained model as a whole, with its final head, on images nobody has trained on.

    Checks say whether the figures can be trusted: whether attacks that know less break less, and
    larger balls more. Where one fails, the exit status is 1. `autoattack`, `square` and `decision`
    are of libraries: pip install "hocket[robustness]". `--plot` draws the sweep.

    **Examples**

    - `hocket prophet evaluate runs/prophet`
    - `hocket prophet evaluate runs/prophet --attack all --images 1000 --plot sweep.png --json`
    - `hocket prophet evaluate model.onnx --source fashion-mnist --radius 0.1 --attack autoattack`
    """
    from hocket.fl.fat.robustness import ATTACKS, SWEEP, Evaluation
    from hocket.prophet_evaluation import evaluate_subject, load_subject
    from hocket.prophet_plots import draw_sweep

    names = ATTACKS if attacks == "all" else tuple(attacks.split(","))
    if plot is not None and SWEEP not in names:
        raise typer.BadParameter("draws a sweep; add it to --attack", param_hint="--plot")
    with progress_bar("attacking") as bar:
        loaded = load_subject(subject, source, batch_size)
        reach = loaded.radius if radius is None else radius
        if not reach:
            raise typer.BadParameter("want the largest change of a pixel", param_hint="--radius")
        how = Evaluation(reach, names, restarts, queries=queries, batch_size=batch_size)
        report = evaluate_subject(
            loaded, how, seed, num_images, with_clients=clients, progress=bar.show
        )
    if plot is not None:
        sweep = report.central.sweep
        draw_sweep(list(sweep), list(sweep.values()), plot)
    if json_output:
        print_json(_report_to_json(report))
    else:
        _print_report(report)
    if not all(check.is_passed for check in report.central.checks):
        raise typer.Exit(NOT_TRUSTED)


def _parse_memory(text: str) -> int:
    from hocket.fl.core.sections import parse_bytes

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


def _report_to_json(report: "SubjectReport") -> dict[str, Any]:
    from dataclasses import asdict

    answer = asdict(report.central)
    answer["sweep"] = [
        {"radius": radius, "accuracy": value} for radius, value in report.central.sweep.items()
    ]
    answer["clients"] = None
    if report.clients is not None:
        answer["clients"] = {
            "devices": {name: asdict(each) for name, each in report.clients.devices.items()},
            **{
                f"{figure}_{kind}": getattr(report.clients, kind)(figure)
                for figure in ("clean", "attacked")
                for kind in ("mean", "worst_decile")
            },
        }
    return answer


def _print_report(report: "SubjectReport") -> None:
    console, central = answer_console(), report.central
    table = plain_table("attack", "accuracy")
    table.add_row("none", f"{central.clean:.1%}")
    for name, value in central.accuracies.items():
        table.add_row(name, f"{value:.1%}")
    if central.accuracies:
        table.add_row("the worst of these, image by image", f"{central.worst:.1%}")
    console.print(table)
    console.print(
        f"{central.num_examples} test images, pixels changed by {central.radius:g} at most",
        style="dim",
        soft_wrap=True,
    )
    if central.sweep:
        console.print()
        swept = plain_table("radius", "accuracy")
        for radius, value in central.sweep.items():
            swept.add_row(f"{radius:g}", f"{value:.1%}")
        console.print(swept)
    if report.clients is not None:
        console.print()
        devices = plain_table("on what devices hold out", "mean", "worst tenth")
        for figure in ("clean", "attacked"):
            mean, worst = report.clients.mean(figure), report.clients.worst_decile(figure)
            devices.add_row(figure, f"{mean:.1%}", f"{worst:.1%}")
        console.print(devices)
    if central.checks:
        console.print()
    for check in central.checks:
        mark, style = ("ok", "green") if check.is_passed else ("doubtful", "yellow")
        console.print(f"{mark}: {check.name} ({check.detail})", style=style, soft_wrap=True)
