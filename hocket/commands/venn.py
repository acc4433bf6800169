"""``hocket venn``: devices shared by many federated jobs, simulated here and served beside."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hocket.commands import venn_service
from hocket.commands.problem_options import split_names
from hocket.commands.terminal import (
    JsonFlag,
    answer_console,
    plain_table,
    print_json,
    progress_bar,
)

if TYPE_CHECKING:
    from hocket.fl.venn.simulator import Outcome
    from hocket.fl.venn.traces import Trace

app = typer.Typer(no_args_is_help=True, help="Share devices among many federated jobs.")
venn_service.add_commands(app)

NOTHING_ENDED = 1


@app.command("simulate")
def simulate_command(
    *,
    workload: Annotated[
        str,
        typer.Option(
            "--workload",
            metavar="NAME",
            help="even, small, large, low, high, general, comp_heavy, mem_heavy or res_intensive.",
        ),
    ] = "even",
    policy: Annotated[
        str,
        typer.Option(
            "--policy",
            metavar="NAME,...|all",
            help="random, fifo, las, srsf, total, oort, venn, venn-tiers, lookahead, foresight; "
            "published with --published-rules.",
        ),
    ] = "random,fifo,srsf,venn,foresight",
    devices: Annotated[
        int | None,
        typer.Option("--devices", min=1, help="Size of the population; 107,749 by default."),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Jobs that come.")] = 50,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Of jobs and devices.")] = None,
    round_share: Annotated[
        float, typer.Option("--round-share", help="Part of each job's rounds.")
    ] = 0.1,
    published_rules: Annotated[
        bool,
        typer.Option("--published-rules", help="Rounds as in Venn's own simulator."),
    ] = False,
    sessions: Annotated[
        Path | None,
        typer.Option("--sessions", help="Venn's session CSV or FedScale's client_behave_trace."),
    ] = None,
    capacities: Annotated[
        Path | None,
        typer.Option("--capacities", help="FedScale's client_device_capacity, or a CSV file."),
    ] = None,
    plot: Annotated[
        bool, typer.Option("--plot", help="Draw it, to venn-WORKLOAD.png unless --output is given.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The picture: PNG, SVG or PDF."),
    ] = None,
    json_output: JsonFlag = False,
) -> None:
    """Simulate a workload of Venn's evaluation under several policies, and compare them.

    Devices are drawn from 100 real FedScale clients, a surrogate for all of them, unless
    `--sessions` and `--capacities` name files with the whole traces.

    **Examples**

    - `hocket venn simulate --workload even --policy venn,random,fifo,srsf`
    - `hocket venn simulate --workload low --policy all --plot -o low.svg`
    """
    from hocket.fl.venn.policies import POLICIES, Sharing, choose_policies
    from hocket.fl.venn.simulator import RoundRules, simulate
    from hocket.fl.venn.workloads import workload_named

    names = split_names(policy, "--policy")
    if names == ["all"]:
        names = [
            name
            for name, each in POLICIES.items()
            if published_rules or each.sharing != Sharing.PUBLISHED
        ]
    policies = choose_policies(names)
    chosen = workload_named(workload)
    drawn = chosen.draw(jobs, seed=seed, round_share=round_share)
    rules = RoundRules(num_days=chosen.num_days * 2, is_published=published_rules)
    trace = _make_trace(sessions, capacities, devices, seed or 0)
    outcomes = []
    with progress_bar("simulating") as bar:
        for done, each in enumerate(policies):
            bar.show(each.name, done, len(policies))
            outcomes.append(simulate(trace, drawn, each, rules=rules, seed=seed or 0))
    picture = output or (Path(f"venn-{workload}.png") if plot else None)
    if picture is not None:
        from hocket.venn_plotting import draw_sharing

        draw_sharing(outcomes, picture)
    if json_output:
        print_json(
            {
                "workload": workload,
                "jobs": jobs,
                "seed": seed,
                "devices": trace.origin,
                "checkins_per_second": _checkins_per_second(outcomes),
                "policies": {each.policy: _describe(each) for each in outcomes},
                "written": [] if picture is None else [str(picture)],
            }
        )
    else:
        _print(outcomes, trace, picture)
    if not any(each.completed_jobs for each in outcomes):
        raise typer.Exit(NOTHING_ENDED)


def _make_trace(
    sessions: Path | None, capacities: Path | None, devices: int | None, seed: int
) -> "Trace":
    from hocket.fl.venn.traces import NUM_FEDSCALE_CLIENTS, load_trace, surrogate_trace

    if (sessions is None) != (capacities is None):
        raise typer.BadParameter("want --sessions and --capacities, or neither")
    if sessions is not None and capacities is not None:
        if devices is not None:
            raise typer.BadParameter("--devices is for the surrogate; these files have their own")
        return load_trace(sessions, capacities)
    return surrogate_trace(seed=seed, num_clients=devices or NUM_FEDSCALE_CLIENTS)


def _checkins_per_second(outcomes: list["Outcome"]) -> float:
    return sum(each.num_checkins for each in outcomes) / sum(each.wall_seconds for each in outcomes)


def _describe(outcome: "Outcome") -> dict[str, Any]:
    return {
        "mean_jct_seconds": outcome.mean_seconds,
        "scheduling_delay_seconds": outcome.mean_scheduling_seconds,
        "response_seconds": outcome.mean_response_seconds,
        "completed_jobs": outcome.completed_jobs,
        "fair_share": outcome.fair_share,
        "waste": outcome.waste,
        "rounds_aborted": int(outcome.rounds_aborted.sum()),
        "devices_used": int(outcome.devices_used.sum()),
        "jct_seconds": outcome.completion_seconds.tolist(),
    }


def _print(outcomes: list["Outcome"], trace: "Trace", picture: Path | None) -> None:
    table = plain_table(
        "policy", "mean JCT", "of first", "scheduling", "response", "jobs", "in share", "waste"
    )
    first = outcomes[0].mean_seconds
    for each in outcomes:
        table.add_row(
            each.policy,
            f"{each.mean_seconds:,.0f} s",
            f"{first / each.mean_seconds:.2f}x",
            f"{each.mean_scheduling_seconds:,.0f} s",
            f"{each.mean_response_seconds:,.0f} s",
            f"{each.completed_jobs} of {each.rounds_done.size}",
            f"{each.fair_share:.0%}",
            f"{each.waste:.0%}",
        )
    console = answer_console()
    console.print(table)
    console.print(
        "JCT: from a job's arrival to its end; scheduling, response: of a mean round; in share: "
        "jobs within a fair share's time; waste: devices whose work served no round",
        style="dim",
        soft_wrap=True,
    )
    console.print(f"{trace.origin}; {_checkins_per_second(outcomes):,.0f} check-ins a second")
    if picture is not None:
        console.print(f"written: {picture}", soft_wrap=True)
