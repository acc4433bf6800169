"""Binding the symbolic dimensions of a model's inputs to sizes."""

from __future__ import annotations

import difflib
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from hocket.compiler.errors import DimensionError
from hocket.compiler.graph.values import name_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_EXAMPLE_SIZES = (1, 128)
_EXAMPLE_RANGE = (1, 512)


@dataclass(frozen=True)
class _Axis:
    """One axis of one input that has no fixed size.

    Attributes:
        key: ``INPUT:AXIS``, which names it if nothing else does.
        name: Its symbolic name, None if it has none.
    """

    key: str
    name: str | None


MAX_SIZE = 1 << 24
"""Largest size of an open dimension; kernels index no further."""


def bind_dimensions(
    model: ir.Model, dims: Mapping[str, int], source: str, *, leaves_open: bool = False
) -> dict[str, int]:
    """Give every open dimension of the inputs its size, in place, and return what was bound.

    A dimension is given by its name, or, with or without one, as ``INPUT:AXIS``. A name that is an
    expression of others ("past + 1") follows from them.

    Before and after, with ``{"batch": 1, "ids:1": 128}``::

        ids: int64[batch, ?]     mask: int64[batch, 128]     -> y: float32[batch, 384]
        ids: int64[1, 128]       mask: int64[1, 128]         -> y: float32[1, 384]

    Args:
        model: Changed in place: the shapes of its inputs, and wherever else a bound name occurs.
        dims: Sizes by dimension.
        source: The name of the model, for messages.
        leaves_open: Whether dimensions that are not given stay open.

    Returns:
        The size of each dimension that was open, by name, or by ``INPUT:AXIS`` for one without.

    Raises:
        DimensionError: A dimension is missing, unknown, below 1, or contradicts another.
    """
    axes = _open_axes(model.graph)
    by_name, by_position = _sort_requests(model.graph, axes, dims, source)
    bound: dict[str, int] = {}
    missing: dict[str, list[str]] = {}
    for axis in axes:
        size = _size_of(axis, by_name, by_position)
        if size is None:
            for label in _flags_for(axis):
                missing.setdefault(label, []).append(axis.key)
        else:
            bound[axis.name or axis.key] = _checked_size(axis.name or axis.key, size, source)
    if missing and not leaves_open:
        raise _missing_error(missing, source)
    _substitute(model, by_name, by_position)
    return bound


def tie_dimensions(model: ir.Model, sums: Mapping[str, str], source: str) -> None:
    """Make open dimensions follow from others, in place, as if the file had named them so.

    Before and after, with ``{"total": "past + new"}``::

        past_key: [batch, 2, past, 64]    mask: [batch, total]         ids: [batch, new]
        past_key: [batch, 2, past, 64]    mask: [batch, past + new]    ids: [batch, new]

    Args:
        model: Changed in place: wherever a tied name occurs.
        sums: What each dimension is, by its name or by ``INPUT:AXIS``.
        source: The name of the model, for messages.

    Raises:
        DimensionError: A dimension is unknown, or what it is to be speaks of unknown ones.
    """
    axes = _open_axes(model.graph)
    keys = {axis.key: axis.name for axis in axes}
    known = {name for axis in axes if axis.name for name in (axis.name, *_symbols(axis.name))}
    renamed: dict[str, str] = {}
    for label, text in sums.items():
        if label not in known and label not in keys:
            raise unknown_dimension(label, sorted(known | set(keys)), source)
        symbols = _symbols(text)
        if not symbols or (text.isidentifier() and text not in known):
            raise DimensionError(
                f"{source}: the size of dimension {label!r} must be a whole number, or a sum of "
                f"dimensions such as 'past + new', got {text!r}"
            )
        for symbol in sorted(symbols):
            if symbol not in known or symbol in sums:
                raise unknown_dimension(symbol, sorted(known - set(sums)), source)
        renamed[label if label in known else keys[label] or label] = text
    _rename(model, renamed)


def _rename(model: ir.Model, renamed: Mapping[str, str]) -> None:
    def named(size: int | ir.SymbolicDim, key: str) -> int | ir.SymbolicDim:
        if isinstance(size, int):
            return ir.SymbolicDim(renamed[key]) if key in renamed else size
        text = renamed.get(key) or renamed.get(size.value or "")
        return size if text is None else ir.SymbolicDim(text)

    values = [*model.graph.inputs, *model.graph.outputs]
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        values += node.outputs
    for value in values:
        if value.shape is not None:
            value.shape = ir.Shape(
                [named(size, f"{name_of(value)}:{n}") for n, size in enumerate(value.shape.dims)]
            )


def _open_axes(graph: ir.Graph) -> list[_Axis]:
    axes = []
    for value in graph.inputs:
        for index, size in enumerate(value.shape.dims if value.shape is not None else ()):
            key = f"{name_of(value)}:{index}"
            if isinstance(size, ir.SymbolicDim):
                axes.append(_Axis(key, size.value if _is_name(size.value) else None))
            elif size < 1:  # -1 and 0 are what some exporters write for "any size"
                axes.append(_Axis(key, None))
    return axes


def _is_name(text: str | None) -> bool:
    """Whether a text names a dimension; exporters also write "" and "?" for an unknown one."""
    return text is not None and any(letter.isalnum() for letter in text)


