"""Proving that a mask hides what lies ahead, so that kernels need not compute it.

Exporters write causality as a mask: a triangle of constants, one computed from positions, or one
put together with a mask of padding. Where every entry ahead of a query is proved to be hidden
whatever the inputs, the attention is causal; a mask that does nothing else is not needed any more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.graph.recognize.mask_bounds import BoundFinder
from hocket.compiler.graph.recognize.masks import is_swallowing
from hocket.compiler.graph.recognize.match import MaskRole, MaskTerm, mask_shape_for
from hocket.compiler.problem import NO_RULES, ScoreRules

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from hocket.hwmodels.dtypes import DType

    Truth = NDArray[np.bool_]
    Floats = NDArray[np.float64]
    Scores = tuple[int, int, int, int]
    PositionFinder = Callable[[tuple[MaskTerm, ...], Scores, DType], "Positions"]

# A key whose mask is above this has a score that no swallowing value comes near.
_ALIVE = -1e20


@dataclass(frozen=True)
class Positions:
    """What masks come to once causality and windows are taken out of them.

    Attributes:
        terms: The masks that are still needed.
        is_causal: Whether row ``i`` sees keys ``j <= i`` only.
        rules: Causality from another key than the first, and windows.
    """

    terms: tuple[MaskTerm, ...]
    is_causal: bool = False
    rules: ScoreRules = NO_RULES


@dataclass(frozen=True)
class MaskProof:
    """What is known of entries of a mask, each ``[batch, heads, rows, columns]`` or alike.

    Attributes:
        hides: Entries that are hidden whatever the inputs.
        shows: Entries that are left as they are.
        is_alive: Entries that are at most moved by a number of usual size.
        is_tame: Entries to which at most a number of usual size is added, so that what another mask
            hides by a finite number stays hidden.
        is_hard: Whether hidden scores are minus infinity, not just far below all others.
    """

    hides: Truth
    shows: Truth
    is_alive: Truth
    is_tame: Truth
    is_hard: bool


def find_positions(terms: tuple[MaskTerm, ...], scores: Scores, dtype: DType) -> Positions:
    """Take causality and windows out of masks, as far as they can be proved.

    Before and after, for 4 queries and keys::

        keep = And(LessOrEqual([0..3], [[0]..[3]]), padding); scores where keep, else -inf
        is_causal, scores where keep, else -inf      (without the padding: no mask at all)

    A row may be hidden throughout by a finite number, and then sees all keys alike, those ahead
    too. So unless hidden scores are minus infinity, or some key of each row is proved visible,
    masks stay as they are, and causality only tells kernels where to look first.

    Args:
        terms: In the order in which they act.
        scores: Batch, heads, rows and columns of the scores.
        dtype: Element type of the scores where they are masked.
    """
    finder = BoundFinder()
    proofs = [_prove(term, scores, dtype, finder) for term in terms]
    left = tuple(
        term
        for term, proof in zip(terms, proofs, strict=True)
        if proof is None or not bool(np.all(proof.shows))
    )
    _, _, rows, columns = scores
    if rows == 1 or any(proof is None for proof in proofs):
        return Positions(left)
    known = [proof for proof in proofs if proof is not None]
    for offset in dict.fromkeys((0, max(columns - rows, 0))):
        ahead = np.arange(columns) - np.arange(rows)[:, None] - offset
        for proof in known:
            seen = _seen(proof, known, ahead)
            if seen is None:
                continue
            is_hidden = (ahead > 0) | (-ahead > seen.window)
            if not seen.mask_hides_rest:
                left = tuple(
                    term
                    for term, other in zip(terms, known, strict=True)
                    if not bool(np.all(np.where(is_hidden, other.hides, other.shows)))
                )
            rules = ScoreRules(
                query_offset=offset,
                left_window=None if seen.window >= rows - 1 + offset else seen.window,
                right_window=0 if offset else None,
                mask_hides_rest=seen.mask_hides_rest,
            )
            return Positions(left, is_causal=not offset, rules=rules)
    return Positions(left)


@dataclass(frozen=True)
class _Seen:
    """Which keys a causal mask lets rows see.

    Attributes:
        window: Keys behind its own that a row sees at most.
        mask_hides_rest: As in ``ScoreRules``.
    """

    window: int
    mask_hides_rest: bool


def _seen(proof: MaskProof, all_proofs: list[MaskProof], ahead: NDArray[np.intp]) -> _Seen | None:
    """Return which keys a mask lets rows see, None for one that is not causal."""
    is_future = ahead > 0
    if not is_future.any() or not bool(np.all(proof.hides | ~is_future)):
        return None
    may_be_seen = ~is_future & ~np.all(proof.hides, axis=(0, 1))
    window = int(np.max(np.where(may_be_seen, -ahead, 0)))
    if proof.is_hard:
        return _Seen(window, mask_hides_rest=False)
    alive = ~is_future
    is_hidden = is_future | (-ahead > window)
    for other in all_proofs:
        alive = alive & other.is_alive
        if not bool(np.all(other.is_tame | ~is_hidden)):
            return None
    return _Seen(window, mask_hides_rest=not bool(np.all(alive.any(axis=-1))))


def _prove(term: MaskTerm, scores: Scores, dtype: DType, finder: BoundFinder) -> MaskProof | None:
    bounds = finder.find(term.value)
    if bounds is None:
        return None
    shape = mask_shape_for(term, scores)
    return judge_mask(term, bounds.low.reshape(shape), bounds.high.reshape(shape), dtype)


def judge_mask(term: MaskTerm, low: Floats, high: Floats, dtype: DType) -> MaskProof:
    """Return what a mask does to scores, from bounds of its entries.

    Args:
        term: The mask.
        low, high: What its entries are at least and at most.
        dtype: Element type of the scores where they are masked.
    """
    if term.role is MaskRole.ADD:
        # Never zero, so that infinity times it is no NaN.
        low, high = low * term.factor, high * term.factor
        if term.factor < 0.0:
            low, high = high, low
        swallows = high == -math.inf
        if is_swallowing(-1e30, dtype):
            swallows = swallows | (high <= -1e30)
        is_hard = bool(np.all(high[swallows] == -math.inf))
        shows = (low == 0) & (high == 0)
        return MaskProof(swallows, shows, low > _ALIVE, high < -_ALIVE, is_hard)
    hides, shows = high == 0, low == 1
    if term.role is MaskRole.DROP:
        hides, shows = shows, hides
    alive = shows
    if not is_swallowing(term.masked_value, dtype):
        hides = np.zeros_like(hides)
    return MaskProof(hides, shows, alive, np.ones_like(shows), term.masked_value == -math.inf)
