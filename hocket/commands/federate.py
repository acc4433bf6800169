"""``hocket federate``: training across devices, and what it would take."""

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.text import Text

from hocket.commands.performance import format_joules
from hocket.commands.terminal import (
    Bar,
    JsonFlag,
    answer_console,
    format_bytes,
    format_seconds,
    parse_pairs,
    plain_table,
    print_json,
    progress_bar,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hocket.federation import FederationResult
    from hocket.fl.config import FederationConfig
    from hocket.fl.core.types import ClientTask, Reply, RoundReport

NOTHING_LEARNED = 1
"""Exit status where no round had enough updates, or no class of devices has enough memory."""

_SHOWN_ROUNDS = 10

app = typer.Typer(no_args_is_help=True, help="Train a model across devices (docs/federated.md).")

ConfigArgument = Annotated[
    Path,
    typer.Argument(metavar="CONFIG.toml", help="The federation's file.", show_default=False),
]
EngineOption = Annotated[
    Literal["local", "ray", "flower"] | None,
    typer.Option("--engine", help="Where clients run.", show_default=False),
]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", min=0, help="Clients at once; 0 for the engine's own choice."),
]
ResumeFlag = Annotated[
    bool, typer.Option("--resume", help="Go on after the last round that is over, if one is.")
]
RoundsOption = Annotated[
    int | None, typer.Option("--rounds", min=1, help="Rounds in all, instead of the file's.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="A value instead of the file's, as TOML writes it; repeat it.",
    ),
]


@app.command("run")
def run_command(
    config: ConfigArgument,
    *,
    engine: EngineOption = None,
    workers: WorkersOption = None,
    rounds: RoundsOption = None,
    settings: SetOption = None,
    resume: ResumeFlag = False,
    json_output: JsonFlag = False,
) -> None:
    """Run a federation from its file to a trained module.

    Without `--resume` it begins anew, and replaces what an earlier run left in its folder.

    **Examples**

    - `hocket federate run federation.toml`
    - `hocket federate run federation.toml --engine ray --workers 4 --rounds 50 --resume`
    - `hocket federate run federation.toml --set training.learning-rate=0.1 --json`
    """
    from hocket.fl.config import load_config

    given = {"engine.name": engine, "engine.workers": workers, "federation.rounds": rounds}
    loaded = load_config(config, overrides_of(settings, given))
    result = run_watched(loaded, resume=resume)
    answer_rounds(result, result_to_json(config, loaded.engine.name, result), as_json=json_output)


@app.command("plan")
def plan_command(
    config: ConfigArgument,
    *,
    rounds: RoundsOption = None,
    settings: SetOption = None,
    json_output: JsonFlag = False,
) -> None:
    """Say what a federation will take: memory, bytes and simulated time by class of device.

    Nothing is trained. Time and energy are predictions of the machines' models.

    **Examples**

    - `hocket federate plan federation.toml`
    - `hocket federate plan federation.toml --set training.batch-size=8 --json`
    """
    from hocket.federation import prepare_federation
    from hocket.federation_plan import plan_federation
    from hocket.fl.config import load_config

    loaded = load_config(config, overrides_of(settings, {"federation.rounds": rounds}))
    with progress_bar("preparing") as bar:
        plan = plan_federation(prepare_federation(loaded, progress=bar.show))
    if json_output:
        print_json(_plan_to_json(plan))
    else:
        _print_plan(plan)
    if not plan.fits:
        raise typer.Exit(NOTHING_LEARNED)


class RoundBar:
    """Shows how far a federation is; an observer of it.

    Args:
        bar: Where.
        num_rounds: Rounds in all.
    """

    def __init__(self, bar: Bar, num_rounds: int) -> None:
        self._bar = bar
        self._num_rounds = num_rounds
        self._round = 0
        self._num_tasks = 0
        self._num_replies = 0

    def started(self, round_number: int, tasks: "Sequence[ClientTask]") -> None:
        """Show that tasks are on their way."""
        self._round, self._num_tasks, self._num_replies = round_number, len(tasks), 0
        self._show()

    def replied(self, reply: "Reply") -> None:
        """Show that one more device has answered."""
        del reply
        self._num_replies += 1
        self._show()

    def finished(self, report: "RoundReport") -> None:
        """Show what a round came to."""
        text = f"round {report.round} of {self._num_rounds}: {_format_metrics(_metrics_of(report))}"
        self._bar.show(text, report.round, self._num_rounds)

    def _show(self) -> None:
        within = self._num_replies / max(self._num_tasks, 1)
        text = (
            f"round {self._round} of {self._num_rounds}, "
            f"device {self._num_replies} of {self._num_tasks}"
        )
        self._bar.show(text, self._round - 1 + within, self._num_rounds)


def run_watched(config: "FederationConfig", *, resume: bool) -> "FederationResult":
    """Run a federation on the engine that its file names, and show how far it is."""
    from hocket.federation import prepare_federation
    from hocket.federation_launch import launch

    with progress_bar("preparing") as bar:
        federation = prepare_federation(config, progress=bar.show)
    with progress_bar("training") as bar:
        watcher = RoundBar(bar, config.federation.rounds)
        return launch(federation, [watcher], resume=resume)


