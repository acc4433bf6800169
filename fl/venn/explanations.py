"""Decisions in sentences: who gets a device and why, and what a job waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hocket.fl.venn.planning import NOBODY
from hocket.fl.venn.requests import Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hocket.fl.core.types import Device
    from hocket.fl.venn.live_jobs import LiveJob
    from hocket.fl.venn.policies import Order


def explain_device(
    device: Device,
    tier: int,
    head: str | None,
    able: Sequence[str],
    owner: int,
    head_group: int,
    order: Order,
) -> str:
    """Say which job gets a device.

    Args:
        device: Which one.
        tier: Of its speed.
        head: The job; None for nobody.
        able: Waiting jobs that may use it.
        owner: The group that devices of its type go to, or ``NOBODY``.
        head_group: Of the job.
        order: Of jobs, where there is no owner.
    """
    if head is None and able:
        names = ", ".join(able)
        return f"nobody gets {device}: {names} may use it, but not its tier of speed, {tier}"
    if head is None:
        return f"nobody gets {device}: no waiting job may use it"
    others = ", ".join(name for name in able if name != head) or "nobody else"
    if owner == NOBODY:
        reason = f"it is the first by {order.name.lower().replace('_', ' ')}"
    elif owner == head_group:
        reason = "devices of its type go to the job's group, where the job is the first"
    else:
        reason = "it has waited longer than the policy's patience"
    return f"{head!r} gets {device}: {reason}; {others} may use it, too"


def explain_waiting(
    name: str, job: LiveJob, num_checkins: int, counts: tuple[float, float, float], ahead: set[str]
) -> str:
    """Say what a job waits for.

    Args:
        name: Of the job.
        job: What is known of it.
        num_checkins: That were counted.
        counts: Of these, or of a day to come: those that it may use, those that its group is given,
            and those that it is next for.
        ahead: Jobs that get others of the devices it may use.
    """
    if not job.wanted:
        failed = ": too few devices came or reported" if job.phase is Phase.FAILED else ""
        return f"{name!r} waits for nothing{failed}"
    usable, owned, mine = counts
    text = (
        f"{name!r} wants {job.wanted} of {job.demand} devices; of the last {num_checkins} "
        f"check-ins it may use {usable:.0f}, its group is given {owned:.0f}, and it is next for "
        f"{mine:.0f}"
    )
    return f"{text}; before it: {', '.join(sorted(ahead))}" if ahead else text
