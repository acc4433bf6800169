"""A tile as Numba sees it: an intrinsic that calls one LLVM function.

A tile is one LLVM function that takes addresses and sizes and is called, never inlined: inlined
tiles would be optimised again at every level above them, and cost several times the compile time.
Numba code drives tiles through intrinsics that hold nothing but the call.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from hocket.runtime.kernels.lanes import ELEMENTS, FLOAT, REAL, SIZE, Emitter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hocket.runtime.kernels.lanes import Intrinsic, Value

_NUMBA_TYPES = {SIZE: types.intp, FLOAT: types.float32, REAL: types.float64}


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
