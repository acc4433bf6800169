"""Vectors of float lanes in LLVM IR: the small language that the tiles are written in.

Here is what tiles on all CPUs are made of: numbers, addresses, memory, loops. What is stored in
other types than tiles compute in is for ``storage``, what moves between lanes for ``shuffles``,
and what only some CPUs can do for ``x86``; ``tile`` makes a function of it that Numba can call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# llvmlite and numba carry no types of their own; these names keep signatures readable.
Value = Any
Intrinsic = Any

BIT = ir.IntType(1)
BYTE = ir.IntType(8)
INT16 = ir.IntType(16)
INT32 = ir.IntType(32)
SIZE = ir.IntType(64)
HALF = ir.HalfType()
FLOAT = ir.FloatType()
REAL = ir.DoubleType()

FLOAT_BYTES = 4
"""Bytes of one float32 element."""

ELEMENTS = {"float32": FLOAT, "float64": REAL}
"""Types that tiles compute in, by name."""

# Memory is read and written at the alignment of an element: a query row may start anywhere, and
# on aligned addresses the unaligned instructions are as fast.
ALIGNMENTS = {BYTE: 1, INT16: 2, HALF: 2, INT32: 4, FLOAT: 4, SIZE: 8, REAL: 8}


class Emitter:
    """Writes the body of one tile function, a vector of ``lanes`` floats at a time.

    Addresses and sizes are 64-bit integers; strides and offsets are bytes. Floats are of the type
    ``element``, ``FLOAT`` or ``REAL``, and the integers in lanes are as wide as they are.
    """

    def __init__(self, builder: Value, lanes: int, element: Value = FLOAT) -> None:
        self.builder = builder
        self.lanes = lanes
        self.element = element
        self.element_bytes = ALIGNMENTS[element]
        self.vector_bytes = lanes * self.element_bytes
        self.int_element = INT32 if element == FLOAT else SIZE
        self.floats = ir.VectorType(element, lanes)
        self.ints = ir.VectorType(self.int_element, lanes)
        self.halves = ir.VectorType(HALF, lanes)
        self.shorts = ir.VectorType(INT16, lanes)

    def size(self, value: int) -> Value:
        """Return an address-sized integer."""
        return ir.Constant(SIZE, value)

    def constant(self, value: float) -> Value:
        """Return the same float in every lane."""
        return ir.Constant(self.floats, [ir.Constant(self.element, value)] * self.lanes)

    def int_constant(self, value: int) -> Value:
        """Return the same integer in every lane."""
        return ir.Constant(self.ints, [ir.Constant(self.int_element, value)] * self.lanes)

    def lane_indices(self) -> Value:
        """Return 0, 1, 2, ... as integers."""
        places = [ir.Constant(self.int_element, lane) for lane in range(self.lanes)]
        return ir.Constant(self.ints, places)

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
        return self.builder.load(self.pointer(address, self.floats), align=self.element_bytes)

    def store(self, vector: Value, address: Value) -> None:
        """Write a vector of consecutive floats."""
        self.builder.store(vector, self.pointer(address, self.floats), align=self.element_bytes)

    def load_ints(self, address: Value) -> Value:
        """Return a vector of consecutive integers."""
        return self.builder.load(self.pointer(address, self.ints), align=self.element_bytes)

    def store_ints(self, vector: Value, address: Value) -> None:
        """Write a vector of consecutive integers."""
        self.builder.store(vector, self.pointer(address, self.ints), align=self.element_bytes)

    def load_scalar(self, address: Value, element: Value | None = None) -> Value:
        """Return one element, a float if no other type is given."""
        element = self.element if element is None else element
        return self.builder.load(self.pointer(address, element), align=ALIGNMENTS[element])

    def store_scalar(self, value: Value, address: Value) -> None:
        """Write one element."""
        self.builder.store(value, self.pointer(address, value.type), align=ALIGNMENTS[value.type])

    def increment(self, address: Value, ordering: str = "monotonic") -> Value:
        """Add 1 to the integer at ``address``, at once for all threads; return what it was."""
        pointer = self.pointer(address, SIZE)
        return self.builder.atomic_rmw("add", pointer, self.size(1), ordering)

    def load_active(self, address: Value, active: Value, element: Value | None = None) -> Value:
        """Return consecutive elements where ``active``, elsewhere 0; only those are read."""
        element = self.element if element is None else element
        vector = ir.VectorType(element, self.lanes)
        pointer = ir.PointerType(vector)
        load = self.declare(
            f"llvm.masked.load.{_suffix(vector)}.p0", vector, pointer, INT32, active.type, vector
        )
        alignment = ir.Constant(INT32, ALIGNMENTS[element])
        zeros = ir.Constant(vector, [ir.Constant(element, 0)] * self.lanes)
        arguments = [self.pointer(address, vector), alignment, active, zeros]
        return self.builder.call(load, arguments)

    def store_active(self, vector: Value, address: Value, active: Value) -> None:
        """Write consecutive elements where ``active``."""
        if isinstance(active, ir.Constant) and active == self.first_lanes(1):
            # LLVM would write a lane of what the vector was truncated from: too many bytes.
            element = self.builder.extract_element(vector, INT32(0))
            pointer = self.pointer(address, element.type)
            self.builder.store(element, pointer, align=ALIGNMENTS[element.type])
            return
        pointer = ir.PointerType(vector.type)
        store = self.declare(
            f"llvm.masked.store.{_suffix(vector.type)}.p0",
            ir.VoidType(),
            vector.type,
            pointer,
            INT32,
            active.type,
        )
        alignment = ir.Constant(INT32, ALIGNMENTS[vector.type.element])
        arguments = [vector, self.pointer(address, vector.type), alignment, active]
        self.builder.call(store, arguments)

    def prefetch(self, address: Value, *, writes: bool = False, level: int = 1) -> None:
        """Ask for the cache line at ``address``, which need not be an address of ours."""
        pointer = ir.PointerType(BYTE)
        function = self.declare("llvm.prefetch.p0", ir.VoidType(), pointer, INT32, INT32, INT32)
        arguments = [INT32(int(writes)), INT32(4 - level), INT32(1)]
        self.builder.call(function, [self.pointer(address, BYTE), *arguments])

    def first_lanes(self, count: Value | int) -> Value:
        """Return which lanes are below ``count``."""
        if isinstance(count, int):
            return ir.Constant(
                ir.VectorType(BIT, self.lanes),
                [ir.Constant(BIT, int(lane < count)) for lane in range(self.lanes)],
            )
        return self.builder.icmp_signed("<", self.lane_indices(), self.splat(self.lane_int(count)))

    def lane_int(self, size: Value) -> Value:
        """Return an address-sized integer as wide as those in lanes."""
        return size if self.int_element == SIZE else self.builder.trunc(size, self.int_element)

    def splat(self, scalar: Value) -> Value:
        """Return a scalar in every lane."""
        vector = ir.VectorType(scalar.type, self.lanes)
        undefined = ir.Constant(vector, ir.Undefined)
        single = self.builder.insert_element(undefined, scalar, ir.Constant(INT32, 0))
        zeros = ir.Constant(ir.VectorType(INT32, self.lanes), [INT32(0)] * self.lanes)
        return self.builder.shuffle_vector(single, undefined, zeros)

    def broadcast(self, address: Value) -> Value:
        """Return one float from memory in every lane."""
        return self.splat(self.load_scalar(address))

    def fused(self, left: Value, right: Value, addend: Value) -> Value:
        """Return ``left * right + addend``, rounded once where the CPU can."""
        function = self.declare(f"llvm.fmuladd.{_suffix(self.floats)}", *[self.floats] * 4)
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

    def opaque(self, count: int) -> Value:
        """Return a number that LLVM does not know: loops of so many turns stay loops."""
        kind = ir.FunctionType(SIZE, [SIZE])
        return self.builder.asm(kind, "", "=r,0", [self.size(count)], side_effect=False)

    def at_most_one(self, count: Value) -> Value:
        """Return 1 if there is anything to do, else 0: the turns of a loop that is a condition."""
        return self.builder.zext(self.builder.icmp_signed(">", count, self.size(0)), SIZE)

    def pointer(self, address: Value, element: Value) -> Value:
        """Return an address as a pointer to an element, or to a vector."""
        return self.builder.inttoptr(address, ir.PointerType(element))

    def declare(self, name: str, result: Value, *arguments: Value) -> Value:
        """Return an intrinsic of LLVM, by its whole name and its types."""
        # module.declare_intrinsic cannot mangle vector types, so names arrive complete.
        module = self.builder.module
        if name in module.globals:
            return module.globals[name]
        return ir.Function(module, ir.FunctionType(result, arguments), name)


def _suffix(vector: Value) -> str:
    """Return a vector type as intrinsic names spell it, ``v16f32``."""
    names = {REAL: "f64", FLOAT: "f32", HALF: "f16"}
    element = names.get(vector.element) or f"i{vector.element.width}"
    return f"v{vector.count}{element}"
