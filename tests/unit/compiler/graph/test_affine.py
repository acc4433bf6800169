"""Bounds of sums of unknowns, against trying all numbers."""

from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from hocket.compiler.graph.affine import Affine, Facts, affine_size, number, symbol
from hocket.hwmodels.sizes import SizeExpression

NAMES = ("a", "b", "c")
SUMS = st.builds(
    lambda factors, constant: sum(
        (symbol(name) * number(factor) for name, factor in zip(NAMES, factors, strict=True)),
        number(constant),
    ),
    st.tuples(*[st.integers(-2, 2)] * 3),
    st.integers(-4, 4),
)


def value_of(total: Affine, values: dict[str, int]) -> int:
    products = (factor * math.prod(values[n] for n in names) for names, factor in total.terms)
    return total.constant + sum(products)


@given(st.lists(SUMS, max_size=4), SUMS)
def test_no_number_is_out_of_bounds(known: list[Affine], wanted: Affine) -> None:
    box = [symbol(name) for name in NAMES] + [number(4) - symbol(name) for name in NAMES]
    facts = Facts([*known, *box])
    low, high = facts.span(wanted)
    found = [
        value_of(wanted, values)
        for numbers in itertools.product(range(5), repeat=3)
        if (values := dict(zip(NAMES, numbers, strict=True)))
        and all(value_of(each, values) >= 0 for each in known)
    ]
    assert all(low <= each <= high for each in found)
    if found:
        assert facts.is_possible


def test_bounds_of_differences_are_exact() -> None:
    row, column, rows = symbol("row"), symbol("column"), symbol("rows")
    one = number(1)
    facts = Facts([row, rows - row - one, column, rows - column - one, number(9) - rows])
    ahead = facts.having(column - row - one)
    assert ahead.span(column - row) == (1, 8)
    assert ahead.span(rows) == (2, 9)
    assert facts.span(row - symbol("other")) == (-math.inf, math.inf)
    assert not ahead.having(one - rows).is_possible


def test_products_of_unknowns_are_unknowns() -> None:
    size = affine_size(SizeExpression(((2, ("b", "a")), (1, ()))))
    assert size == symbol("a") * symbol("b") * number(2) + number(1)
    assert size - size == number(0)
    assert str(size) == "2 * a * b + 1"
    assert Facts([symbol("a"), symbol("b")]).span(size) == (-math.inf, math.inf)


def test_too_many_inequalities_tell_nothing() -> None:
    names = [symbol(f"n{index}") for index in range(24)]
    known = [one - other for one, other in itertools.permutations(names, 2)]
    assert Facts(known).span(names[0]) == (-math.inf, math.inf)
