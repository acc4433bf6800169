"""Whether a compiled module gives the numbers that onnxruntime gives for the original file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hocket.sampling import edge_case_feeds, random_feeds

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import ModuleType

    from numpy.typing import NDArray

    from hocket.runtime.signature import OpenSpec, TensorSpec

# Two float32 programs that sum in another order differ by this much after a few layers.
DEFAULT_RTOL = 1e-3
DEFAULT_ATOL = 1e-5


class VerificationError(ValueError):
    """A model that onnxruntime cannot load or run, so that there is nothing to compare with."""


class Runnable(Protocol):
    """What is compared: our session, or anything with these methods of it."""

    @property
    def open_dims(self) -> Mapping[str, tuple[int, int]]:
        """Return the spans of dimensions that are open."""

    def sized_inputs(self, dims: Mapping[str, int] | None = None) -> Sequence[TensorSpec]:
        """Return what it takes."""

    def get_outputs(self) -> Sequence[TensorSpec | OpenSpec]:
        """Return what it gives."""

    def run(
        self, output_names: Sequence[str] | None, input_feed: dict[str, NDArray[Any]]
    ) -> list[NDArray[Any]]:
        """Return the named outputs, all for None."""


# Where sizes are open, samples are taken at the least sizes, too, and at some that are little more.
_MORE = (0, 6)


@dataclass(frozen=True)
class OutputErrors:
    """How far one output is from the reference, over all samples.

    Attributes:
        name: The output.
        max_abs_error: Largest ``|ours - reference|``; infinite where only one of the two is NaN or
            infinite, or both are infinite with unlike signs.
        max_rel_error: Largest ``|ours - reference| / |reference|`` over the elements whose
            reference is larger than the absolute tolerance: below it the quotient says nothing.
        num_elements: Elements compared.
        num_mismatched: Elements past tolerance.
        worst_sample: The sample with the largest absolute error.
    """

    name: str
    max_abs_error: float
    max_rel_error: float
    num_elements: int
    num_mismatched: int
    worst_sample: str

    @property
    def ok(self) -> bool:
        """Whether no element is past tolerance."""
        return self.num_mismatched == 0


@dataclass(frozen=True)
class Verification:
    """The answer of a comparison.

    Attributes:
        outputs: One entry for each output.
        samples: Names of the feeds that were tried, ``random.0`` or the name of an edge case.
        rtol, atol: An element is in tolerance if ``|ours - reference| <= atol + rtol *
            |reference|``.
    """

    outputs: tuple[OutputErrors, ...]
    samples: tuple[str, ...]
    rtol: float
    atol: float

    @property
    def ok(self) -> bool:
        """Whether every output is in tolerance on every sample."""
        return all(output.ok for output in self.outputs)


def verify_against_model(
    session: Runnable,
    model: str | os.PathLike[str],
    *,
    samples: int = 3,
    rtol: float = DEFAULT_RTOL,
    atol: float = DEFAULT_ATOL,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    num_threads: int = 0,
    progress: Callable[[str, int], None] | None = None,
) -> Verification:
    """Compare a session with onnxruntime on the original file.

    Args:
        session: The session of the compiled module.
        model: The ONNX file that it was compiled from.
        samples: Random feeds to try; the edge cases come on top.
        rtol: Relative tolerance, as ``numpy.allclose`` takes it.
        atol: Absolute tolerance.
        seed: Of the random feeds.
        dims: Sizes of open dimensions; of those not named, several are tried.
        num_threads: Threads of onnxruntime; 0 leaves it the choice.
        progress: Called before each sample with its name and the number of samples.

    Raises:
        FileNotFoundError: There is no such file.
        VerificationError: onnxruntime cannot run the file on these feeds.
    """
    reference = ReferenceSession(model, num_threads)
    return compare(
        session,
        reference.run,
        samples=samples,
        rtol=rtol,
        atol=atol,
        seed=seed,
        dims=dims,
        progress=progress,
    )


def compare(
    session: Runnable,
    reference: Callable[[Sequence[str], dict[str, NDArray[Any]]], Sequence[NDArray[Any]]],
    *,
    samples: int = 3,
    rtol: float = DEFAULT_RTOL,
    atol: float = DEFAULT_ATOL,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> Verification:
    """Compare a session with any other way to compute the same outputs."""
    names = [spec.name for spec in session.get_outputs()]
    totals = {name: _Total(name) for name in names}
    feeds = dict(_all_feeds(session, dims or {}, samples, seed))
    for sample, feed in feeds.items():
        if progress is not None:
            progress(sample, len(feeds))
        ours = session.run(names, feed)
        theirs = reference(names, feed)
        for name, found, wanted in zip(names, ours, theirs, strict=True):
            totals[name].add(sample, np.asarray(found), np.asarray(wanted), rtol, atol)
    return Verification(
        tuple(total.errors() for total in totals.values()), tuple(feeds), rtol, atol
    )


def load_onnxruntime() -> ModuleType:
    """Return onnxruntime, loaded now if it was not before."""
    import onnxruntime

    module: ModuleType = onnxruntime
    return module


class ReferenceSession:
    """The original file in onnxruntime, on the CPU.

    Raises:
        FileNotFoundError: There is no such file.
        IsADirectoryError: It is a folder.
        VerificationError: onnxruntime cannot load it.
    """

    def __init__(self, model: str | os.PathLike[str], num_threads: int = 0) -> None:
        from pathlib import Path

        onnxruntime = load_onnxruntime()
        self.path = Path(model)
        if self.path.is_dir():
            raise IsADirectoryError(f"{self.path}: this is a folder; give the .onnx file in it")
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such file")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(self.path), options, providers=["CPUExecutionProvider"]
            )
        # onnxruntime's errors share no base class with a name of its own.
        except Exception as error:
            raise VerificationError(
                f"{self.path}: onnxruntime cannot load it, so there is nothing to compare with; "
                f"want the ONNX file that the module was compiled from: {error}"
            ) from error

    def run(
        self, output_names: Sequence[str], feeds: dict[str, NDArray[Any]]
    ) -> list[NDArray[Any]]:
        """Return the named outputs.

        Raises:
            VerificationError: onnxruntime cannot run these feeds, or has no such output.
        """
        try:
            result: list[NDArray[Any]] = self._session.run(list(output_names), feeds)
        except Exception as error:
            raise VerificationError(f"{self.path}: onnxruntime cannot run it: {error}") from error
        return result


class _Total:
    """The errors of one output so far."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.max_abs = 0.0
        self.max_rel = 0.0
        self.elements = 0
        self.mismatched = 0
        self.worst = ""

    def add(
        self, sample: str, found: NDArray[Any], wanted: NDArray[Any], rtol: float, atol: float
    ) -> None:
        self.elements += wanted.size
        self.worst = self.worst or sample
        if found.shape != wanted.shape:
            self.max_abs, self.max_rel, self.worst = math.inf, math.inf, sample
            self.mismatched += max(found.size, wanted.size)
            return
        if not wanted.size:
            return
        absolute = absolute_errors(found, wanted)
        magnitude = np.abs(wanted.astype(np.float64))
        bound = atol + rtol * np.where(np.isfinite(magnitude), magnitude, 0.0)
        self.mismatched += int(np.count_nonzero(absolute > bound))
        if absolute.max() > self.max_abs:
            self.max_abs, self.worst = float(absolute.max()), sample
        telling = (magnitude > atol) & np.isfinite(magnitude)
        if telling.any():
            self.max_rel = max(self.max_rel, float((absolute[telling] / magnitude[telling]).max()))

    def errors(self) -> OutputErrors:
        return OutputErrors(
            self.name, self.max_abs, self.max_rel, self.elements, self.mismatched, self.worst
        )


