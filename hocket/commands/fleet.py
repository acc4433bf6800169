"""``hocket fleet``: several jobs on one population of simulated devices."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hocket.commands.federate import SetOption, overrides_of
from hocket.commands.problem_options import split_names
from hocket.commands.terminal import (
    JsonFlag,
    answer_console,
    format_bytes,
    plain_table,
    print_json,
    progress_bar,
)

if TYPE_CHECKING:
    from hocket.fleet.jobs import TrainedJob

HOUR = 3600.0

COSTS = {
    "simulated": "hours",
    "energy of devices": "energy",
    "downloads": "downloads",
    "mobile data": "mobile",
    "store by request": "by_request",
    "store always on": "always_on",
}
"""Columns of what fleets cost, and the keys of a bill."""

app = typer.Typer(no_args_is_help=True, help="Share one population of devices among several jobs.")


@app.command("run")
def run_command(
    config: Annotated[
        Path, typer.Argument(metavar="FLEET.toml", help="Devices, jobs, and who shares them out.")
    ],
    *,
    policy: Annotated[
        str | None,
        typer.Option("--policy", help="Who gets devices: venn, random, fifo, srsf, foresight, ..."),
    ] = None,
    dataflow: Annotated[
        str | None,
        typer.Option("--dataflow", help="Of attention on devices: layerwise, flat, mas, hocket."),
    ] = None,
    engine: Annotated[
        Literal["local", "ray", "flower"] | None,
        typer.Option("--engine", help="Where devices' work is really done.", show_default=False),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=0, help="Processes at once.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", "-o", help="Of results; else as in the file.")
    ] = None,
    settings: SetOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an earlier run was stopped.")
    ] = False,
    json_output: JsonFlag = False,
) -> None:
    """Run several jobs on one population of simulated devices.

    Time is simulated, by when devices of a real trace are there and what the machines' models say
    that tasks take; training is real. All that came of it is in `fleet.json` in the folder.

    **Examples**

    - `hocket fleet run examples/fleet/fleet.toml`
    - `hocket fleet run examples/fleet/fleet.toml --resume`
    - `hocket fleet run examples/fleet/fleet.toml --policy random -o runs/random`
    - `hocket fleet run examples/fleet/fleet.toml --dataflow layerwise -o runs/layerwise`
    """
    from hocket.fleet.config import load_fleet_config
    from hocket.fleet.report import describe_fleet
    from hocket.fleet.run import prepare_fleet, run_fleet

    given = {
        "fleet.policy": policy,
        "fleet.dataflow": dataflow,
        "fleet.folder": None if folder is None else str(folder.resolve()),
        "engine.name": engine,
        "engine.workers": workers,
    }
    loaded = load_fleet_config(config, overrides_of(settings, given))
    with progress_bar("compiling") as bar:
        fleet = prepare_fleet(loaded, bar.show)
    total = sum(family.num_rounds for family in fleet.families)
    done = 0
    with progress_bar("training") as bar, _late_is_no_news():

        def told(job: "TrainedJob") -> None:
            nonlocal done
            done += 1
            bar.show(f"{job.name}, round {job.rounds_done}", done, total)

        found = describe_fleet(run_fleet(fleet, resume=resume, told=told))
    if json_output:
        print_json({**found, "folder": str(loaded.folder)})
        return
    _print_jobs(found)
    answer_console().print(f"written: {loaded.folder / 'fleet.json'}", soft_wrap=True)


@app.command("plan")
def plan_command(
    config: Annotated[
        Path, typer.Argument(metavar="FLEET.toml", help="Devices, jobs, and who shares them out.")
    ],
    *,
    policy: Annotated[
        str, typer.Option("--policy", metavar="NAME,...", help="As of `hocket venn simulate`.")
    ] = "random,fifo,srsf,venn,foresight",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Of policies; from 0 on.")] = 10,
    settings: SetOption = None,
    json_output: JsonFlag = False,
) -> None:
    """Say what policies come to for a fleet; nothing is trained.

    Devices and their sessions are those of the run. All rounds of a job are taken to be like its
    first, so a job that stops early, or whose stages take unlike times, is planned for roughly.

    **Example:** `hocket fleet plan examples/fleet/fleet.toml --policy random,venn --seeds 20`
    """
    import statistics

    from hocket.fleet.config import load_fleet_config
    from hocket.fleet.plan import plan_fleet
    from hocket.fleet.run import prepare_fleet

    loaded = load_fleet_config(config, overrides_of(settings, {}))
    names = split_names(policy, "--policy")
    with progress_bar("compiling") as bar:
        fleet = prepare_fleet(loaded, bar.show)
    with progress_bar("planning") as bar:
        plans = plan_fleet(fleet, names, range(seeds), bar.show)
    if json_output:
        print_json({"seeds": seeds, "policies": {each.policy: asdict(each) for each in plans}})
        return
    jobs = list(plans[0].completion_seconds)
    table = plain_table("policy", "mean JCT", "of first", "wins", *jobs, "device hours")
    first = plans[0].means
    for each in plans:
        wins = sum(mine < other for mine, other in zip(each.means, first, strict=True))
        table.add_row(
            each.policy,
            f"{statistics.fmean(each.means) / HOUR:,.2f} h",
            f"{statistics.fmean(first) / statistics.fmean(each.means):.2f}x",
            f"{wins} of {seeds}",
            *(f"{statistics.fmean(each.completion_seconds[job]) / HOUR:,.2f} h" for job in jobs),
            f"{statistics.fmean(each.device_hours):.3g}",
        )
    answer_console().print(table)


@app.command("compare")
def compare_command(
    results: Annotated[
        list[Path], typer.Argument(metavar="FLEET.json...", help="Of two or more fleets.")
    ],
    *,
    json_output: JsonFlag = False,
) -> None:
    """Show how fleets differ: policies, dataflows, or whatever their files say.

    **Example:** `hocket fleet compare runs/fleet/fleet.json runs/random/fleet.json`
    """
    from hocket.fleet.report import compare_fleets, read_fleet

    rows = compare_fleets([read_fleet(path) for path in results])
    if json_output:
        print_json({"fleets": rows})
        return
    table = plain_table(
        "policy", "dataflow", "engine", "mean JCT", "of first", "device hours", "energy", "bytes",
        "useful", "models", "as first",
    )  # fmt: skip
    costs = plain_table("policy", "dataflow", *COSTS)
    first = rows[0]["mean_completion_seconds"]
    for row in rows:
        mean = row["mean_completion_seconds"]
        models = ", ".join(f"{name} {each[1]:.3g}" for name, each in row["quality"].items())
        table.add_row(
            row["policy"],
            row["dataflow"],
            row["engine"],
            f"{mean / HOUR:,.2f} h",
            f"{first / mean:.2f}x",
            f"{row['device_hours']:.3g}",
            f"{row['joules']:,.3g} J",
            format_bytes(row["bytes"]),
            f"{row['useful']:.0%}",
            models,
            "yes" if row["digests"] == rows[0]["digests"] else "no",
        )
        bill = row["bill"]
        costs.add_row(
            row["policy"],
            row["dataflow"],
            f"{bill['hours']:,.1f} h",
            *(f"{bill[key]:,.3g} {bill['currency']}" for key in list(COSTS.values())[1:]),
        )
    console = answer_console()
    console.print(table)
    console.print(costs)


@app.command("report")
def report_command(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="FLEET.json...", help="Of a fleet, and of others to compare."),
    ],
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE.html", help="The page.")
    ] = Path("fleet.html"),
    shown: Annotated[
        str,
        typer.Option(
            "--module",
            metavar="CLASS/JOB",
            help="Whose schedule, roofline and tilings to show; the first class's first job's.",
        ),
    ] = "",
) -> None:
    """Write what came of a fleet as one HTML page that loads nothing.

    **Examples**

    - `hocket fleet report runs/fleet -o fleet.html`
    - `hocket fleet report runs/fleet runs/random`
    - `hocket fleet report runs/fleet --module phone/vision`
    """
    from hocket.commands.output_files import check_outputs
    from hocket.fleet.report import read_fleet, read_module
    from hocket.report.fleet_report import fleet_report
    from hocket.runtime.files import atomic_file

    check_outputs({"--output": output}, [path for path in results if path.is_file()])
    page = fleet_report([read_fleet(path) for path in results], read_module(results[0], shown))
    with atomic_file(output) as file:
        file.write(page.encode())
    answer_console().print(f"{output}: {len(page):,} bytes", soft_wrap=True)


@contextlib.contextmanager
def _late_is_no_news() -> Iterator[None]:
    """Keep Photon's server from warning of each device that was late; results have all of them."""
    log = logging.getLogger("hocket.fl.photon.server")
    before = log.level
    if log.getEffectiveLevel() == logging.WARNING:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _print_jobs(found: dict[str, Any]) -> None:
    from hocket.fleet.report import quality_of

    table = plain_table(
        "job", "JCT", "waiting", "rounds", "failed", "device hours", "energy", "down", "up", "model"
    )
    for name, job in found["jobs"].items():
        measure, value = quality_of(job)
        table.add_row(
            name,
            f"{job['completion_seconds'] / HOUR:,.2f} h",
            f"{job['waiting_seconds'] / HOUR:,.2f} h",
            f"{job['num_rounds']}",
            f"{job['num_failed_rounds']}",
            f"{job['device_hours']:.3g}",
            f"{job['joules']:,.3g} J",
            format_bytes(job["download_bytes"]),
            format_bytes(job["upload_bytes"]),
            f"{measure} {value:.4g}",
        )
    console = answer_console()
    console.print(table)
    hits = [each["num_hits"] for each in found["measured"]["requests"]]
    reads = [each["num_reads"] for each in found["requests"]]
    console.print(
        f"{found['policy']}, {found['dataflow']}: mean JCT "
        f"{found['mean_completion_seconds'] / HOUR:,.2f} h; the store answered "
        f"{len(reads)} requests, {sum(hits)} of {sum(reads)} entries from memory",
        soft_wrap=True,
    )
