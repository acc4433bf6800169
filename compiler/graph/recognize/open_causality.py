"""Proving masks causal while their sizes are open.

What holds at a few sizes is no proof for others. Here rows, columns and dimensions stay unknown,
and an entry is looked at by where it stands: ahead of its query, within a window behind it, or
before that. A mask is causal where an entry ahead is hidden whatever the unknowns are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hocket.compiler.graph.affine import Affine, Facts, number, symbol
from hocket.compiler.graph.recognize.causality import MaskProof, Positions, judge_mask
from hocket.compiler.graph.recognize.element_finder import ElementFinder
from hocket.compiler.graph.values import name_of
from hocket.compiler.problem import ScoreRules

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from hocket.compiler.graph.recognize.causality import PositionFinder
    from hocket.compiler.graph.recognize.match import MaskTerm
    from hocket.hwmodels.dtypes import DType
    from hocket.hwmodels.sizes import Size

# No dimension has such a name, so that these are told from them.
_ROW, _COLUMN = symbol("\nrow"), symbol("\ncolumn")


@dataclass(frozen=True)
class _Known:
    """What proofs begin with.

    Attributes:
        values: Those of the graph by name.
        sizes: Their shapes.
        facts: Of the dimensions.
        dtype: Element type of the scores where they are masked.
    """

    values: Mapping[str, ir.Value]
    sizes: Mapping[str, Sequence[Size | None]]
    facts: Facts
    dtype: DType


@dataclass(frozen=True)
class _Seen:
    """Which keys masks let rows see at most.

    Attributes:
        window: Keys behind its own that a row sees; None for all.
        mask_hides_rest: As in ``ScoreRules``.
    """

    window: int | None
    mask_hides_rest: bool


def open_position_finder(
    graph: ir.Graph,
    sizes: Mapping[str, Sequence[Size | None]],
    spans: Mapping[str, tuple[int, int]],
) -> PositionFinder:
    """Return a finder of what masks say at every size; it leaves them as they are by default.

    Args:
        graph: Where the masks are computed, with open dimensions. Masks are told by their names.
        sizes: The shapes of its values by name, None for a size that is not known.
        spans: Least and largest size of each open dimension.
    """
    values = {name_of(value): value for value in graph.inputs}
    values |= {name_of(value): value for value in graph.initializers.values()}
    values |= {name_of(value): value for node in graph for value in node.outputs}
    dims = Facts()
    for name, (low, high) in spans.items():
        dims = dims.having(symbol(name) - number(low), number(high) - symbol(name))

    def find(
        terms: tuple[MaskTerm, ...], scores: tuple[int, int, int, int], dtype: DType
    ) -> Positions:
        known = [_in_graph(term.value, values) for term in terms]
        if scores[2] == 1 or not all(known):
            return Positions(terms)
        return _find(terms, scores, _Known(values, sizes, dims, dtype))

    return find


def _in_graph(value: ir.Value, values: Mapping[str, ir.Value]) -> bool:
    """Whether a mask is one of the model's, not one that recognition is about to make."""
    node = value.producer()
    return name_of(value) in values and (node is None or node.graph is not None)


def _find(
    terms: tuple[MaskTerm, ...], scores: tuple[int, int, int, int], known: _Known
) -> Positions:
    rows, columns = (_extent(terms, axis, known) for axis in (-2, -1))
    if rows is None or columns is None:
        return Positions(terms)
    facts = known.facts.having(
        _ROW, rows - _ROW - number(1), _COLUMN, columns - _COLUMN - number(1)
    )
    for offset in dict.fromkeys((number(0), columns - rows)):
        ahead = _COLUMN - _ROW - offset
        future = facts.having(ahead - number(1))
        if not future.is_possible:
            continue
        for term in terms:
            seen = _seen(term, terms, ahead, facts, known)
            if seen is None:
                continue
            left = terms
            if not seen.mask_hides_rest:
                left = tuple(
                    each for each in terms if not _says_only(each, ahead, seen.window, facts, known)
                )
            is_plain = offset == number(0)
            rules = ScoreRules(
                query_offset=0 if is_plain else scores[3] - scores[2],
                left_window=seen.window,
                right_window=None if is_plain else 0,
                mask_hides_rest=seen.mask_hides_rest,
            )
            return Positions(left, is_causal=is_plain, rules=rules)
    return Positions(terms)