def answer_rounds(result: "FederationResult", answer: dict[str, Any], *, as_json: bool) -> None:
    """Say how a federation ended, by its answer in JSON or by its last rounds.

    Raises:
        Exit: No round had enough updates.
    """
    if as_json:
        print_json(answer)
    else:
        _print_rounds(result)
    if not any(report.has_quorum for report in result.reports):
        raise typer.Exit(NOTHING_LEARNED)


def overrides_of(settings: list[str] | None, given: dict[str, Any]) -> dict[str, Any]:
    """Return values by ``section.key``, of options and of ``--set``.

    Args:
        settings: Of ``--set``.
        given: Of other options; None where one was not given.
    """
    found: dict[str, Any] = {}
    for text in settings or []:
        ((name, value),) = parse_pairs([text], "--set").items()
        if name.count(".") != 1:
            raise typer.BadParameter(f"want SECTION.KEY=VALUE, got {text!r}", param_hint="--set")
        try:
            found[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[name] = value  # a word without quotes
    return found | {name: value for name, value in given.items() if value is not None}


def _metrics_of(report: Any) -> dict[str, float]:
    return {f"train {name}": value for name, value in report.train_metrics.items()} | {
        name.replace("_", " "): value for name, value in report.evaluate_metrics.items()
    }


def _format_metrics(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def result_to_json(config: Path, engine: str, result: Any) -> dict[str, Any]:
    """Return how a federation ended, as values of JSON."""
    from dataclasses import asdict

    return {
        "config": str(config),
        "folder": str(result.folder),
        "module": str(result.model),
        "digest": result.digest,
        "artifact_digest": result.artifact_digest,
        "engine": engine,
        "rounds": [asdict(report) for report in result.reports],
    }


def _print_rounds(result: Any) -> None:
    """Show the last rounds, and where the trained model is."""
    console = answer_console()
    shown = result.reports[-_SHOWN_ROUNDS:]
    names = list(dict.fromkeys(name for report in shown for name in _metrics_of(report)))
    table = plain_table("round", "updates", "failures", *names, "time")
    for report in shown:
        metrics = _metrics_of(report)
        table.add_row(
            f"{report.round}" + ("" if report.has_quorum else " (no quorum)"),
            f"{report.num_updates}",
            f"{report.num_failures}",
            *(f"{metrics[name]:.4f}" if name in metrics else "-" for name in names),
            format_seconds(report.seconds),
        )
    if len(shown) < len(result.reports):
        console.print(f"the last {len(shown)} of {len(result.reports)} rounds", style="dim")
    console.print(table)
    last = shown[-1]
    for line in last.failures:
        console.print(f"  round {last.round}: {line}", soft_wrap=True)
    console.print(Text.assemble((str(result.model), "bold"), "  the trained model"), soft_wrap=True)
    console.print(f"parameters' digest {result.digest}", style="dim", soft_wrap=True)


def _plan_to_json(plan: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "rounds": plan.rounds,
        "devices_per_round": plan.devices_per_round,
        "download_bytes": plan.download_bytes,
        "upload_bytes": plan.upload_bytes,
        "round_seconds": plan.round_seconds,
        "total_bytes": plan.total_bytes,
        "total_seconds": plan.total_seconds,
        "fits": plan.fits,
        "classes": [
            {**asdict(each), "seconds": each.seconds, "fits": not each.shortage}
            for each in plan.classes
        ],
    }


def _print_plan(plan: Any) -> None:
    console = answer_console()
    memory = plain_table(
        "class", "machine", "devices", "weights", "gradients", "optimizer", "activations", "peak",
        "memory", "fits",
    )  # fmt: skip
    times = plain_table(
        "class", "steps", "download", "compute", "upload", "a round", "slowest device", "energy"
    )
    for each in plan.classes:
        footprint = each.footprint
        counts = (
            footprint.weight_bytes,
            footprint.gradient_bytes,
            footprint.optimizer_bytes,
            footprint.activation_bytes,
            footprint.peak_bytes,
            each.memory_bytes,
        )
        memory.add_row(
            each.name,
            each.machine,
            f"{each.num_devices}",
            *map(format_bytes, counts),
            "no" if each.shortage else "yes",
        )
        times.add_row(
            each.name,
            f"{each.steps}",
            format_seconds(each.download_seconds),
            format_seconds(each.compute_seconds),
            format_seconds(each.upload_seconds),
            format_seconds(each.seconds),
            format_seconds(each.slowest_seconds),
            "-" if each.joules is None else format_joules(each.joules),
        )
    console.print(memory)
    for each in plan.classes:
        if each.shortage:
            console.print(f"  {each.name}: {each.shortage}", style="yellow", soft_wrap=True)
    console.print()
    console.print(times)
    console.print()
    console.print(
        f"{plan.rounds} round(s) of {plan.devices_per_round} device(s): "
        f"{format_bytes(plan.download_bytes)} down and {format_bytes(plan.upload_bytes)} up for "
        f"each, {format_bytes(plan.total_bytes)} in all; a round takes "
        f"{format_seconds(plan.round_seconds)}, all of them {format_seconds(plan.total_seconds)}",
        soft_wrap=True,
    )
    console.print(
        "predicted: steps of the device with the median of examples, energy of arithmetic alone",
        style="dim",
        soft_wrap=True,
    )
