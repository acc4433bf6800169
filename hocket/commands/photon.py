"""``hocket photon``: language models trained from scratch by clients far apart."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hocket.commands.photon_rounds import Teller, told
from hocket.commands.terminal import (
    JsonFlag,
    answer_console,
    format_bytes,
    plain_table,
    print_json,
    progress_bar,
)

if TYPE_CHECKING:
    from hocket.fl.photon.plan import Measured, RunPlan

app = typer.Typer(
    no_args_is_help=True,
    help="Train language models from scratch across clients that are far apart.",
)

HOUR = 3_600.0


@app.command("train")
def train_command(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG.toml", help="What to train, on what, and how.")
    ],
    *,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine", help="Where clients run: local, ray, flower, peers; else as in the file."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=0, help="Processes at once; else as in the file.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, help="In all; else as in the file.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after the last round that is over.")
    ] = False,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="HOST:PORT",
            help="Flower's SuperLink; `loopback` starts one here, with SuperNodes and TLS.",
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            "--rank", min=0, help="Be this one of the peers, which other machines are the rest of."
        ),
    ] = None,
    meet: Annotated[
        str | None,
        typer.Option("--meet", metavar="tcp://HOST:PORT", help="Of peer 0, where peers meet."),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write curves for TensorBoard, too.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw the losses: PNG, SVG or PDF."),
    ] = None,
    service: Annotated[
        str,
        typer.Option("--service", metavar="URL", help="Where other runs ask for clients, too."),
    ] = "",
    json_output: JsonFlag = False,
) -> None:
    """Train a language model from scratch across clients.

    Rounds are told on stderr as they end: loss, perplexity, tokens a second, bytes sent. Metrics, a
    line a round, checkpoints and the trained module go to the run's folder.

    **Examples**

    - `hocket photon data --folder shards --sources essays,python --vocabulary 2048`
    - `hocket photon train photon.toml --engine local --workers 2`
    - `hocket photon train photon.toml --resume --rounds 100 --plot losses.svg`
    - `hocket photon train photon.toml --engine flower --address loopback --workers 2`
    """
    from hocket.fl.config import DevicesSection
    from hocket.fl.photon.config import ENGINES, load_photon_config
    from hocket.photon import train_photon

    if engine not in {None, *ENGINES}:
        raise typer.BadParameter(f"want one of {', '.join(ENGINES)}, got {engine!r}")
    if (rank is None) != (meet is None):
        raise typer.BadParameter("--rank and --meet go together")
    if plot is not None:
        from hocket.plotting import check_can_draw, picture_format

        check_can_draw()
        picture_format(plot)
    found = load_photon_config(config)
    place = {"name": engine, "workers": workers, "address": address}
    length = {"rounds": rounds, "tensorboard": tensorboard or None}
    found = found.model_copy(
        update={
            "engine": found.engine.model_copy(update=_given(place)),
            "run": found.run.model_copy(update=_given(length)),
        }
    )
    observers = [Teller(found.run.rounds)]
    if rank is not None and meet is not None:
        from hocket.photon_peers import run_peer

        result = run_peer(found, rank, meet, observers, resume=resume)
    else:
        devices = DevicesSection(service=service)
        result = train_photon(found, resume=resume, observers=observers, devices=devices)
    if plot is not None:
        from hocket.photon_plotting import curve_of, draw_curves

        draw_curves([curve_of(found.run.name, result.reports)], plot)
    last = result.reports[-1]
    if json_output:
        print_json(
            {
                "folder": str(result.folder),
                "model": str(result.model),
                "digest": result.digest,
                "num_rounds": len(result.reports),
                "ledger": asdict(result.ledger),
                "metrics": {**last.train_metrics, **last.evaluate_metrics},
            }
        )
        return
    console = answer_console()
    console.print(told(last, found.run.rounds, None))
    console.print(
        f"{result.ledger.tokens:,} tokens, {format_bytes(result.ledger.uploaded_bytes)} up, "
        f"{format_bytes(result.ledger.downloaded_bytes)} down; the model is {result.model}"
    )


@app.command("data")
def data_command(
    *,
    folder: Annotated[Path, typer.Option("--folder", "-o", help="Of the shards; made new.")],
    sources: Annotated[
        str, typer.Option("--sources", metavar="NAME,...", help="Kinds of text, with commas.")
    ] = "essays,dictionary,kernel,python",
    vocabulary: Annotated[
        int, typer.Option("--vocabulary", min=257, help="Tokens of the tokenizer it learns.")
    ] = 2_048,
    characters: Annotated[
        int | None, typer.Option("--characters", min=1, help="Of each source, at most.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Where packages are kept; the user's cache.")
    ] = None,
    json_output: JsonFlag = False,
) -> None:
    """Get real text from packages of Debian, and write it as tokens.

    Needs Debian's apt-get, and no root. The text is others', under their licences.

    **Examples**

    - `hocket photon data --folder shards`
    - `hocket photon data -o shards --sources perl,git --characters 4000000 --json`
    """
    import os

    from hocket.photon import prepare_shards

    home = os.environ.get("HOCKET_DATA_DIR", "") or Path.home() / ".cache" / "hocket" / "data"
    names = [name.strip() for name in sources.split(",") if name.strip()]
    with progress_bar("getting text"):
        made = prepare_shards(
            folder,
            names,
            vocabulary,
            cache=cache or Path(home) / "corpora",
            most_characters=characters,
        )
    counts = {
        name: {part: made.num_tokens(name, part) for part in ("train", "held-out")}
        for name in made.sources
    }
    if json_output:
        print_json({"folder": str(folder), "vocabulary": made.vocabulary, "tokens": counts})
        return
    table = plain_table("source", "tokens", "held out")
    for name, parts in counts.items():
        table.add_row(name, *(f"{count:,}" for count in parts.values()))
    answer_console().print(table)


@app.command("plot")
def plot_command(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Of runs, each with its metrics.")
    ],
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="A PNG, SVG or PDF.")
    ] = Path("losses.svg"),
) -> None:
    """Draw the perplexity of runs, by tokens and by bytes sent.

    **Examples**

    - `hocket photon plot runs/centralised runs/photon -o losses.svg`
    """
    from hocket.photon_plotting import draw_curves, read_curve

    draw_curves([read_curve(folder) for folder in folders], output)
    answer_console().print(str(output))


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


@app.command("plan")
def plan_command(
    *,
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="NAME", help="Size of the model, as 1M to 7B.")
    ],
    clients: Annotated[int, typer.Option("--clients", min=2, help="Clients of a round.")],
    bandwidth: Annotated[
        str, typer.Option("--bandwidth", metavar="RATE", help="Of the slowest link, as 10Gbps.")
    ],
    local_steps: Annotated[
        int, typer.Option("--local-steps", min=1, help="Steps of a client between exchanges.")
    ] = 500,
    topology: Annotated[
        str,
        typer.Option(help="Who sends to whom: parameter-server, all-reduce, ring-all-reduce."),
    ] = "ring-all-reduce",
    scheme: Annotated[
        str, typer.Option(help="How updates are sent: float32, bf16, int8, int4.")
    ] = "bf16",
    tflops: Annotated[
        float | None,
        typer.Option(min=0.0, help="That a client reaches; as the paper's of 7B by default."),
    ] = None,
    tokens: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="Of the synchronous run, in billions; 20 a parameter by default."
        ),
    ] = None,
    batch_tokens: Annotated[
        int | None,
        typer.Option("--batch-tokens", min=1, help="Of all clients together, a step."),
    ] = None,
    extra_compute: Annotated[
        float | None,
        typer.Option(
            "--extra-compute",
            min=0.0,
            help="Tokens to the same loss, by those of the synchronous run; 1.88 by default.",
        ),
    ] = None,
    json_output: JsonFlag = False,
) -> None:
    """Say what a federated run takes beside a synchronous one, before it is begun.

    Of 7B with 4 clients it is the paper's run, and its published hours. What is not given of
    others is assumed to be as there, and the answer names what it was made from.

    **Examples**

    - `hocket photon plan --model 7B --clients 4 --bandwidth 10Gbps`
    - `hocket photon plan -m 125M --clients 8 --bandwidth 100Mbps --tflops 40 --scheme int8`
    """
    from hocket.fl.photon.plan import assumed, parse_bandwidth, plan_run
    from hocket.fl.photon.sizes import find_size

    size, bits = find_size(model), parse_bandwidth(bandwidth)
    measured = assumed(
        size,
        clients,
        None if tflops is None else tflops * 1e12,
        None if tokens is None else tokens * 1e9,
        batch_tokens,
        extra_compute,
    )
    found = plan_run(
        size,
        measured,
        clients,
        bits,
        local_steps_per_round=local_steps,
        topology=topology,
        scheme=scheme,
    )
    if json_output:
        print_json(
            {
                "model": model,
                "num_parameters": size.num_parameters,
                "num_clients": clients,
                "bandwidth_bits_per_second": bits,
                "topology": topology,
                "scheme": scheme,
                "made_from": asdict(measured),
                "synchronous_seconds": found.synchronous_seconds,
                "federated_seconds": found.federated_seconds,
                **asdict(found),
            }
        )
    else:
        _print_plan(found, measured, bandwidth)


def _print_plan(found: "RunPlan", measured: "Measured", bandwidth: str) -> None:
    table = plain_table("", "compute h", "communication h", "total h", "sent by all")
    rows: tuple[tuple[str, float, float, float, float], ...] = (
        (
            "synchronous",
            found.synchronous_compute,
            found.synchronous_communication,
            found.synchronous_seconds,
            found.synchronous_bytes,
        ),
        (
            "federated",
            found.federated_compute,
            found.federated_communication,
            found.federated_seconds,
            found.federated_bytes,
        ),
    )
    for name, *seconds, sent in rows:
        table.add_row(name, *(f"{each / HOUR:,.1f}" for each in seconds), format_bytes(sent))
    console = answer_console()
    console.print(table)
    console.print(f"{found.num_rounds:,} rounds over {bandwidth}; {_break_even(found)}")
    console.print(
        f"a client holds {format_bytes(found.client_bytes)} and activations; "
        f"{format_bytes(found.client_state_bytes)} of it is the optimizer's, kept or sent if that "
        "is to go on from round to round"
    )
    console.print(
        f"made from {measured.steps:,.0f} steps at {measured.steps_per_second:.3g}/s, and "
        f"{measured.local_steps:,.0f} local steps at {measured.local_steps_per_second:.3g}/s"
    )


def _break_even(found: "RunPlan") -> str:
    at: Any = found.break_even_bits_per_second
    if at == float("inf"):
        return "the federated run is faster over any link"
    if not at:
        return "the synchronous run is faster over any link"
    return f"above {at / 1e9:,.3g} Gbps the synchronous run is faster"
