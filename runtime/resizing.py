"""A module for any length: how the sizes of its tensors and steps follow from open dimensions.

An artifact is complete for the dimensions it names in ``dims``: programs, tiles and estimates are
for those. One of a model with open dimensions says besides how every size follows from them, so
that the same steps run at other sizes; kernels take sizes as arguments, host steps as they come.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hocket.hwmodels.sizes import (
    Size,
    SizeExpression,
    evaluate_size,
    size_from_json,
    size_to_json,
)
from hocket.runtime.errors import ArtifactError, FeedError, UnsupportedError
from hocket.runtime.signature import Signature, TensorSpec
from hocket.runtime.steps import AttentionStep, list_field, text_field, whole_field

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from hocket.runtime.steps import Step

MAX_DIMENSION = 1 << 24
SIZE_FIELDS = ("batch", "query_length", "kv_length", "query_offset")
"""Fields of kernel parameters that may follow from dimensions, besides ``mask_shape``."""


@dataclass(frozen=True)
class Tiles:
    """Tile sizes for attentions of up to so many keys."""

    max_kv_length: int
    query_rows: int
    kv_columns: int


@dataclass(frozen=True)
class StepSizes:
    """How the sizes of an attention step follow from the dimensions.

    Attributes:
        fields: By name, those of ``SIZE_FIELDS``.
        mask_shape: Of the stored mask; None without one.
        tiles: Tile sizes by length, the shortest first; the last serves whatever is longer.
    """

    fields: Mapping[str, Size]
    mask_shape: tuple[Size, ...] | None = None
    tiles: tuple[Tiles, ...] = ()

    def resized(self, step: AttentionStep, dims: Mapping[str, int]) -> AttentionStep:
        """Return a step with the sizes of these dimensions.

        Raises:
            UnsupportedError: The kernels do not serve such sizes.
        """
        sizes: dict[str, Any] = {
            name: evaluate_size(size, dims) for name, size in self.fields.items()
        }
        if self.mask_shape is not None:
            sizes["mask_shape"] = tuple(evaluate_size(size, dims) for size in self.mask_shape)
        length = sizes.get("kv_length", step.parameters.kv_length)
        for tiles in self.tiles:
            sizes |= {"query_rows": tiles.query_rows, "kv_columns": tiles.kv_columns}
            if length <= tiles.max_kv_length:
                break
        return dataclasses.replace(step, parameters=dataclasses.replace(step.parameters, **sizes))


@dataclass(frozen=True)
class Resizing:
    """All sizes of a module as they follow from its open dimensions.

    Attributes:
        dims: The open dimensions, with the least and the largest size of each.
        tensors: By name, the shapes of the tensors at the border of steps.
        steps: By name, the sizes of the attention steps.
    """

    dims: Mapping[str, tuple[int, int]]
    tensors: Mapping[str, tuple[Size, ...]]
    steps: Mapping[str, StepSizes] = field(default_factory=dict)

    def shape(self, name: str) -> tuple[Size, ...]:
        """Return the shape of a tensor."""
        return self.tensors[name]

    def resize_tensors(
        self, tensors: Mapping[str, TensorSpec], dims: Mapping[str, int]
    ) -> dict[str, TensorSpec]:
        """Return tensors with the sizes of these dimensions."""
        return {
            name: dataclasses.replace(
                spec, shape=tuple(evaluate_size(size, dims) for size in self.tensors[name])
            )
            for name, spec in tensors.items()
        }

    def resize_steps(self, steps: Sequence[Step], dims: Mapping[str, int]) -> tuple[Step, ...]:
        """Return steps with the sizes of these dimensions.

        Raises:
            UnsupportedError: The kernels do not serve such sizes.
        """
        return tuple(
            self.steps[step.name].resized(step, dims) if isinstance(step, AttentionStep) else step
            for step in steps
        )

    def read_dims(
        self, inputs: Sequence[TensorSpec], feeds: Mapping[str, NDArray[Any]]
    ) -> dict[str, int]:
        """Return the sizes of the open dimensions, as the shapes of feeds have them.

        Raises:
            FeedError: A shape has another rank, two of them contradict each other, or a size is
                out of range.
        """
        found: dict[str, tuple[int, str]] = {}
        for spec in inputs:
            shape, wanted = tuple(feeds[spec.name].shape), self.tensors[spec.name]
            if len(shape) != len(wanted):
                raise FeedError(
                    f"input {spec.name!r}: want {_describe(wanted)}, got shape {list(shape)}"
                )
            for axis, (size, expected) in enumerate(zip(shape, wanted, strict=True)):
                name = _plain_name(expected)
                if name is None:
                    continue
                place = f"axis {axis} of input {spec.name!r}"
                if name in found and found[name][0] != size:
                    raise FeedError(
                        f"{place}: dimension {name!r} is {size} there, but {found[name][0]} at "
                        f"{found[name][1]}"
                    )
                low, high = self.dims[name]
                if not low <= size <= high:
                    raise FeedError(
                        f"{place}: dimension {name!r} must be {low} to {high}, got {size}"
                    )
                found[name] = (size, place)
        missing = sorted(set(self.dims) - set(found))
        if missing:
            raise FeedError(f"no input tells the size of {missing}")
        return {name: size for name, (size, _) in found.items()}

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "dims": {name: list(span) for name, span in self.dims.items()},
            "tensors": {
                name: [size_to_json(size) for size in shape] for name, shape in self.tensors.items()
            },
            "steps": {
                name: {
                    "fields": {key: size_to_json(size) for key, size in sizes.fields.items()},
                    "mask_shape": None
                    if sizes.mask_shape is None
                    else [size_to_json(size) for size in sizes.mask_shape],
                    "tiles": [list(dataclasses.astuple(tiles)) for tiles in sizes.tiles],
                }
                for name, sizes in self.steps.items()
            },
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Resizing:
        """Build it from JSON that nobody has checked.

        Raises:
            ArtifactError: A field holds what it may not. (KeyError and TypeError where one is
                missing or of the wrong kind, for the caller to name the file.)
        """
        dims = {}
        for name, span in fields["dims"].items():
            low, high = map(whole_field, list_field(span))
            if not 1 <= low <= high <= MAX_DIMENSION:
                raise ArtifactError(f"dimension {name!r} has the unusable range {span!r}")
            dims[text_field(name)] = (low, high)
        steps = {}
        for name, sizes in fields["steps"].items():
            if not set(sizes["fields"]) <= set(SIZE_FIELDS):
                raise ArtifactError(f"step {name!r} has sizes that no kernel has")
            shape = sizes["mask_shape"]
            steps[text_field(name)] = StepSizes(
                {key: size_from_json(size) for key, size in sizes["fields"].items()},
                None if shape is None else tuple(map(size_from_json, list_field(shape))),
                tuple(Tiles(*map(whole_field, tiles)) for tiles in list_field(sizes["tiles"])),
            )
        tensors = {
            text_field(name): tuple(map(size_from_json, list_field(shape)))
            for name, shape in fields["tensors"].items()
        }
        return cls(dims, tensors, steps)


def check_resizing(
    resizing: Resizing,
    dims: Mapping[str, int],
    tensors: Mapping[str, TensorSpec],
    steps: Sequence[Step],
) -> None:
    """Check that sizes are there for everything, and are those of the artifact at its own ``dims``.

    Raises:
        ArtifactError: They are not.
    """
    attentions = [step for step in steps if isinstance(step, AttentionStep)]
    named = {step.name for step in attentions}
    if set(resizing.tensors) != set(tensors) or set(resizing.steps) != named:
        raise ArtifactError("its sizes are not those of its tensors and steps")
    if not set(resizing.dims) <= set(dims):
        raise ArtifactError("it has no sizes for its open dimensions")
    try:
        same = resizing.resize_tensors(tensors, dims) == dict(tensors)
        for step in attentions:
            resized = resizing.steps[step.name].resized(step, dims).parameters
            tiles: dict[str, Any] = {"query_rows": 1, "kv_columns": 1}
            same = same and dataclasses.replace(resized, **tiles) == dataclasses.replace(
                step.parameters, **tiles
            )
    except (KeyError, UnsupportedError) as error:
        raise ArtifactError(f"its sizes cannot be computed: {error}") from error
    if not same:
        raise ArtifactError("its sizes do not fit its own dimensions")


def resized_signature(signature: Signature, tensors: Mapping[str, TensorSpec]) -> Signature:
    """Return a signature of tensors that have other sizes now."""
    return Signature(
        tuple(tensors[spec.name] for spec in signature.inputs),
        tuple(tensors[spec.name] for spec in signature.outputs),
    )


def _plain_name(size: Size) -> str | None:
    """Return the dimension that a size is, None if it is fixed or an expression."""
    if isinstance(size, SizeExpression) and len(size.terms) == 1:
        factor, names = size.terms[0]
        if factor == 1 and len(names) == 1:
            return names[0]
    return None


def _describe(shape: Sequence[Size]) -> str:
    return f"[{', '.join(str(size) for size in shape)}]"
