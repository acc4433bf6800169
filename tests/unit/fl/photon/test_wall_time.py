"""The model of wall time, beside the paper's table and sums over what each client sends."""

from __future__ import annotations

import math

import pytest

from hocket.fl.core.errors import ConfigError
from hocket.fl.photon.plan import PUBLISHED_7B, measured_by_flops, parse_bandwidth, plan_run
from hocket.fl.photon.sizes import SIZES
from hocket.fl.photon.wall_time import TOPOLOGIES, Exchange, Workload, break_even

HOUR = 3600.0
GIGA = 1e9


def test_the_published_hours_of_7b_come_out() -> None:
    """147.9 h of which 97.2 h communication, against 95.6 h of which 0.1 h, over 10 Gbps."""
    found = plan_run(SIZES["7B"], PUBLISHED_7B, 4, 10 * GIGA)
    assert found.synchronous_compute / HOUR == pytest.approx(50.7, abs=0.05)
    assert found.synchronous_communication / HOUR == pytest.approx(97.2, abs=0.1)
    assert found.synchronous_seconds / HOUR == pytest.approx(147.9, abs=0.1)
    assert found.federated_compute / HOUR == pytest.approx(95.5, abs=0.05)
    assert found.federated_communication / HOUR == pytest.approx(0.1, abs=0.01)
    assert found.federated_seconds / HOUR == pytest.approx(95.6, abs=0.05)
    assert found.break_even_bits_per_second / GIGA == pytest.approx(21.7, abs=0.05)
    assert found.num_rounds == 23


def test_at_the_break_even_both_take_as_long_and_below_it_the_federation_is_faster() -> None:
    at = plan_run(SIZES["7B"], PUBLISHED_7B, 4, 10 * GIGA).break_even_bits_per_second
    found = plan_run(SIZES["7B"], PUBLISHED_7B, 4, at)
    assert found.synchronous_seconds == pytest.approx(found.federated_seconds, rel=1e-9)
    slower, faster = (plan_run(SIZES["7B"], PUBLISHED_7B, 4, at * by) for by in (0.5, 2))
    assert slower.federated_seconds < slower.synchronous_seconds
    assert faster.federated_seconds > faster.synchronous_seconds


def test_over_1_gbps_the_published_run_is_ten_times_as_fast() -> None:
    found = plan_run(SIZES["7B"], PUBLISHED_7B, 4, GIGA)
    assert found.synchronous_seconds / found.federated_seconds == pytest.approx(10.6, abs=0.1)


def simulate(topology: str, num_clients: int, num_pieces: int) -> tuple[int, int]:
    """Send pieces one by one; return the most that one link carries one way, and all there are."""
    sent: dict[tuple[int, int], int] = {}
    server = -1

    def send(source: int, target: int, count: int) -> None:
        sent[source, target] = sent.get((source, target), 0) + count

    if topology == "parameter-server":
        for client in range(num_clients):
            send(client, server, num_pieces)
            send(server, client, num_pieces)
        busiest = sum(count for (_, target), count in sent.items() if target == server)
    elif topology == "all-reduce":
        for source in range(num_clients):
            for target in range(num_clients):
                if source != target:
                    send(source, target, num_pieces)
        busiest = sum(count for (source, _), count in sent.items() if source == 0)
    else:
        for _ in ("reduce", "gather"):
            for _ in range(num_clients - 1):
                for source in range(num_clients):
                    send(source, (source + 1) % num_clients, num_pieces // num_clients)
        busiest = sum(count for (source, _), count in sent.items() if source == 0)
    return busiest, sum(sent.values())


@pytest.mark.parametrize("num_clients", [2, 3, 4, 8])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_bytes_are_those_of_messages_sent_one_by_one(topology: str, num_clients: int) -> None:
    busiest, total = simulate(topology, num_clients, 24)
    found = Exchange(topology, num_clients, 24)
    assert found.link_bytes == pytest.approx(busiest)
    assert found.total_bytes == pytest.approx(total)


def test_bytes_fall_by_the_steps_between_exchanges() -> None:
    model = SIZES["125M"]
    measured = measured_by_flops(model, 1e13, 2.5e9, 256 * 2048, 8)
    found = plan_run(model, measured, 8, GIGA, local_steps_per_round=64)
    assert found.synchronous_bytes / found.federated_bytes == pytest.approx(64, rel=0.02)
    smaller = plan_run(model, measured, 8, GIGA, local_steps_per_round=64, scheme="int8")
    assert found.federated_bytes / smaller.federated_bytes == pytest.approx(2, rel=0.01)


def test_compute_follows_from_flops() -> None:
    model = SIZES["125M"]
    measured = measured_by_flops(model, 1e13, 1e9, 2**19, 4, extra_compute=1.5)
    found = plan_run(model, measured, 4, GIGA)
    wanted = 1e9 * model.training_flops / (4 * 1e13)
    assert found.synchronous_compute == pytest.approx(wanted)
    assert found.federated_compute == pytest.approx(1.5 * wanted)


def test_who_computes_no_more_is_faster_over_any_link() -> None:
    exchange = Exchange("ring-all-reduce", 4, 1e9)
    often, seldom = Workload(100.0, 100), Workload(100.0, 1)
    assert break_even(often, seldom, exchange, exchange) == math.inf
    assert break_even(seldom, Workload(200.0, 100), exchange, exchange) == 0


@pytest.mark.parametrize(
    ("text", "bits"),
    [("10Gbps", 1e10), ("250 Mbps", 2.5e8), ("1.5Tbit/s", 1.5e12), ("64kbps", 64e3)],
)
def test_bandwidths_are_read(text: str, bits: float) -> None:
    assert parse_bandwidth(text) == bits


@pytest.mark.parametrize("text", ["10", "fast", "0Gbps", "-1Gbps", "10GB/s"])
def test_what_is_no_bandwidth_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="want a bandwidth"):
        parse_bandwidth(text)
