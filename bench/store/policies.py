"""Hit rates of FLStore's policies and of others, over a trace of rounds and requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.store import Key
from hocket.fl.store.access import METRICS, MODEL, SERVER, UPDATE, Access, Request
from hocket.fl.store.policies import SHELVES, ByUse, Tailored
from hocket.fl.store.simulation import ListedEntries, simulate

if TYPE_CHECKING:
    from collections.abc import Callable

    from hocket.fl.store.policies import Policy

NUM_DEVICES, A_ROUND, WINDOW = 250, 10, 10
UPDATE_BYTES, METRICS_BYTES = 44_770_000, 4096
TWO_ROUNDS = 2 * (A_ROUND + 1) * UPDATE_BYTES
WORK = {
    "serving": Access.MODEL,
    "clustering": Access.ROUND,
    "audit": Access.DEVICE,
    "selection": Access.WINDOW,
}


def draw_trace(num_rounds: int, *, is_declared: bool = True) -> list[tuple[Key, int] | Request]:
    """Return rounds of 10 of 250 devices, each with a request of P1, P2 and P4, and then audits.

    Args:
        num_rounds: Of the job.
        is_declared: Whether requests say their class.
    """
    rng = np.random.default_rng(0)
    events: list[tuple[Key, int] | Request] = []
    rounds: dict[str, list[int]] = {}
    metrics: list[Key] = []

    def ask(name: str, keys: list[Key]) -> None:
        events.append(Request(name, tuple(keys), WORK[name] if is_declared else None))

    for number in range(1, num_rounds + 1):
        devices = [f"d{each:03d}" for each in rng.choice(NUM_DEVICES, A_ROUND, replace=False)]
        for device in devices:
            events.append((Key("job", number, device, UPDATE), UPDATE_BYTES))
            metrics.append(Key("job", number, device, METRICS))
            events.append((metrics[-1], METRICS_BYTES))
            rounds.setdefault(device, []).append(number)
        model = Key("job", number, SERVER, MODEL)
        events.append((model, UPDATE_BYTES))
        ask("serving", [model])
        ask("clustering", [Key("job", number, device, UPDATE) for device in devices])
        ask("selection", metrics[-WINDOW * A_ROUND :])
    # Devices with a long history, of which all but the first read can be foreseen.
    longest = sorted(rounds, key=lambda device: (-len(rounds[device]), device))[:10]
    for device in longest:
        for number in rounds[device]:
            ask("audit", [Key("job", number, device, UPDATE)])
    return events


def policy_rows(num_rounds: int) -> list[dict[str, Any]]:
    """Return a row for each policy: hits by class, the most held, and what was held for naught."""
    makers: dict[str, tuple[Callable[[ListedEntries], Policy], bool]] = {
        "tailored": (lambda directory: Tailored(directory, TWO_ROUNDS), True),
        "tailored, learnt": (lambda directory: Tailored(directory, TWO_ROUNDS), False),
    }
    for order in SHELVES:
        for is_through in (False, True):
            label = f"{order}, {'write-through' if is_through else 'on demand'}"
            makers[label] = (
                lambda directory, order=order, is_through=is_through: ByUse(
                    order, directory, TWO_ROUNDS, write_through=is_through
                ),
                True,
            )
    rows = []
    for label, (make, is_declared) in makers.items():
        directory = ListedEntries()
        trace = draw_trace(num_rounds, is_declared=is_declared)
        outcome = simulate(trace, directory, make(directory))
        rates = {str(access): outcome.tallies[name].hit_rate for name, access in WORK.items()}
        rows.append(
            {
                "part": "policies",
                "policy": label,
                "hits": rates,
                "peak_updates": outcome.peak_bytes / UPDATE_BYTES,
                "unused_gigabytes": outcome.unused_bytes / 1e9,
            }
        )
    return rows
