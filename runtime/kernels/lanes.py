"""Vectors of float lanes in LLVM IR: the small language that the tiles are written in.

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
INT16 = ir.IntType(16)
INT32 = ir.IntType(32)
SIZE = ir.IntType(64)
HALF = ir.HalfType()
FLOAT = ir.FloatType()
REAL = ir.DoubleType()

FLOAT_BYTES = 4
"""Bytes of one float32 element."""

STORAGE_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of an element in memory, by the types that tensors may be stored in.

Tiles compute in float32, and in float64 only what is stored so; bfloat16 products accumulate in
float32.
"""

ELEMENTS = {"float32": FLOAT, "float64": REAL}
"""Types that tiles compute in, by name."""

# What is read and written of each type of memory; a bfloat16 goes by its bits.
_ADDRESSED = {"float64": REAL, "float32": FLOAT, "float16": HALF, "bfloat16": INT16}

# A bfloat16 is the upper half of a float32.
_UPPER_HALF = 16

# Immediate of VREDUCEPS: no fraction bits are kept, rounding is down, inexactness is not told.
_DOWN = 0x09
_CURRENT_ROUNDING = 4

# Memory is read and written at the alignment of an element: a query row may start anywhere, and
# on aligned addresses the unaligned instructions are as fast.
_ALIGNMENTS = {BYTE: 1, INT16: 2, HALF: 2, INT32: 4, FLOAT: 4, SIZE: 8, REAL: 8}
_NUMBA_TYPES = {SIZE: types.intp, FLOAT: types.float32, REAL: types.float64}


