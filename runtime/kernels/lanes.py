"""Vectors of float32 lanes in LLVM IR: the small language that the tiles are written in.

A tile is one LLVM function that takes addresses and sizes and is called, never inlined: inlined
tiles would be optimised again at every level above them, and cost several times the compile time.
Numba code drives tiles through intrinsics that hold nothing but the call.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# llvmlite and numba carry no types of their own; these names keep signatures readable.
Value = Any
Intrinsic = Any

BIT = ir.IntType(1)
BYTE = ir.IntType(8)
INT32 = ir.IntType(32)
SIZE = ir.IntType(64)
FLOAT = ir.FloatType()

FLOAT_BYTES = 4
"""Bytes of one float32 element."""

# Memory is read and written at the alignment of an element: a query row may start anywhere, and
# on aligned addresses the unaligned instructions are as fast.
_ALIGNMENTS = {BYTE: 1, FLOAT: 4, SIZE: 8}
_NUMBA_TYPES = {SIZE: types.intp, FLOAT: types.float32}


def make_tile(
    name: str,
    lanes: int,
    parameters: Mapping[str, Value],
    emit: Callable[..., Value | None],
    result: Value | None = None,
) -> Intrinsic:
    """Return a Numba intrinsic that calls one tile function.

    Args:
        name: Name of the LLVM function. It must say all that ``emit`` depends on, because a
            module that already has a function of that name gets no second one.
        lanes: float32 lanes of a vector.
        parameters: Names of the arguments, each with its type, ``SIZE`` or ``FLOAT``. Addresses
            and byte strides are sizes.
        emit: Called with an ``Emitter`` and one value an argument, by its name; writes the
            function's body and returns its result, if it has one.
        result: Type of the result; None for a tile that only writes to memory.
    """

    def define(module: Value) -> Value:
        returned = ir.VoidType() if result is None else result
        function = ir.Function(module, ir.FunctionType(returned, list(parameters.values())), name)
        # Internal, so that a second kernel in the same process never binds to code of the first,
        # which Numba may free.
        function.linkage = "internal"
        function.attributes.add("noinline")
        function.attributes.add("nounwind")
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        value = emit(Emitter(builder, lanes), **dict(zip(parameters, function.args, strict=True)))
        if result is None:
            builder.ret_void()
        else:
            builder.ret(value)
        return function

    def type_call(_context: Value, *arguments: Value) -> tuple[Value, Callable[..., Value]]:
        del arguments  # cast to the declared types by the signature
        returned = types.void if result is None else _NUMBA_TYPES[result]
        signature = returned(*(_NUMBA_TYPES[kind] for kind in parameters.values()))

        def lower(context: Value, builder: Value, _signature: Value, values: Value) -> Value:
            function = builder.module.globals.get(name) or define(builder.module)
            called = builder.call(function, values)
            return context.get_dummy_value() if result is None else called

        return signature, lower

    type_call.__name__ = type_call.__qualname__ = name
    type_call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(parameter, inspect.Parameter.POSITIONAL_OR_KEYWORD)
            for parameter in ("context", *parameters)
        ]
    )
    return intrinsic(type_call)


class Emitter:
    """Writes the body of one tile function, a vector of ``lanes`` float32 at a time.

    Addresses and sizes are 64-bit integers; strides and offsets are bytes.
    """

    def __init__(self, builder: Value, lanes: int) -> None:
        self.builder = builder
        self.lanes = lanes
        self.floats = ir.VectorType(FLOAT, lanes)
        self.ints = ir.VectorType(INT32, lanes)

    def size(self, value: int) -> Value:
        """Return an address-sized integer."""
        return ir.Constant(SIZE, value)

    def constant(self, value: float) -> Value:
        """Return the same float32 in every lane."""
        return ir.Constant(self.floats, [ir.Constant(FLOAT, value)] * self.lanes)

    def int_constant(self, value: int) -> Value:
        """Return the same 32-bit integer in every lane."""
        return ir.Constant(self.ints, [ir.Constant(INT32, value)] * self.lanes)

    def lane_indices(self) -> Value:
        """Return 0, 1, 2, ... as 32-bit integers."""
        return ir.Constant(self.ints, [ir.Constant(INT32, lane) for lane in range(self.lanes)])

    def offset(self, address: Value, num_bytes: int) -> Value:
        """Return the address ``num_bytes`` further on."""
        return self.builder.add(address, self.size(num_bytes)) if num_bytes else address

    def row(self, address: Value, index: Value, stride: Value) -> Value:
        """Return the address of row ``index`` of rows that lie ``stride`` bytes apart."""
        return self.builder.add(address, self.builder.mul(index, stride))

    def rows_until(self, address: Value, stride: Value, count: int, last: Value) -> list[Value]:
        """Return addresses of ``count`` rows; those past row ``last`` repeat it.

        So a tile that hangs over the end reads what is there, and what it makes of it is unused.
        """
        rows = []
        for index in map(self.size, range(count)):
            inside = self.builder.icmp_signed("<", index, last)
            rows.append(self.row(address, self.builder.select(inside, index, last), stride))
        return rows

    def load(self, address: Value) -> Value:
        """Return a vector of consecutive floats."""
        return self.builder.load(self._pointer(address, self.floats), align=_ALIGNMENTS[FLOAT])

    def store(self, vector: Value, address: Value) -> None:
        """Write a vector of consecutive floats."""
        self.builder.store(vector, self._pointer(address, self.floats), align=_ALIGNMENTS[FLOAT])

    def load_scalar(self, address: Value, element: Value = FLOAT) -> Value:
        """Return one element."""
        return self.builder.load(self._pointer(address, element), align=_ALIGNMENTS[element])

    def increment(self, address: Value) -> Value:
        """Add 1 to the integer at ``address``, at once for all threads; return what it was."""
        pointer = self._pointer(address, SIZE)
        return self.builder.atomic_rmw("add", pointer, self.size(1), "monotonic")

    def load_active(self, address: Value, active: Value, element: Value = FLOAT) -> Value:
        """Return consecutive elements where ``active``, elsewhere 0; only those are read."""
        vector = ir.VectorType(element, self.lanes)
        pointer = ir.PointerType(vector)
        load = self._declare(
            f"llvm.masked.load.{_suffix(vector)}.p0", vector, pointer, INT32, active.type, vector
        )
        alignment = ir.Constant(INT32, _ALIGNMENTS[element])
        zeros = ir.Constant(vector, [ir.Constant(element, 0)] * self.lanes)
        arguments = [self._pointer(address, vector), alignment, active, zeros]
        return self.builder.call(load, arguments)

    def store_active(self, vector: Value, address: Value, active: Value) -> None:
        """Write consecutive floats where ``active``."""
        pointer = ir.PointerType(self.floats)
        store = self._declare(
            f"llvm.masked.store.{_suffix(self.floats)}.p0",
            ir.VoidType(),
            self.floats,
            pointer,
            INT32,
            active.type,
        )
        alignment = ir.Constant(INT32, _ALIGNMENTS[FLOAT])
        arguments = [vector, self._pointer(address, self.floats), alignment, active]
        self.builder.call(store, arguments)

    def first_lanes(self, count: Value | int) -> Value:
        """Return which lanes are below ``count``."""
        if isinstance(count, int):
            return ir.Constant(
                ir.VectorType(BIT, self.lanes),
                [ir.Constant(BIT, int(lane < count)) for lane in range(self.lanes)],
            )
        narrow = self.builder.trunc(count, INT32)
        return self.builder.icmp_signed("<", self.lane_indices(), self.splat(narrow))

    def splat(self, scalar: Value) -> Value:
        """Return a scalar in every lane."""
        vector = ir.VectorType(scalar.type, self.lanes)
        undefined = ir.Constant(vector, ir.Undefined)
        single = self.builder.insert_element(undefined, scalar, ir.Constant(INT32, 0))
        return self.builder.shuffle_vector(single, undefined, self.int_constant(0))

    def broadcast(self, address: Value) -> Value:
        """Return one float from memory in every lane."""
        return self.splat(self.load_scalar(address))

    def fused(self, left: Value, right: Value, addend: Value) -> Value:
        """Return ``left * right + addend``, rounded once where the CPU can."""
        function = self._declare(f"llvm.fmuladd.{_suffix(self.floats)}", *[self.floats] * 4)
        return self.builder.call(function, [left, right, addend])

    def larger(self, candidate: Value, best: Value) -> Value:
        """Return the larger of two vectors, and ``best`` where either is not a number."""
        above = self.builder.fcmp_ordered(">", candidate, best)
        return self.builder.select(above, candidate, best)

    def loop(
        self,
        count: Value | int,
        carried: Sequence[Value],
        body: Callable[[Value, list[Value]], Sequence[Value]],
    ) -> list[Value]:
        """Write a counted loop.

        Args:
            count: Number of turns; none if it is 0 or less.
            carried: Values before the first turn.
            body: Called once with the index and the carried values; writes a turn and returns
                them for the next.

        Returns:
            The carried values after the last turn.
        """
        builder = self.builder
        count = self.size(count) if isinstance(count, int) else count
        before = builder.block
        head = builder.append_basic_block("head")
        turn = builder.append_basic_block("turn")
        after = builder.append_basic_block("after")
        builder.branch(head)

        builder.position_at_end(head)
        index = builder.phi(SIZE)
        index.add_incoming(self.size(0), before)
        values = [builder.phi(value.type) for value in carried]
        for phi, value in zip(values, carried, strict=True):
            phi.add_incoming(value, before)
        builder.cbranch(builder.icmp_signed("<", index, count), turn, after)

        builder.position_at_end(turn)
        following = body(index, values)
        latch = builder.block
        index.add_incoming(builder.add(index, self.size(1)), latch)
        for phi, value in zip(values, following, strict=True):
            phi.add_incoming(value, latch)
        builder.branch(head)

        builder.position_at_end(after)
        return values

    def transpose(self, rows: Sequence[Value]) -> list[Value]:
        """Return the transpose of a square of ``lanes`` vectors.

        Stage ``k`` swaps bit ``k`` of the row number with bit ``k`` of the lane number.
        """
        moved = list(rows)
        step = 1
        while step < self.lanes:
            for first in range(self.lanes):
                if first & step:
                    continue
                upper, lower = moved[first], moved[first + step]
                moved[first] = self._pick(upper, lower, step, from_lower=False)
                moved[first + step] = self._pick(upper, lower, step, from_lower=True)
            step *= 2
        return moved

    def _pick(self, upper: Value, lower: Value, step: int, *, from_lower: bool) -> Value:
        lanes = []
        for lane in range(self.lanes):
            if from_lower:
                lanes.append(self.lanes + lane if lane & step else lane + step)
            else:
                lanes.append(self.lanes + lane - step if lane & step else lane)
        mask = ir.Constant(self.ints, [ir.Constant(INT32, lane) for lane in lanes])
        return self.builder.shuffle_vector(upper, lower, mask)

    def _pointer(self, address: Value, element: Value) -> Value:
        return self.builder.inttoptr(address, ir.PointerType(element))

    def _declare(self, name: str, result: Value, *arguments: Value) -> Value:
        # module.declare_intrinsic cannot mangle vector types, so names arrive complete.
        module = self.builder.module
        if name in module.globals:
            return module.globals[name]
        return ir.Function(module, ir.FunctionType(result, arguments), name)


def _suffix(vector: Value) -> str:
    """Return a vector type as intrinsic names spell it, ``v16f32``."""
    element = "f32" if vector.element == FLOAT else f"i{vector.element.width}"
    return f"v{vector.count}{element}"
