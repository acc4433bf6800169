"""How long would a round of FedProphet take on the published pools of devices, beside jFAT's?

By the authors' model of time, over many rounds of devices drawn anew, nothing being trained. How a
model is cut matters, and what its modules are attacked at: under a fifth of the model's memory, or
with each atom as a module; features, or the model's input.
"""

from __future__ import annotations

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
from harness import run_bench

from hocket.fl.fat.assignment import SpanCost
from hocket.fl.fat.cascade import StageTask

if TYPE_CHECKING:
    from adversarial.models import Model
    from harness import Choices

    from hocket.fl.fat.cascade import Attacked
    from hocket.fl.fat.partition import Cascade

QUESTION = "simulated seconds of a round, by the published model, over many rounds"
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


def measure(choices: Choices) -> list[dict[str, Any]]:
    """Return a row for each model, cut and attack."""
    rows = []
    num_rounds = 3 if choices.quick else 300
    for name in ("small",) if choices.quick else ("vgg", "vit"):
        model = compile_architecture(name, max_steps=_STEPS)
        share = ARCHITECTURES[name].budget_share
        greedy = model.cascade(int(share * model.whole_footprint().peak_bytes))
        joint = seconds_of(model, model.whole(), "features", num_rounds)
        cuts = {"by memory": greedy, "each atom": model.one_by_one()}
        for cut, cascade in cuts.items():
            spans = model.spans(cascade.exits)
            flops = [
                model.footprint(spans, cascade.piece(number, number).span).flops
                for number in range(len(cascade))
            ]
            for attack in ("features", "input"):
                found = seconds_of(model, cascade, attack, num_rounds)
                row: dict[str, Any] = {"model": name, "cut": cut, "attack": attack}
                row |= {"modules": len(cascade), "first_share": flops[0] / sum(flops)}
                for pool, stages in found.items():
                    row[f"joint_{pool}"] = joint[pool][0]
                    row[f"stages_{pool}"] = stages
                    row[f"first_{pool}"], row[f"mean_{pool}"] = stages[0], statistics.fmean(stages)
                    row[f"faster_{pool}"] = joint[pool][0] / statistics.fmean(stages)
                rows.append(row)
    return rows


if __name__ == "__main__":
    run_bench(QUESTION, COLUMNS, measure)
