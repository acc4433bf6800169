"""How long would a round of FedProphet take on the published pools of devices, beside jFAT's?

By the authors' model of time, over many rounds of devices drawn anew, nothing being trained. How a
model is cut matters, and what its modules are attacked at: under a fifth of the model's memory, or
with each atom as a module; features, or the model's input.
"""

from __future__ import annotations

import itertools
import statistics
from typing import TYPE_CHECKING, Any

from adversarial.models import ARCHITECTURES, compile_architecture
from adversarial.times import (
    SCALING,
    CascadeWorks,
    RoundTimes,
    network_bytes_per_second,
    pools_for,
    simulate,
)
from harness import PACKAGES, choices_of, make_parser, read_rows, report, stamp, write_rows

from hocket.fl.fat.assignment import SpanCost
from hocket.fl.fat.cascade import StageTask

if TYPE_CHECKING:
    from adversarial.models import Model

    from hocket.fl.fat.cascade import Attacked
    from hocket.fl.fat.partition import Cascade

QUESTION = "simulated seconds of a round, by the published model, over many rounds"
BY_MEMORY, EACH_ATOM = "by memory", "each atom"
ATTACKS: tuple[Attacked, ...] = ("features", "input")
_STEPS, _ATTACK_STEPS = 16, 5
COLUMNS = {
    "model": "s",
    "cut": "s",
    "attack": "s",
    "modules": "d",
    "first_share": ".2f",
    **{f"joint_{pool}": ".1f" for pool in SCALING},
    **{f"first_{pool}": ".1f" for pool in SCALING},
    **{f"mean_{pool}": ".1f" for pool in SCALING},
    **{f"faster_{pool}": ".1f" for pool in SCALING},
}


def seconds_of(
    model: Model, cascade: Cascade, attack: Attacked, num_rounds: int
) -> dict[str, list[float]]:
    """Return how long a round of each stage takes in the mean, for each pool."""
    whole = model.whole_footprint()
    budget = 0.2 * whole.peak_bytes
    spans = model.spans(cascade.exits)
    footprints = {
        (one, last): model.footprint(spans, cascade.piece(one, last, prophet=0.5).span)
        for last in range(len(cascade))
        for one in range(last + 1)
    }
    costs = {pair: SpanCost(each.peak_bytes, each.flops) for pair, each in footprints.items()}
    works = CascadeWorks(footprints, costs, model.training)
    times = RoundTimes(pools_for(whole, budget), 0, works, network_bytes_per_second(whole))
    for number in range(len(cascade)):
        stage = StageTask(stage=number, last=number, attack=attack, steps=_ATTACK_STEPS)
        simulate(times, stage, num_rounds)
    return {
        pool: [each[pool] / each["rounds"] for each in times.stages.values()] for pool in SCALING
    }


def row_of(name: str, cut: str, attack: Attacked, num_rounds: int) -> dict[str, Any]:
    """Return a row: a model, how it is cut, and what its modules are attacked at."""
    model = compile_architecture(name, max_steps=_STEPS)
    share = ARCHITECTURES[name].budget_share
    cascade = model.one_by_one()
    if cut == BY_MEMORY:
        cascade = model.cascade(int(share * model.whole_footprint().peak_bytes))
    spans = model.spans(cascade.exits)
    flops = [
        model.footprint(spans, cascade.piece(number, number).span).flops
        for number in range(len(cascade))
    ]
    row: dict[str, Any] = {"model": name, "cut": cut, "attack": attack}
    row |= {"modules": len(cascade), "first_share": flops[0] / sum(flops)}
    joint = seconds_of(model, model.whole(), "features", num_rounds)
    for pool, stages in seconds_of(model, cascade, attack, num_rounds).items():
        row[f"joint_{pool}"] = joint[pool][0]
        row[f"stages_{pool}"] = stages
        row[f"first_{pool}"], row[f"mean_{pool}"] = stages[0], statistics.fmean(stages)
        row[f"faster_{pool}"] = joint[pool][0] / statistics.fmean(stages)
    return row


def main() -> None:
    """Measure what the command line asks for; rows that the file has are kept."""
    choices = choices_of(make_parser(QUESTION).parse_args())
    path, about = choices.json_path, stamp((*PACKAGES, "torch"))
    rows = read_rows(path) if path is not None else []
    known = {(row["model"], row["cut"], row["attack"]) for row in rows}
    models = ("small",) if choices.quick else ("vgg", "vit")
    cuts = (BY_MEMORY,) if choices.quick else (BY_MEMORY, EACH_ATOM)
    for key in itertools.product(models, cuts, ATTACKS):
        if key not in known:
            rows.append(row_of(*key, num_rounds=3 if choices.quick else 300))
            if path is not None:
                write_rows(QUESTION, rows, path, about)
    report(QUESTION, rows, COLUMNS, choices, about=about)


if __name__ == "__main__":
    main()