def _sort_requests(
    graph: ir.Graph, axes: list[_Axis], dims: Mapping[str, int], source: str
) -> tuple[dict[str, int], dict[str, int]]:
    """Split what the caller gave into sizes by name and sizes by position."""
    names = {name for axis in axes if axis.name for name in (axis.name, *_symbols(axis.name))}
    open_keys = {axis.key: axis.name for axis in axes}
    fixed = {
        f"{name_of(value)}:{index}": size
        for value in graph.inputs
        for index, size in enumerate(value.shape.dims if value.shape is not None else ())
        if isinstance(size, int) and size >= 1
    }
    by_name: dict[str, int] = {}
    by_position: dict[str, int] = {}
    for label, given in dims.items():
        size = _checked_size(label, given, source)
        name = label if label in names else open_keys.get(label)
        if name is not None:
            if by_name.setdefault(name, size) != size:
                raise DimensionError(
                    f"{source}: dimension {name!r} is given two sizes, {by_name[name]} and {size}"
                )
        elif label in open_keys:
            by_position[label] = size
        elif label in fixed:
            if fixed[label] != size:
                raise DimensionError(
                    f"{source}: axis {label!r} has the fixed size {fixed[label]}, so it cannot "
                    f"be {size}; leave it out, or export the model with that axis dynamic"
                )
        else:
            raise unknown_dimension(label, sorted(names | set(open_keys)), source)
    return by_name, by_position


def _checked_size(label: str, given: object, source: str) -> int:
    try:
        size = operator.index(given)  # type: ignore[arg-type]
    except TypeError as error:
        raise DimensionError(
            f"{source}: the size of dimension {label!r} must be a whole number, got {given!r}"
        ) from error
    if isinstance(given, bool) or not 1 <= size <= MAX_SIZE:
        raise DimensionError(
            f"{source}: the size of dimension {label!r} must be at least 1 and at most {MAX_SIZE}, "
            f"got {given!r}"
        )
    return size


def _symbols(name: str) -> frozenset[str]:
    """Names of which a dimension is an expression; those of ``past + 1`` are ``{past}``."""
    try:
        return ir.SymbolicDim(name).free_symbols()
    except ValueError:  # any text may be a name: "batch size", "?"
        return frozenset()


def _size_of(axis: _Axis, by_name: dict[str, int], by_position: dict[str, int]) -> int | None:
    if axis.name is None:
        return by_position.get(axis.key)
    if axis.name in by_name:
        return by_name[axis.name]
    if not _symbols(axis.name) <= set(by_name) or not _symbols(axis.name):
        return None
    size = ir.SymbolicDim(axis.name).evaluate(by_name)
    if isinstance(size, int):
        by_name[axis.name] = size
        return size
    return None


def _flags_for(axis: _Axis) -> tuple[str, ...]:
    """Dimensions to ask for, so that this axis gets a size."""
    if axis.name is None:
        return (axis.key,)
    return tuple(sorted(_symbols(axis.name))) or (axis.name,)


def _missing_error(missing: dict[str, list[str]], source: str) -> DimensionError:
    lines = []
    flags, ranges = [], []
    example = next(reversed(missing))
    for index, (label, places) in enumerate(missing.items()):
        where = ", ".join(
            f"axis {place.rpartition(':')[2]} of {place.rpartition(':')[0]!r}" for place in places
        )
        lines.append(f"  {label}: {where}")
        size = _EXAMPLE_SIZES[min(index, len(_EXAMPLE_SIZES) - 1)]
        flags.append(_flag(f"{label}={size}"))
        ranges.append(_flag(f"{label}={_EXAMPLE_RANGE[0]}..{_EXAMPLE_RANGE[1]}"))
    count = "1 dimension has" if len(missing) == 1 else f"{len(missing)} dimensions have"
    return DimensionError(
        f"{source}: {count} no size\n"
        + "\n".join(lines)
        + f"\ngive each one the size to compile for, for example: {' '.join(flags)}\n"
        f"or a range, for a module that takes any size in it: {' '.join(ranges)} "
        f'(in Python, dims={{"{example}": (1, {_EXAMPLE_RANGE[1]})}})'
    )


def _flag(given: str) -> str:
    return f'--dim "{given}"' if " " in given else f"--dim {given}"


def unknown_dimension(label: str, known: list[str], source: str) -> DimensionError:
    """Return the error for a dimension that no input has, with the one that may be meant."""
    close = difflib.get_close_matches(label, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    listed = ", ".join(repr(name) for name in known) if known else "none, all sizes are fixed"
    return DimensionError(
        f"{source}: no input has a dimension {label!r}; {hint}dimensions without a size: {listed}"
    )


def _substitute(model: ir.Model, by_name: dict[str, int], by_position: dict[str, int]) -> None:
    for value in model.graph.inputs:
        if value.shape is None:
            continue
        value.shape = ir.Shape(
            [
                by_position.get(f"{name_of(value)}:{index}", _substituted(size, by_name))
                for index, size in enumerate(value.shape.dims)
            ]
        )
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            if value.shape is not None:
                value.shape = ir.Shape([_substituted(size, by_name) for size in value.shape.dims])


def _substituted(
    size: int | ir.SymbolicDim, by_name: Mapping[str, int]
) -> int | ir.SymbolicDim | None:
    if isinstance(size, int):
        return size if size >= 0 else None
    return by_name.get(size.value, size) if size.value else size