class _BFloatType(ir.Type):  # type: ignore[misc]
    """LLVM's bfloat, which llvmlite has no type for; only ever made by casting bits."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloatType)

    def __hash__(self) -> int:
        return hash(_BFloatType)


BFLOAT = _BFloatType()


def computed_in(storage: str) -> str:
    """Return what tiles compute in on elements of a storage type, a key of ``ELEMENTS``."""
    return "float64" if storage == "float64" else "float32"


def make_tile(
    name: str,
    lanes: int,
    parameters: Mapping[str, Value],
    emit: Callable[..., Value | None],
    result: Value | None = None,
    element: str = "float32",
) -> Intrinsic:
    """Return a Numba intrinsic that calls one tile function.

    Args:
        name: Name of the LLVM function. It must say all that ``emit`` depends on, because a
            module that already has a function of that name gets no second one.
        lanes: Lanes of a vector.
        parameters: Names of the arguments, each with its type, ``SIZE``, or ``FLOAT``, which
            stands for the type that the tile computes in. Addresses and byte strides are sizes.
        emit: Called with an ``Emitter`` and one value an argument, by its name; writes the
            function's body and returns its result, if it has one.
        result: Type of the result; None for a tile that only writes to memory.
        element: Type that the tile computes in, a key of ``ELEMENTS``.
    """
    number = ELEMENTS[element]
    parameters = {
        parameter: number if kind == FLOAT else kind for parameter, kind in parameters.items()
    }
    if number != FLOAT:
        name = f"{name}_{element}"

    def define(module: Value) -> Value:
        returned = ir.VoidType() if result is None else result
        function = ir.Function(module, ir.FunctionType(returned, list(parameters.values())), name)
        # Internal, so that a second kernel in the same process never binds to code of the first,
        # which Numba may free.
        function.linkage = "internal"
        function.attributes.add("noinline")
        function.attributes.add("nounwind")
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        arguments = dict(zip(parameters, function.args, strict=True))
        value = emit(Emitter(builder, lanes, number), **arguments)
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
    """Writes the body of one tile function, a vector of ``lanes`` floats at a time.

    Addresses and sizes are 64-bit integers; strides and offsets are bytes. Floats are of the type
    ``element``, ``FLOAT`` or ``REAL``, and the integers in lanes are as wide as they are.
    """

    def __init__(self, builder: Value, lanes: int, element: Value = FLOAT) -> None:
        self.builder = builder
        self.lanes = lanes
        self.element = element
        self.element_bytes = _ALIGNMENTS[element]
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
        return self.builder.load(self._pointer(address, self.floats), align=self.element_bytes)

    def store(self, vector: Value, address: Value) -> None:
        """Write a vector of consecutive floats."""
        self.builder.store(vector, self._pointer(address, self.floats), align=self.element_bytes)

    def load_ints(self, address: Value) -> Value:
        """Return a vector of consecutive integers."""
        return self.builder.load(self._pointer(address, self.ints), align=self.element_bytes)

    def store_ints(self, vector: Value, address: Value) -> None:
        """Write a vector of consecutive integers."""
        self.builder.store(vector, self._pointer(address, self.ints), align=self.element_bytes)

    def load_stored(self, address: Value, storage: str, active: Value | None = None) -> Value:
        """Return consecutive elements of a storage type as floats.

        Args:
            address: Of the first.
            storage: A key of ``STORAGE_BYTES``.
            active: Lanes to read, the others are 0; None to read all.
        """
        element = _ADDRESSED[storage]
        if active is None:
            vector = ir.VectorType(element, self.lanes)
            pointer = self._pointer(address, vector)
            loaded = self.builder.load(pointer, align=_ALIGNMENTS[element])
        else:
            loaded = self.load_active(address, active, element)
        return self._converted(loaded, storage)

    def load_bytes(self, address: Value, active: Value | None = None) -> Value:
        """Return consecutive bytes; where not ``active``, 0."""
        if active is not None:
            return self.load_active(address, active, BYTE)
        vector = ir.VectorType(BYTE, self.lanes)
        return self.builder.load(self._pointer(address, vector), align=_ALIGNMENTS[BYTE])

    def store_stored(
        self, vector: Value, address: Value, storage: str, active: Value | None = None
    ) -> None:
        """Write floats as consecutive elements of a storage type, rounded to nearest even.

        Args:
            vector: The floats.
            address: Of the first element.
            storage: A key of ``STORAGE_BYTES``.
            active: Lanes to write; None to write all.
        """
        if storage == "float16":
            vector = self.builder.fptrunc(vector, self.halves)
        elif storage == "bfloat16":
            vector = self.builder.trunc(self.rounded_to_bfloat(vector), self.shorts)
        if active is None:
            pointer = self._pointer(address, vector.type)
            self.builder.store(vector, pointer, align=_ALIGNMENTS[vector.type.element])
        else:
            self.store_active(vector, address, active)

    def load_stored_scalar(self, address: Value, storage: str) -> Value:
        """Return one element of a storage type as a float."""
        loaded = self.load_scalar(address, _ADDRESSED[storage])
        return self._converted(loaded, storage)

    def rounded_to_bfloat(self, vector: Value) -> Value:
        """Return floats rounded to bfloat16, as 32-bit integers that hold its bits."""
        builder = self.builder
        bits = builder.bitcast(vector, self.ints)
        upper = builder.lshr(bits, self.int_constant(_UPPER_HALF))
        odd = builder.and_(upper, self.int_constant(1))
        # Half a unit, less one bit unless the result would be odd: ties go to even.
        rounding = builder.add(odd, self.int_constant((1 << (_UPPER_HALF - 1)) - 1))
        rounded = builder.lshr(builder.add(bits, rounding), self.int_constant(_UPPER_HALF))
        # Rounding could carry what is not a number over into infinity.
        quiet = builder.or_(upper, self.int_constant(1 << 6))
        return builder.select(builder.fcmp_unordered("uno", vector, vector), quiet, rounded)

    def _converted(self, loaded: Value, storage: str) -> Value:
        """Return a vector, or a scalar, of a storage type as floats of the tile."""
        builder = self.builder
        is_vector = isinstance(loaded.type, ir.VectorType)
        if storage == "bfloat16":
            ints = ir.VectorType(INT32, self.lanes) if is_vector else INT32
            places = [INT32(_UPPER_HALF)] * self.lanes
            shift = ir.Constant(ints, places if is_vector else _UPPER_HALF)
            floats = ir.VectorType(FLOAT, self.lanes) if is_vector else FLOAT
            loaded = builder.bitcast(builder.shl(builder.zext(loaded, ints), shift), floats)
            storage = "float32"
        wanted = self.floats if is_vector else self.element
        if loaded.type == wanted:
            return loaded
        if STORAGE_BYTES[storage] > self.element_bytes:
            return builder.fptrunc(loaded, wanted)
        return builder.fpext(loaded, wanted)

    def load_scalar(self, address: Value, element: Value | None = None) -> Value:
        """Return one element, a float if no other type is given."""
        element = self.element if element is None else element
        return self.builder.load(self._pointer(address, element), align=_ALIGNMENTS[element])

    def store_scalar(self, value: Value, address: Value) -> None:
        """Write one element."""
        self.builder.store(value, self._pointer(address, value.type), align=_ALIGNMENTS[value.type])

    def increment(self, address: Value, ordering: str = "monotonic") -> Value:
        """Add 1 to the integer at ``address``, at once for all threads; return what it was."""
        pointer = self._pointer(address, SIZE)
        return self.builder.atomic_rmw("add", pointer, self.size(1), ordering)

    def load_active(self, address: Value, active: Value, element: Value | None = None) -> Value:
        """Return consecutive elements where ``active``, elsewhere 0; only those are read."""
        element = self.element if element is None else element
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
        """Write consecutive elements where ``active``."""
        if isinstance(active, ir.Constant) and active == self.first_lanes(1):
            # LLVM would write a lane of what the vector was truncated from: too many bytes.
            element = self.builder.extract_element(vector, INT32(0))
            pointer = self._pointer(address, element.type)
            self.builder.store(element, pointer, align=_ALIGNMENTS[element.type])
            return
        pointer = ir.PointerType(vector.type)
        store = self._declare(
            f"llvm.masked.store.{_suffix(vector.type)}.p0",
            ir.VoidType(),
            vector.type,
            pointer,
            INT32,
            active.type,
        )
        alignment = ir.Constant(INT32, _ALIGNMENTS[vector.type.element])
        arguments = [vector, self._pointer(address, vector.type), alignment, active]
        self.builder.call(store, arguments)

    def prefetch(self, address: Value, *, writes: bool = False, level: int = 1) -> None:
        """Ask for the cache line at ``address``, which need not be an address of ours."""
        pointer = ir.PointerType(BYTE)
        function = self._declare("llvm.prefetch.p0", ir.VoidType(), pointer, INT32, INT32, INT32)
        arguments = [INT32(int(writes)), INT32(4 - level), INT32(1)]
        self.builder.call(function, [self._pointer(address, BYTE), *arguments])

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
        function = self._declare(f"llvm.fmuladd.{_suffix(self.floats)}", *[self.floats] * 4)
        return self.builder.call(function, [left, right, addend])

    def paired(self, left: Value, right: Value, addend: Value) -> Value:
        """Return ``addend`` and the two products of the bfloat16 pairs in each 32-bit lane.

        Only on a CPU with AVX512-BF16.
        """
        pairs = ir.VectorType(BFLOAT, 2 * self.lanes)
        function = self._declare(
            "llvm.x86.avx512bf16.dpbf16ps.512", self.floats, self.floats, pairs, pairs
        )
        bits = [self.builder.bitcast(vector, pairs) for vector in (left, right)]
        return self.builder.call(function, [addend, *bits])

    def pairs_of(self, lower: Value, upper: Value) -> Value:
        """Return the bfloat16 pair of ``lower`` and ``upper`` in each 32-bit lane, as integers.

        Only on a CPU with AVX512-BF16.
        """
        pairs = ir.VectorType(BFLOAT, 2 * self.lanes)
        convert = self._declare(
            "llvm.x86.avx512bf16.cvtne2ps2bf16.512", pairs, self.floats, self.floats
        )
        # The second operand becomes the first half.
        halves = self.builder.call(convert, [upper, lower])
        shorts = self.builder.bitcast(halves, ir.VectorType(INT16, 2 * self.lanes))
        order = [lane // 2 + lane % 2 * self.lanes for lane in range(2 * self.lanes)]
        mask = ir.Constant(
            ir.VectorType(INT32, 2 * self.lanes), [ir.Constant(INT32, lane) for lane in order]
        )
        return self.builder.bitcast(self.builder.shuffle_vector(shorts, shorts, mask), self.ints)

    def fraction(self, vector: Value) -> Value:
        """Return each float less the largest integer not above it; only with AVX512-DQ."""
        function = self._declare(
            "llvm.x86.avx512.mask.reduce.ps.512",
            *(self.floats, self.floats, INT32, self.floats, INT16, INT32),
        )
        unused = ir.Constant(self.floats, ir.Undefined)
        arguments = [vector, INT32(_DOWN), unused, INT16(-1), INT32(_CURRENT_ROUNDING)]
        return self.builder.call(function, arguments)

    def scaled(self, vector: Value, exponent: Value, active: Value) -> Value:
        """Return ``vector * 2**floor(exponent)`` where ``active``, else 0; only with AVX512-F."""
        function = self._declare(
            "llvm.x86.avx512.mask.scalef.ps.512",
            *(self.floats, self.floats, self.floats, self.floats, INT16, INT32),
        )
        mask = self.builder.bitcast(active, INT16)
        arguments = [vector, exponent, self.constant(0.0), mask, INT32(_CURRENT_ROUNDING)]
        return self.builder.call(function, arguments)

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

    def merged(self, one: Value, other: Value, step: int) -> Value:
        """Return sums of pairs of lanes ``step`` apart, those of two vectors in turn.

        Lanes without the bit ``step`` in their number get sums of ``one``, the rest of ``other``.
        """
        builder = self.builder
        has_bit = self._with_bit(step)
        moved = builder.select(has_bit, one, other)
        moved = self._rearranged(moved, moved, [lane ^ step for lane in range(self.lanes)])
        return builder.fadd(builder.select(has_bit, other, one), moved)

    def across(self, vector: Value, combine: Callable[[Value, Value], Value]) -> Value:
        """Return in every lane what ``combine`` makes of all lanes."""
        step = 1
        while step < self.lanes:
            moved = self._rearranged(vector, vector, [lane ^ step for lane in range(self.lanes)])
            vector = combine(vector, moved)
            step *= 2
        return vector

    def any_lane(self, chosen: Value) -> Value:
        """Return 1 if any lane is chosen, else 0: the turns of a loop that is a condition."""
        bits = self.builder.bitcast(chosen, ir.IntType(self.lanes))
        return self.builder.zext(self.builder.icmp_unsigned("!=", bits, bits.type(0)), SIZE)

    def _with_bit(self, step: int) -> Value:
        """Return which lanes have the bit ``step`` in their number."""
        lanes = [ir.Constant(BIT, int(lane & step != 0)) for lane in range(self.lanes)]
        return ir.Constant(ir.VectorType(BIT, self.lanes), lanes)

    def _pick(self, upper: Value, lower: Value, step: int, *, from_lower: bool) -> Value:
        lanes = []
        for lane in range(self.lanes):
            if from_lower:
                lanes.append(self.lanes + lane if lane & step else lane + step)
            else:
                lanes.append(self.lanes + lane - step if lane & step else lane)
        return self._rearranged(upper, lower, lanes)

    def _rearranged(self, upper: Value, lower: Value, lanes: Sequence[int]) -> Value:
        """Return these lanes of two vectors; those of ``lower`` are counted on from ``upper``'s."""
        places = ir.VectorType(INT32, self.lanes)
        mask = ir.Constant(places, [ir.Constant(INT32, lane) for lane in lanes])
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
    names = {REAL: "f64", FLOAT: "f32", HALF: "f16"}
    element = names.get(vector.element) or f"i{vector.element.width}"
    return f"v{vector.count}{element}"
