"""Rotary embedding, written out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hocket.compiler.graph.recognize.match import Refusal, sizes_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from hocket.compiler.graph.contrib.node_writer import NodeWriter


def look_up_angles(write: NodeWriter, cache: ir.Value, positions: ir.Value) -> ir.Value:
    """Return the cosines or sines of positions, ``[batch or 1, rows, 1, half]``.

    Args:
        write: Makes the nodes.
        cache: ``[positions, half]``.
        positions: ``[batch, rows]`` or ``[rows]``.
    """
    angles = write.gather(cache, positions, axis=0)
    sizes = sizes_of(angles, "cosines")
    batch = sizes[0] if len(sizes) == 3 else 1
    return write.reshape(angles, (batch, sizes[-2], 1, sizes[-1]))


def rotate(
    write: NodeWriter,
    value: ir.Value,
    cosines: ir.Value,
    sines: ir.Value,
    *,
    is_interleaved: bool,
) -> ir.Value:
    """Rotate pairs of columns, and leave those behind as they are.

    Before and after, of columns that are two halves::

        y = rotate(x)
        a, b, rest = Split(x); y = Concat(a * cos - b * sin, b * cos + a * sin, rest)

    Args:
        write: Makes the nodes.
        value: ``[batch, rows, heads, columns]``.
        cosines, sines: ``[batch or 1, rows, 1, half]``.
        is_interleaved: Whether a pair are neighbours, not one of each half.
    """
    batch, rows, heads, columns = sizes_of(value, "operand")
    half = sizes_of(cosines, "cosines")[-1]
    if 2 * half > columns:
        raise Refusal(f"its rotation of {2 * half} columns is wider than its heads of {columns}")
    rest = [columns - 2 * half] if columns > 2 * half else []
    if not is_interleaved:
        first, second, *behind = write.split(value, 3, [half, half, *rest])
        turned = _turn(write, first, second, cosines, sines)
        return write.concat([*turned, *behind], axis=3)
    pairs, *behind = write.split(value, 3, [2 * half, *rest]) if rest else (value,)
    paired = write.reshape(pairs, (batch, rows, heads, half, 2))
    shape = (batch, rows, heads, half)
    first, second = (write.reshape(part, shape) for part in write.split(paired, 4, (1, 1)))
    columns_apart = [
        write.reshape(part, (*shape, 1)) for part in _turn(write, first, second, cosines, sines)
    ]
    together = write.reshape(write.concat(columns_apart, axis=4), (batch, rows, heads, 2 * half))
    return write.concat([together, *behind], axis=3)


def _turn(
    write: NodeWriter, first: ir.Value, second: ir.Value, cosines: ir.Value, sines: ir.Value
) -> tuple[ir.Value, ir.Value]:
    return (
        write.subtract(write.multiply(first, cosines), write.multiply(second, sines)),
        write.add(write.multiply(second, cosines), write.multiply(first, sines)),
    )
