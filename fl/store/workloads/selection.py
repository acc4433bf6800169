"""Whom to ask next, from the metrics of the last rounds alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from hocket.fl.core.errors import ConfigError
from hocket.fl.store.access import UPDATE, WINDOW_ROUNDS, Access
from hocket.fl.store.workloads.workload import Answer, Plan, Question, Workload

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hocket.fl.core.store import Key
    from hocket.fl.store.catalog import Catalog


def _window(catalog: Catalog, question: Question, names: Sequence[str]) -> dict[str, Any]:
    """Return the newest metrics of each device in the last ``rounds`` (10)."""
    rounds = catalog.rounds(question.job, UPDATE)
    last = question.round if question.round is not None else max(rounds, default=0)
    first = max(0, last - question.count("rounds", WINDOW_ROUNDS) + 1)
    newest: dict[str, dict[str, float]] = {}
    for entry in catalog.entries(question.job, (first, last), kind=UPDATE):
        lacking = [name for name in names if name not in entry.metrics]
        if lacking:
            raise ConfigError(f"{entry.key}: its metrics lack {', '.join(lacking)}")
        newest[entry.key.device] = {
            **{name: entry.metrics[name] for name in names},
            "round": entry.key.round,
        }
    if not newest:
        raise ConfigError(f"job {question.job!r}: no device took part in rounds {first} to {last}")
    return {"round": last, "devices": newest}


def prepare_oort(catalog: Catalog, question: Question) -> Plan:
    """Ask for the ``count`` (10) devices of most use.

    ``pace_seconds`` is what a round should take (by default the 0.8 quantile of what devices took),
    ``penalty`` (2) how much slower ones are worth less.
    """
    facts = _window(catalog, question, ("loss", "num_examples", "seconds"))
    seconds = [known["seconds"] for known in facts["devices"].values()]
    pace = question.number("pace_seconds", float(np.quantile(seconds, 0.8)))
    chosen = {"count": question.count("count", 10), "penalty": question.number("penalty", 2.0)}
    return Plan(facts | chosen | {"pace_seconds": pace})


def choose_oort(facts: Mapping[str, Any], contents: Sequence[tuple[Key, memoryview]]) -> Answer:
    """Return Oort's utility of each device, and the best (Lai et al. 2021, equations 1 and 2).

    Its examples' losses, here their mean, times the examples; less for who is slower than the pace;
    more for whose metrics are old.
    """
    del contents
    last, pace = facts["round"], facts["pace_seconds"]
    utility = {}
    for device, known in facts["devices"].items():
        worth = known["num_examples"] * abs(known["loss"])
        # Rounds are counted from 1 where the logarithm is wanted.
        worth += math.sqrt(0.1 * math.log(max(last, 1)) / max(known["round"], 1))
        if known["seconds"] > pace:
            worth *= (pace / known["seconds"]) ** facts["penalty"]
        utility[device] = worth
    order = sorted(utility, key=lambda device: (-utility[device], device))
    return Answer({"round": last, "utility": utility, "chosen": order[: facts["count"]]})


def prepare_tiers(catalog: Catalog, question: Question) -> Plan:
    """Ask for ``tiers`` (5) of speed, and ``count`` (10) devices of one drawn by ``seed`` (0)."""
    facts = _window(catalog, question, ("accuracy", "seconds"))
    chosen = {
        "tiers": question.count("tiers", min(5, len(facts["devices"]))),
        "count": question.count("count", 10),
        "seed": question.count("seed", 0, least=0),
    }
    if chosen["tiers"] > len(facts["devices"]):
        raise ConfigError(f"option 'tiers': there are {len(facts['devices'])} devices only")
    return Plan(facts | chosen)


def choose_tier(facts: Mapping[str, Any], contents: Sequence[tuple[Key, memoryview]]) -> Answer:
    """Return tiers of devices alike in speed, and devices of one of them (Chai et al. 2020, TiFL).

    A tier is drawn the likelier the further its accuracy is below the best one's.
    """
    del contents
    known = facts["devices"]
    order = sorted(known, key=lambda device: (known[device]["seconds"], device))
    tiers = [list(part) for part in np.array_split(np.array(order), facts["tiers"])]
    accuracies = np.array(
        [np.mean([known[device]["accuracy"] for device in tier]) for tier in tiers]
    )
    need = accuracies.max() - accuracies + 1.0 / len(tiers)
    rng = np.random.default_rng([facts["seed"], facts["round"]])
    drawn = int(rng.choice(len(tiers), p=need / need.sum()))
    members = rng.permutation(tiers[drawn])[: facts["count"]]
    return Answer(
        {
            "round": facts["round"],
            "tiers": [[str(device) for device in tier] for tier in tiers],
            "accuracies": accuracies.tolist(),
            "tier": drawn,
            "chosen": sorted(str(device) for device in members),
        }
    )


WORKLOADS = (
    Workload(
        "oort-selection",
        Access.WINDOW,
        "devices of most use next, by loss, speed and how long ago they took part",
        prepare_oort,
        choose_oort,
    ),
    Workload(
        "tier-selection",
        Access.WINDOW,
        "tiers of devices alike in speed, and devices of one",
        prepare_tiers,
        choose_tier,
    ),
)
