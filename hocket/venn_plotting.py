"""What policies make of a workload as a picture: completion times, supply and demand, fairness."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hocket.plotting import check_can_draw, picture_format
from hocket.runtime.files import atomic_file

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from hocket.fl.venn.simulator import Outcome

_INCHES = (15.0, 4.2)
_DAY_HOURS = 24.0


def draw_sharing(outcomes: Sequence[Outcome], path: str | os.PathLike[str]) -> None:
    """Draw outcomes of simulations beside each other, and write the picture.

    Args:
        outcomes: One a policy.
        path: PNG, SVG or PDF, by its ending.
    """
    check_can_draw()
    kind = picture_format(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, dpi=140, layout="constrained")
    completion, supply, fairness = figure.subplots(1, 3)
    for each in outcomes:
        label = each.policy
        ended = np.isfinite(each.completion_seconds)
        hours = np.sort(each.completion_seconds[ended]) / 3600
        shares = np.arange(1, hours.size + 1) / ended.size
        completion.step(hours, shares, where="post", label=label)
        ratios = np.sort(each.completion_seconds[ended] / each.fair_seconds[ended])
        fairness.step(ratios, shares, where="post", label=label)
        days = np.arange(len(each.by_hour)) / _DAY_HOURS
        supply.plot(days, each.by_hour[:, 2], linewidth=0.8, label=f"wanted, {label}")
    longest = max(outcomes, key=lambda each: len(each.by_hour))
    days = np.arange(len(longest.by_hour)) / _DAY_HOURS
    supply.fill_between(days, longest.by_hour[:, 0], color="#d9d9d4", label="check-ins an hour")
    completion.set(xlabel="completion time, hours", ylabel="part of all jobs", ylim=(0, 1))
    supply.set(xlabel="day", ylabel="devices", yscale="symlog")
    fairness.set(xlabel="completion time over a fair share's", ylim=(0, 1))
    fairness.axvline(1.0, color="#666666", linewidth=0.8)
    for axes in (completion, supply):
        axes.legend(fontsize="x-small")
    with atomic_file(path) as file:
        figure.savefig(file, format=kind)
