"""Where the new rows of a GroupQueryAttention stand among its keys.

``seqlens_k`` says of each batch how many keys there are, less one, when the new rows are in. Where
it is a constant, that is known here; else positions and masks are computed from it. The first
prompt is told by ``total_sequence_length`` alone, which must be known: it stands at the first key,
and a shorter ``seqlens_k`` says which of it is padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from hocket.compiler.graph.contrib.operator import Operator, require_shape
from hocket.compiler.graph.recognize.match import Refusal, sizes_of
from hocket.compiler.graph.values import constant_array, element_type
from hocket.hwmodels.dtypes import DType

if TYPE_CHECKING:
    from hocket.compiler.graph.contrib.node_writer import NodeWriter


@dataclass(frozen=True)
class Cache:
    """The past of key and value, and where new rows go.

    Attributes:
        past_key, past_value: ``[batch, kv_heads, past rows, columns]``; both None without.
        new_shape: ``[batch, rows, kv_heads, columns]`` of the new rows.
        lengths: ``seqlens_k``, int32 ``[batch]``.
        total_length: Keys of the longest batch, the new rows included.
        past_length: Keys before the new rows, where it is known and the same for all.
    """

    past_key: ir.Value | None
    past_value: ir.Value | None
    new_shape: tuple[int, ...]
    lengths: ir.Value
    total_length: int
    past_length: int | None

    @property
    def rows(self) -> int:
        """How many rows are new."""
        return self.new_shape[1]

    @property
    def is_prompt(self) -> bool:
        """Whether nothing stands before the new rows."""
        return self.rows == self.total_length

    @property
    def num_keys(self) -> int:
        """How many keys scores are computed for."""
        return self.total_length if self.past_length is None else self.past_length + self.rows

    @property
    def present_length(self) -> int:
        """Rows of the present."""
        past = 0 if self.past_key is None else sizes_of(self.past_key, "past_key")[2]
        return max(self.total_length, past)

    def present(
        self, write: NodeWriter, key: ir.Value, value: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        """Return past and new rows together, and zeros behind them.

        Args:
            write: Makes the nodes.
            key, value: The new rows, ``[batch, kv_heads, rows, columns]``.
        """
        pairs = ((self.past_key, key), (self.past_value, value))
        key, value = (self._present(write, past, new) for past, new in pairs)
        return key, value

    def _present(self, write: NodeWriter, past: ir.Value | None, new: ir.Value) -> ir.Value:
        if self.past_length is not None:
            parts = [new]
            if past is not None and self.past_length:
                parts.insert(0, write.slice(past, 2, 0, self.past_length))
            return self._filled_up(write, write.concat(parts, axis=2))
        rows = self._column(write, 0, self.present_length)
        start = write.reshape(self._start(write), (self.new_shape[0], 1, 1, 1))
        end = write.add(start, write.sizes(self.rows, ir.DataType.INT32))
        if self.rows > 1:
            new = self._moved(write, new)
        zero = write.number(0.0, new)
        behind = write.where(write.less(rows, end), new, zero)
        before = zero if past is None else self._filled_up(write, past)
        return write.where(write.less(rows, start), before, behind)

    def _filled_up(self, write: NodeWriter, value: ir.Value) -> ir.Value:
        """Return a value with zeros behind it, as long as the present."""
        batch, heads, length, columns = sizes_of(value, "past")
        missing = self.present_length - length
        if not missing:
            return value
        zeros = write.expand(write.number(0.0, value), (batch, heads, missing, columns))
        return write.concat([value, zeros], axis=2)

    def _moved(self, write: NodeWriter, new: ir.Value) -> ir.Value:
        """Return new rows where they stand in the present, and copies of some around them."""
        batch, rows, heads, columns = self.new_shape
        places = write.positions(0, self.present_length, ir.DataType.INT32)
        start = write.reshape(self._start(write), (batch, 1))
        zero, count, last = (
            write.sizes(number, ir.DataType.INT32) for number in (0, rows, rows - 1)
        )
        index = write.subtract(places, start)
        index = write.where(write.less(index, zero), zero, index)
        index = write.where(write.less(index, count), index, last)
        # The rows of all batches one behind the other, as one Gather takes them.
        first = write.multiply(write.positions(0, batch, ir.DataType.INT32), count)
        index = write.add(index, write.reshape(first, (batch, 1)))
        flat = write.reshape(write.transpose(new, 0, 2, 1, 3), (batch * rows, heads * columns))
        shape = (batch, self.present_length, heads, columns)
        return write.transpose(write.reshape(write.gather(flat, index, axis=0), shape), 0, 2, 1, 3)

    def positions(self, write: NodeWriter, given: ir.Value | None) -> ir.Value:
        """Return the positions of the new rows, ``[rows]`` or ``[batch, rows]``.

        Args:
            write: Makes the nodes.
            given: ``position_ids``, of which a first prompt follows the first one alone.
        """
        rows = write.positions(0, self.rows, ir.DataType.INT64)
        if given is not None and not self.is_prompt:
            return given
        if given is not None:
            first = write.slice(write.slice(given, 0, 0, 1), 1, 0, 1)
            return write.add(rows, write.cast(write.reshape(first, (1,)), ir.DataType.INT64))
        if self.past_length is not None:
            return write.positions(self.past_length, self.rows, ir.DataType.INT64)
        start = write.cast(self._start(write), ir.DataType.INT64)
        return write.add(rows, write.reshape(start, (self.new_shape[0], 1)))

    def seen_by_rows(self, write: NodeWriter, window: int) -> ir.Value | None:
        """Return which keys a row sees that sees none ahead; None for all.

        Args:
            write: Makes the nodes.
            window: How many keys it sees, its own included; 0 for all.
        """
        past = self.past_length
        if past is not None and (self.num_keys == 1 or (self.rows == 1 and not window)):
            return None
        first_end = 1 if past is None else 1 + past
        end = self._column(write, first_end, self.rows)
        if past is None:
            start = write.reshape(self._start(write), (self.new_shape[0], 1, 1, 1))
            end = write.add(start, end)
        keys = write.positions(0, self.num_keys, ir.DataType.INT32)
        seen = write.less(keys, end)
        if window:
            first = write.subtract(end, write.constant(np.int32(window)))
            seen = write.both(seen, write.opposite(write.less(keys, first)))
        return seen

    def held(self, write: NodeWriter, *, is_causal: bool) -> ir.Value | None:
        """Return which keys a batch has at all, where causality does not say so; None for all."""
        if is_causal and not self.is_prompt:
            return None
        known = constant_array(self.lengths)
        if known is not None and bool(np.all(known + 1 >= self.num_keys)):
            return None
        keys = write.positions(0, self.num_keys, ir.DataType.INT32)
        last = write.reshape(self.lengths, (self.new_shape[0], 1, 1, 1))
        return write.less(keys, write.add(last, write.constant(np.int32(1))))

    def _start(self, write: NodeWriter) -> ir.Value:
        """Return how many keys stand before the new rows, int32 ``[batch]``."""
        return write.add(self.lengths, write.sizes(1 - self.rows, ir.DataType.INT32))

    @staticmethod
    def _column(write: NodeWriter, start: int, length: int) -> ir.Value:
        return write.reshape(write.positions(start, length, ir.DataType.INT32), (length, 1))


def read_cache(operator: Operator, write: NodeWriter, new_shape: tuple[int, ...]) -> Cache:
    """Return the cache of an operator.

    Args:
        operator: What to read.
        write: Makes the nodes.
        new_shape: ``[batch, rows, kv_heads, columns]`` of the new rows.

    Raises:
        Refusal: Its lengths are not known, or contradict each other.
    """
    batch, rows, heads, columns = new_shape
    query = operator.require("query")
    past_key, past_value = (operator.get_past(name, query) for name in ("past_key", "past_value"))
    if (past_key is None) != (past_value is None):
        raise Refusal("it has one of past_key and past_value, not both")
    past = 0
    if past_key is not None and past_value is not None:
        past = sizes_of(past_key, "past_key")[2]
        require_shape(past_key, (batch, heads, past, columns), "past_key")
        require_shape(past_value, (batch, heads, past, columns), "past_value")
    lengths = operator.require("seqlens_k")
    if element_type(lengths) is not DType.INT32 or np.prod(sizes_of(lengths, "seqlens_k")) != batch:
        raise Refusal(f"its seqlens_k {lengths.name!r} is not int32 [{batch}]")
    total = _total_length(operator, rows, past)
    lengths = write.reshape(lengths, (batch,))
    return Cache(
        past_key,
        past_value,
        new_shape,
        lengths,
        total,
        0 if total == rows else _known_past(operator, rows, total),
    )


def _total_length(operator: Operator, rows: int, past: int) -> int:
    """Return ``total_sequence_length``, which without a past can only be the number of rows."""
    found = constant_array(operator.require("total_sequence_length"))
    if found is None:
        if past:
            raise Refusal(
                "its total_sequence_length is not known when compiling, and with it the size of "
                "its present; compute it from the sizes of inputs, or make it a constant"
            )
        return rows
    total = int(found.reshape(-1)[0])
    if total < rows or (total > past and total != past + rows):
        raise Refusal(
            f"its total_sequence_length {total} does not fit {rows} new rows and room for {past} "
            "before them"
        )
    return total


def _known_past(operator: Operator, rows: int, total: int) -> int | None:
    """Return how many keys stand before the new rows, if it is a constant."""
    known = constant_array(operator.require("seqlens_k"))
    if known is None or np.any(known != known.reshape(-1)[0]):
        return None
    past = int(known.reshape(-1)[0]) + 1 - rows
    if past < 0 or past + rows > total:
        raise Refusal(f"its seqlens_k {known.reshape(-1)[0]} does not fit {rows} rows of {total}")
    return past
