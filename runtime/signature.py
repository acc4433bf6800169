"""What a compiled module takes and gives: names, element types, shapes."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hocket.hwmodels.dtypes import DType
from hocket.runtime.errors import ArtifactError, FeedError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import numpy as np
    from numpy.typing import NDArray

MAX_RANK = 16
MAX_ELEMENTS = 1 << 40

# onnxruntime spells types in ONNX's words.
_ONNX_NAMES = {
    DType.FLOAT64: "double",
    DType.FLOAT32: "float",
    DType.FLOAT16: "float16",
    DType.BFLOAT16: "bfloat16",
}


@dataclass(frozen=True)
class TensorSpec:
    """One input or output, readable like onnxruntime's ``NodeArg``.

    Attributes:
        name: Its name in the model.
        dtype: Element type.
        shape: Sizes; all are bound.
        value_range: Half-open range of useful values of an integer input, as far as the compiler
            found one (the rows of the table it indexes, say); None where it did not.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    value_range: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ArtifactError(f"a tensor needs a name, got {self.name!r}")
        if len(self.shape) > MAX_RANK or any(
            type(size) is not int or size < 0 for size in self.shape
        ):
            raise ArtifactError(f"tensor {self.name!r} has an unusable shape {self.shape!r}")
        if math.prod(self.shape) > MAX_ELEMENTS:
            raise ArtifactError(f"tensor {self.name!r} of shape {self.shape} is too large")
        if self.value_range is not None:
            low, high = self.value_range
            if not -(2**63) <= low < high <= 2**63:
                raise ArtifactError(f"tensor {self.name!r} has an unusable value range")

    @property
    def type(self) -> str:
        """The type as onnxruntime writes it, ``tensor(float)``."""
        return f"tensor({_ONNX_NAMES.get(self.dtype, self.dtype.value)})"

    @functools.cached_property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The element type as numpy has it; looked up once, as every run asks for it."""
        return self.dtype.to_numpy()

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return math.prod(self.shape) * self.dtype.itemsize

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "name": self.name,
            "dtype": self.dtype.value,
            "shape": list(self.shape),
            "value_range": None if self.value_range is None else list(self.value_range),
        }

    @classmethod
    def from_json(cls, fields: object) -> TensorSpec:
        """Build a spec from JSON that nobody has checked.

        Raises:
            ArtifactError: A key is missing, unknown, or holds what it may not.
        """
        if not isinstance(fields, dict) or set(fields) != {"name", "dtype", "shape", "value_range"}:
            raise ArtifactError(f"malformed tensor description: {fields!r}")
        try:
            dtype = DType(fields["dtype"])
        except ValueError as error:
            raise ArtifactError(f"unknown element type {fields['dtype']!r}") from error
        if not isinstance(fields["shape"], list):
            raise ArtifactError(f"malformed shape {fields['shape']!r}")
        bounds = fields["value_range"]
        if bounds is not None and not (
            isinstance(bounds, list) and len(bounds) == 2 and all(type(b) is int for b in bounds)
        ):
            raise ArtifactError(f"malformed value range {bounds!r}")
        return cls(
            fields["name"],
            dtype,
            tuple(fields["shape"]),
            None if bounds is None else (bounds[0], bounds[1]),
        )

    def __str__(self) -> str:
        return f"{self.name}: {self.type} {list(self.shape)}"


@dataclass(frozen=True)
class OpenSpec:
    """One input or output of a module for any size, readable like onnxruntime's ``NodeArg``.

    Attributes:
        name: Its name in the model.
        dtype: Element type.
        shape: Sizes; text, the name of a dimension or a formula of some, where one is open.
    """

    name: str
    dtype: DType
    shape: tuple[int | str, ...]

    @property
    def type(self) -> str:
        """The type as onnxruntime writes it, ``tensor(float)``."""
        return f"tensor({_ONNX_NAMES.get(self.dtype, self.dtype.value)})"

    def __str__(self) -> str:
        return f"{self.name}: {self.type} [{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a compiled module, in the model's order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @functools.cached_property
    def _input_names(self) -> frozenset[str]:
        return frozenset(spec.name for spec in self.inputs)

    def check_feeds(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Check names, element types and shapes of the feeds of a run.

        Raises:
            FeedError: A name is missing or unknown, or an array has another type or shape.
        """
        self.check_names(feeds)
        for spec in self.inputs:
            _check_array(spec, feeds[spec.name])

    def check_names(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Check that there is an array for each input and no other.

        Raises:
            FeedError: A name is missing or unknown, or what it names is no array.
        """
        if not isinstance(feeds, Mapping):
            raise FeedError(f"feeds: want arrays by input name, got {type(feeds).__name__}")
        wanted = self._input_names
        if feeds.keys() != wanted:
            unknown = sorted(set(feeds) - wanted)
            missing = sorted(wanted - set(feeds))
            problem = " and ".join(
                f"{what} {names}"
                for what, names in (("missing", missing), ("unknown", unknown))
                if names
            )
            raise FeedError(f"feeds: {problem}; the inputs are {sorted(wanted)}")
        for name, array in feeds.items():
            if not hasattr(array, "dtype"):
                raise FeedError(f"input {name!r}: want a numpy array, got {type(array).__name__}")

    def check_outputs(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Check arrays that outputs are to be written to.

        Raises:
            FeedError: A name is no output, or an array has another type or shape, cannot be written
                to, or is not C-contiguous.
        """
        specs = {spec.name: spec for spec in self.outputs}
        for name, array in arrays.items():
            if name not in specs:
                raise FeedError(f"no output {name!r}; the outputs are {list(specs)}")
            spec = specs[name]
            if array.dtype != spec.numpy_dtype or array.shape != spec.shape:
                raise FeedError(
                    f"output {name!r}: want {spec.dtype} of shape {list(spec.shape)} to write to, "
                    f"got {array.dtype} of {list(array.shape)}"
                )
            if not (array.flags.writeable and array.flags.c_contiguous):
                raise FeedError(f"output {name!r}: want a writable, C-contiguous array")

    def select_outputs(self, names: Sequence[str] | None) -> tuple[int, ...]:
        """Return the positions of the named outputs; of all for None.

        Raises:
            FeedError: A name is not an output.
        """
        if not names:
            return tuple(range(len(self.outputs)))
        if isinstance(names, str):
            raise FeedError(f"outputs: want a list of names, as in [{names!r}], got text")
        positions = {spec.name: index for index, spec in enumerate(self.outputs)}
        for name in names:
            if name not in positions:
                raise FeedError(f"no output {name!r}; the outputs are {list(positions)}")
        return tuple(positions[name] for name in names)


def _check_array(spec: TensorSpec, array: np.ndarray[Any, Any]) -> None:
    found = array.dtype
    if found != spec.numpy_dtype:
        raise FeedError(
            f"input {spec.name!r}: want {spec.dtype}, got {found}; "
            f"convert it with .astype({spec.dtype.value!r})"
        )
    if tuple(array.shape) != spec.shape:
        raise FeedError(
            f"input {spec.name!r}: want shape {list(spec.shape)}, got {list(array.shape)}; "
            "the module was compiled for that shape, so pad the input or compile with other dims"
        )


def no_open_dim(name: str, spans: Collection[str]) -> str:
    """Return what to say of a dimension that a module does not leave open, as these are."""
    if spans:
        return f"the module has no open dimension {name!r}; open are {', '.join(map(repr, spans))}"
    return (
        f"the module has no open dimension {name!r}, nor any other: it was compiled for fixed "
        f"sizes; compile it with a range, as in --dim {name}=1..512, to choose a size later"
    )
