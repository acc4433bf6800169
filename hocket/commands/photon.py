"""``hocket photon``: language models trained from scratch by clients far apart."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hocket.commands.terminal import (
    JsonFlag,
    answer_console,
    format_bytes,
    plain_table,
    print_json,
)

if TYPE_CHECKING:
    from hocket.fl.photon.plan import Measured, RunPlan

app = typer.Typer(
    no_args_is_help=True,
    help="Train language models from scratch across clients that are far apart.",
)

HOUR = 3_600.0


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
