"""Tiers of speed of live devices, learnt from how long they take to answer.

Tiers cut the response times seen so far into parts of the same size. A device is in the tier of its
own times, which count less the longer they are ago; one that was never heard of is in the middle.
One that was lost counts as slow as the slowest answers, and as long as it was waited for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from hocket.fl.venn.event_state import FIRST_ANSWERED, NUM_BINS, bin_of, percentile_of
from hocket.fl.venn.policies import LEARNING_RATE

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_RESPONSES = 50
"""Before tiers are told apart, and of a tier before it is compared with others."""
TIER_SHARE = 0.95
"""Percentile of response times that tiers are compared by."""
RECUT_RESPONSES = 100
"""After so many, tiers are cut anew."""
WEIGHT = 0.3
"""Of a device's last time among all it has had."""
MAX_DEVICES = 1_000_000
"""That are remembered; those longest unheard of are forgotten first."""


class TierProfile:
    """What is known of how fast devices answer, and how surely.

    Args:
        num_tiers: With 1 nothing is remembered of devices.

    Attributes:
        answered: Share of each tier's devices that answer, lately, ``[tiers]``.
    """

    def __init__(self, num_tiers: int) -> None:
        self.num_tiers = num_tiers
        self.answered: NDArray[np.float64] = np.full(num_tiers, FIRST_ANSWERED)
        self._bins = np.zeros((num_tiers + 1, NUM_BINS))
        self._num_responses = 0
        self._cuts: list[float] = []
        self._seconds: OrderedDict[str, float] = OrderedDict()

    def tier_of(self, device_id: str) -> int:
        """Return a device's tier, 0 for the slowest."""
        seconds = self._seconds.get(device_id)
        if not self._cuts or seconds is None:
            return self.num_tiers // 2
        return self.num_tiers - 1 - bisect_left(self._cuts, seconds)

    def learn_answer(self, device_id: str, tier: int, seconds: float) -> None:
        """Take note of an answer.

        Args:
            device_id: Whose it is.
            tier: That the device was in when it got its task.
            seconds: That it took.
        """
        self.answered[tier] += LEARNING_RATE * (1 - self.answered[tier])
        number = bin_of(seconds)
        self._bins[tier, number] += 1
        self._bins[-1, number] += 1
        self._num_responses += 1
        self._remember(device_id, seconds)
        if self.num_tiers > 1 and (
            self._num_responses == LEAST_RESPONSES or self._num_responses % RECUT_RESPONSES == 0
        ):
            shares = np.arange(1, self.num_tiers) / self.num_tiers
            self._cuts = [percentile_of(self._bins[-1], float(share)) for share in shares]

    def learn_loss(self, device_id: str, tier: int, seconds: float) -> None:
        """Take note that a device has left, failed, or is overdue.

        Args:
            device_id: Which one.
            tier: That the device was in when it got its task.
            seconds: For which it was waited for.
        """
        self.answered[tier] -= LEARNING_RATE * self.answered[tier]
        self._remember(device_id, max(seconds, self.response_seconds(TIER_SHARE)))

    def gain(self, tier: int) -> float:
        """Return a tier's response time over that of all devices; 1 while too little is known."""
        if self._bins[tier].sum() < LEAST_RESPONSES:
            return 1.0
        own, everyone = (percentile_of(self._bins[row], TIER_SHARE) for row in (tier, -1))
        return float(own / everyone)

    def response_seconds(self, share: float) -> float:
        """Return the time within which a share of all answers came; 0 before the first."""
        return float(percentile_of(self._bins[-1], share))

    def _remember(self, device_id: str, seconds: float) -> None:
        if self.num_tiers == 1:
            return
        before = self._seconds.pop(device_id, seconds)
        self._seconds[device_id] = (1 - WEIGHT) * before + WEIGHT * seconds
        if len(self._seconds) > MAX_DEVICES:
            self._seconds.popitem(last=False)