def _extent(terms: tuple[MaskTerm, ...], axis: int, known: _Known) -> Affine | None:
    """Return the rows, or columns, of the scores, as the masks that follow them have them."""
    finder = ElementFinder(known.sizes, known.facts)
    for term in terms:
        shape = finder.shape(known.values[name_of(term.value)])
        if shape is not None and len(shape) >= -axis and shape[axis] != number(1):
            return shape[axis]
    return None


def _seen(
    term: MaskTerm, terms: tuple[MaskTerm, ...], ahead: Affine, facts: Facts, known: _Known
) -> _Seen | None:
    """Return which keys a causal mask lets rows see, None for one that is not causal."""
    future = facts.having(ahead - number(1))
    proof = _proof(term, future, known)
    if not proof.hides:
        return None
    if not proof.is_hard and not _is_tame(terms, future, known):
        return None
    is_hard, window = proof.is_hard, None
    for candidate in _windows(term, ahead, facts, known):
        before = facts.having(number(-candidate - 1) - ahead)
        proof = _proof(term, before, known)
        if proof.hides and (proof.is_hard or _is_tame(terms, before, known)):
            is_hard, window = is_hard and proof.is_hard, candidate
            break
    is_alive = is_hard or _is_alive_at(terms, _COLUMN - ahead, facts, known)
    return _Seen(window, mask_hides_rest=not is_alive)


def _is_tame(terms: tuple[MaskTerm, ...], facts: Facts, known: _Known) -> bool:
    """Whether what one mask hides stays hidden, whatever the others add to it."""
    return all(bool(_proof(term, facts, known).is_tame) for term in terms)


def _is_alive_at(terms: tuple[MaskTerm, ...], column: Affine, facts: Facts, known: _Known) -> bool:
    """Whether each row has a key in some column, and no mask hides it."""
    columns = _extent(terms, -1, known)
    if columns is None or facts.span(column)[0] < 0:
        return False
    if facts.span(columns - column - number(1))[0] < 0:
        return False
    return all(bool(_proof(term, facts, known, column).is_alive) for term in terms)


def _windows(term: MaskTerm, ahead: Affine, facts: Facts, known: _Known) -> list[int]:
    """Return the windows that a mask may have, as far as comparisons in it tell."""
    finder = ElementFinder(known.sizes, facts.having(-ahead))
    _look(term, finder, known, _COLUMN)
    found = set()
    for total in finder.undecided:
        if (total - ahead).is_number:  # at least 0 from some key on
            found.add((total - ahead).constant)
        if (total + ahead).is_number:  # at least 0 up to some key
            found.add(-(total + ahead).constant - 1)
    return sorted(window for window in found if window >= 0)


def _says_only(
    term: MaskTerm, ahead: Affine, window: int | None, facts: Facts, known: _Known
) -> bool:
    """Whether a mask hides what is ahead and before the window, and does nothing else."""
    hidden = [facts.having(ahead - number(1))]
    within = facts.having(-ahead)
    if window is not None:
        hidden.append(facts.having(number(-window - 1) - ahead))
        within = within.having(number(window) + ahead)
    return bool(_proof(term, within, known).shows) and all(
        bool(_proof(term, each, known).hides) for each in hidden if each.is_possible
    )


def _proof(term: MaskTerm, facts: Facts, known: _Known, column: Affine = _COLUMN) -> MaskProof:
    """Return what is known of a mask wherever some facts hold."""
    finder = ElementFinder(known.sizes, facts)
    found = _look(term, finder, known, column)
    low, high = (np.array(bound) for bound in found)
    return judge_mask(term, low, high, known.dtype)


def _look(
    term: MaskTerm, finder: ElementFinder, known: _Known, column: Affine
) -> tuple[float, float]:
    value = known.values[name_of(term.value)]
    shape = finder.shape(value) or ()
    one = number(1)
    wanted = (_ROW, column)[2 - min(len(shape), 2) :]
    places = [
        number(0) if size == one else place for size, place in zip(shape[-2:], wanted, strict=True)
    ]
    found = finder.find(value, (*[None] * (len(shape) - len(places)), *places))
    return found.low, found.high
