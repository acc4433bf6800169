"""What is timed: attention problems by kind, the arrays they work on, and the right answers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from workloads import QUICK, WORKLOADS

from hocket.compiler.problem import AttentionProblem, MaskKind
from hocket.hwmodels.dtypes import DType

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOTATION = "heads,q_len,kv_len,head_dim[,kv_heads=K][,causal][,mask][,exported]"
FLAGS = ("causal", "mask", "exported")

# Of a longer output only this many rows of each head are checked, spread over it: its scores in
# float64 would take gigabytes.
MAX_CHECKED_LENGTH = 4096
_SAMPLED_ROWS = 256

_SIZE_NAMES = ("heads", "q_len", "kv_len", "head_dim")
_SEQUENCE = 4096
_LONG = {"4k": (1, 4096, 64), "16k": (1, 16384, 64)}
_DECODE = {
    "32x128": (32, 32, 128),
    "8x4x128": (32, 8, 128),
    "8x8x128": (64, 8, 128),
    "8x64": (8, 8, 64),
}
# As Llama 3 has them, and a smaller model.
_GROUPED = {"Llama3-8B": (32, 8, 512, 128), "Small": (8, 2, 512, 64)}


class ProblemError(ValueError):
    """A problem on the command line that cannot be read, or that nobody could compute."""


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        kind: What it stands for: a name of ``kinds.KINDS``.
        name: Whose attention it is; empty for one from the command line.
        problem: What to compute; batch 1.
        is_exported: Whether operands lie as models of exporters have them,
            ``[batch, rows, heads * columns]``, instead of ``[batch, heads, rows, columns]``.
    """

    kind: str
    name: str
    problem: AttentionProblem
    is_exported: bool = False

    @property
    def text(self) -> str:
        """The problem in the notation of the command line."""
        problem = self.problem
        parts = [problem.query_heads, problem.query_length, problem.kv_length, problem.head_dim]
        words = [str(part) for part in parts]
        if problem.kv_heads != problem.query_heads:
            words.append(f"kv_heads={problem.kv_heads}")
        flags = (problem.is_causal, problem.mask is not MaskKind.NONE, self.is_exported)
        words += [flag for flag, is_set in zip(FLAGS, flags, strict=True) if is_set]
        return ",".join(words)

    @property
    def kv_bytes(self) -> int:
        """Bytes of key and value, which a decode step must read."""
        problem = self.problem
        columns = problem.head_dim + problem.value_dim
        return problem.kv_heads * problem.kv_length * columns * problem.dtype.itemsize


@dataclass(frozen=True)
class Expected:
    """Right rows of an output.

    Attributes:
        rows: Which rows of each head these are.
        output: float64 ``[batch, heads, rows, columns]``.
    """

    rows: NDArray[np.intp]
    output: NDArray[np.float64]

    def error(self, computed: NDArray[np.float32]) -> float:
        """Return the largest absolute error of an output, NaN counted as infinite."""
        if computed.shape[2] <= self.rows[-1]:
            return float("inf")
        distance = np.abs(computed[:, :, self.rows] - self.output)
        return float(np.nan_to_num(distance, nan=np.inf).max())