def absolute_errors(found: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.float64]:
    """Return ``|found - wanted|``, 0 where both are NaN or the same infinity.

    Infinite where only one of the two is NaN or infinite, or the infinities differ in sign.
    """
    ours, theirs = found.astype(np.float64), wanted.astype(np.float64)
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    finite = np.isfinite(ours) & np.isfinite(theirs)
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs(ours - theirs)
    result: NDArray[np.float64] = np.where(same, 0.0, np.where(finite, distance, np.inf))
    return result


def _all_feeds(
    session: Runnable, dims: Mapping[str, int], samples: int, seed: int
) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    """Yield feeds by name: random ones, of other sizes in turn where they are open, edge cases."""
    spans = {name: span for name, span in session.open_dims.items() if name not in dims}
    sizes: list[dict[str, int]] = [{}]
    if spans:
        sizes += [
            {name: min(low + more, high) for name, (low, high) in spans.items()} for more in _MORE
        ]
    for index in range(samples):
        chosen = sizes[index % len(sizes)]
        words = ", ".join(f"{name}={size}" for name, size in chosen.items())
        name = f"random.{index} ({words})" if words else f"random.{index}"
        yield name, random_feeds(session.sized_inputs({**dims, **chosen}), seed + index)
    yield from edge_case_feeds(session.sized_inputs(dims), seed).items()
