"""Requests that no supply can meet are refused as they come, with the reason and what would do."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hocket.fl.core.errors import ConfigError
from hocket.fl.venn.eligibility import requirement_of

if TYPE_CHECKING:
    from hocket.fl.venn.eligibility import Requirement
    from hocket.fl.venn.requests import RoundRequest
    from hocket.fl.venn.supply import Supply

DOUBT = 2.0
"""A request is refused where even so many times the devices to be expected would not do; Venn's
simulator has the same factor."""

LONGEST_WAIT_SECONDS = 7 * 86400.0
"""Longer selections are not proposed."""


class AdmissionError(ConfigError):
    """A request that cannot be met; the message says what could."""


def check_admission(request: RoundRequest, supply: Supply, now: float) -> None:
    """Check that devices enough may be expected within a request's selection.

    What other jobs take is not counted: a request is refused only if it would fail by itself. As
    long as too little is known of supply, nothing is.

    Args:
        request: What is asked for.
        supply: Of check-ins.
        now: The time, seconds.

    Raises:
        AdmissionError: They may not.
    """
    if math.isinf(request.selection_seconds):
        return
    requirement = requirement_of(request.minimum)
    found = supply.expected(requirement, now, request.selection_seconds)
    needed = math.ceil(request.count * request.quorum)
    if found is None or found * DOUBT >= needed:
        return
    raise AdmissionError(
        f"job {request.job!r}: {request.count} devices {_shown(requirement)}within "
        f"{request.selection_seconds:,.0f} s, of which {needed} must come, cannot be had: "
        f"{found:,.1f} such are expected in that time; "
        f"{' or '.join(_mends(request, supply, now, found, needed))}"
    )


def _mends(
    request: RoundRequest, supply: Supply, now: float, found: float, needed: int
) -> list[str]:
    """Return what could be asked for instead, each by itself."""
    mends = []
    most = int(found * DOUBT / request.quorum)
    if most:
        mends.append(f"ask for {most} or fewer")
    requirement = requirement_of(request.minimum)
    wait = request.selection_seconds
    while wait < LONGEST_WAIT_SECONDS:
        wait = min(2 * wait, LONGEST_WAIT_SECONDS)
        if DOUBT * (supply.expected(requirement, now, wait) or 0.0) >= needed:
            mends.append(f"wait up to {wait:,.0f} s")
            break
    for name, value in requirement:
        rest = tuple(each for each in requirement if each[0] != name)
        without = supply.expected(rest, now, request.selection_seconds) or 0.0
        if DOUBT * without >= needed:
            mends.append(f"ask for less {name} than {value:g} (without it, {without:,.0f} come)")
    return mends or ["nothing that was seen so far would do"]


def _shown(requirement: Requirement) -> str:
    if not requirement:
        return ""
    return f"with {', '.join(f'{name} of {value:g}' for name, value in requirement)} or more "