class Operands:
    """The arrays of a case, standard normal, in each layout that a library may ask for.

    Attributes:
        case: Whose they are.
        query, key, value: float32 ``[batch, heads, rows, columns]``.
        mask: float32 ``[1, 1, q_len, kv_len]``, to be added to the scores; None without one.
    """

    def __init__(self, case: Case, seed: int = 0) -> None:
        problem = case.problem
        generator = np.random.default_rng(seed)

        def draw(*shape: int) -> NDArray[np.float32]:
            return generator.standard_normal(shape, dtype=np.float32)

        self.case = case
        self.query = draw(1, problem.query_heads, problem.query_length, problem.head_dim)
        self.key = draw(1, problem.kv_heads, problem.kv_length, problem.head_dim)
        self.value = draw(1, problem.kv_heads, problem.kv_length, problem.value_dim)
        self.mask = None if problem.mask_shape is None else draw(*problem.mask_shape)

    @property
    def problem(self) -> AttentionProblem:
        """What is computed on them."""
        return self.case.problem

    @property
    def arrays(self) -> list[NDArray[np.float32]]:
        """All arrays that were made so far, in either layout."""
        made = vars(self)
        masks = [mask for mask in (self.mask, made.get("causal_mask")) if mask is not None]
        return [self.query, self.key, self.value, *made.get("merged", ()), *masks]

    @cached_property
    def merged(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Query, key and value as ``[batch, rows, heads * columns]``."""
        return merge_heads(self.query), merge_heads(self.key), merge_heads(self.value)

    @cached_property
    def causal_mask(self) -> NDArray[np.float32]:
        """Causality as exporters write it: minus infinity above the diagonal, to be added."""
        problem = self.problem
        seen = np.tri(problem.query_length, problem.kv_length, dtype=bool)
        return np.where(seen, np.float32(0), np.float32(-np.inf))[None, None]


def merge_heads(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``[batch, heads, rows, columns]`` as ``[batch, rows, heads * columns]``."""
    batch, heads, rows, columns = array.shape
    return np.ascontiguousarray(array.swapaxes(1, 2)).reshape(batch, rows, heads * columns)


def split_heads(array: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Return ``[batch, rows, heads * columns]`` as ``[batch, heads, rows, columns]``."""
    batch, rows, columns = array.shape
    return array.reshape(batch, rows, heads, columns // heads).swapaxes(1, 2)


def attend(operands: Operands) -> Expected:
    """Compute an attention in float64 and the plainest numpy."""
    problem = operands.problem
    length = problem.query_length
    count = length if length <= MAX_CHECKED_LENGTH else _SAMPLED_ROWS
    rows = np.linspace(0, length - 1, count).astype(np.intp)
    output = np.empty((1, problem.query_heads, count, problem.value_dim))
    for head in range(problem.query_heads):
        key, value = (
            array[0, head // problem.group_size].astype(np.float64)
            for array in (operands.key, operands.value)
        )
        scores = problem.scale * (operands.query[0, head, rows].astype(np.float64) @ key.T)
        if operands.mask is not None:
            scores += operands.mask[0, 0, rows]
        if problem.is_causal:
            scores[np.arange(problem.kv_length) > rows[:, None]] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        output[0, head] = weights @ value / weights.sum(axis=-1, keepdims=True)
    return Expected(rows, output)


def forward_flops(problem: AttentionProblem) -> float:
    """Return the operations of both products, of the scores that must be computed."""
    return 2.0 * problem.num_macs


def parse_problem(text: str) -> Case:
    """Read a case in ``NOTATION``; its kind is what is most particular about it.

    Raises:
        ProblemError: A part is missing, unknown or out of range.
    """
    words = [word.strip() for word in text.split(",")]
    sizes = [_size(text, name, word) for name, word in zip(_SIZE_NAMES, words, strict=False)]
    if len(sizes) < len(_SIZE_NAMES):
        missing = ", ".join(_SIZE_NAMES[len(sizes) :])
        raise ProblemError(f"problem {text!r} lacks {missing}; write {NOTATION}")
    heads, query_length, kv_length, head_dim = sizes
    kv_heads = heads
    flags = set()
    for word in words[len(_SIZE_NAMES) :]:
        key, _, number = word.partition("=")
        if key == "kv_heads":
            kv_heads = _size(text, key, number)
        elif word in FLAGS:
            flags.add(word)
        else:
            known = ", ".join(("kv_heads=K", *FLAGS))
            raise ProblemError(f"problem {text!r} has the unknown part {word!r}; known: {known}")
    if heads % kv_heads:
        raise ProblemError(
            f"problem {text!r}: kv_heads must divide heads, and {kv_heads} does not divide {heads}"
        )
    if "causal" in flags and query_length == 1 < kv_length:
        raise ProblemError(
            f"problem {text!r}: a causal query of length 1 sees only the first key (query row i "
            "sees keys j <= i); leave causal out to attend to all keys, as decoding does"
        )
    problem = make_problem(
        heads,
        kv_heads,
        (query_length, kv_length),
        head_dim,
        is_causal="causal" in flags,
        is_masked="mask" in flags,
    )
    return Case(_kind(problem, is_exported="exported" in flags), "", problem, "exported" in flags)


def make_problem(
    heads: int,
    kv_heads: int,
    lengths: tuple[int, int],
    head_dim: int,
    *,
    is_causal: bool = False,
    is_masked: bool = False,
) -> AttentionProblem:
    """Return an attention of batch 1 in float32, its mask shared by all heads."""
    return AttentionProblem(
        batch=1,
        query_heads=heads,
        kv_heads=kv_heads,
        query_length=lengths[0],
        kv_length=lengths[1],
        head_dim=head_dim,
        value_dim=head_dim,
        dtype=DType.FLOAT32,
        scale=head_dim**-0.5,
        mask=MaskKind.ADDITIVE if is_masked else MaskKind.NONE,
        mask_shape=(1, 1, *lengths) if is_masked else None,
        is_causal=is_causal,
    )


def forward_cases(kind: str, *, is_quick: bool) -> list[Case]:
    """Return the cases of a kind of forward attention."""
    if kind == "decode":
        shapes = {"8x64": _DECODE["8x64"]} if is_quick else _DECODE
        return [
            Case(kind, name, make_problem(heads, kv_heads, (1, _SEQUENCE), dim))
            for name, (heads, kv_heads, dim) in shapes.items()
        ]
    if kind == "gqa":
        chosen = list(_GROUPED.items())[-1:] if is_quick else list(_GROUPED.items())
        return [
            Case(
                kind,
                f"{name} causal" if causal else name,
                make_problem(heads, kv_heads, (length, length), dim, is_causal=causal),
            )
            for name, (heads, kv_heads, length, dim) in chosen
            for causal in ((True,) if is_quick else (False, True))
        ]
    networks = {name: WORKLOADS[name] for name in QUICK} if is_quick else WORKLOADS | _LONG
    if is_quick and kind != "dense":
        networks = {QUICK[0]: networks[QUICK[0]]}
    return [
        Case(
            kind,
            name,
            make_problem(
                heads,
                heads,
                (length, length),
                dim,
                is_causal=kind == "causal",
                is_masked=kind == "mask",
            ),
            is_exported=kind == "exported",
        )
        for name, (heads, length, dim) in networks.items()
        # A mask of 16k by 16k is a gigabyte; models have none, and one head says nothing about
        # heads that are laid side by side.
        if not (name == "16k" and kind == "mask") and not (name in _LONG and kind == "exported")
    ]


def shrink(case: Case) -> Case:
    """Return a case like another, but tiny: to make a library load what it will need."""
    problem = case.problem
    query_length, kv_length = (min(n, 32) for n in (problem.query_length, problem.kv_length))
    small = dataclasses.replace(
        problem,
        query_length=query_length,
        kv_length=kv_length,
        mask_shape=None if problem.mask_shape is None else (1, 1, query_length, kv_length),
    )
    return dataclasses.replace(case, problem=small)


def _size(text: str, name: str, word: str) -> int:
    if not (word.isascii() and word.isdigit() and int(word)):
        raise ProblemError(
            f"problem {text!r}: {name} must be a whole number from 1, got {word!r}; "
            f"write {NOTATION}"
        )
    return int(word)


def _kind(problem: AttentionProblem, *, is_exported: bool) -> str:
    if problem.query_length == 1:
        return "decode"
    if problem.group_size > 1:
        return "gqa"
    if is_exported:
        return "exported"
    if problem.mask is not MaskKind.NONE:
        return "mask"
    return "causal" if problem.is_causal else "dense"
