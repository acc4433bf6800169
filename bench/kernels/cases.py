"""What is timed: attention problems by kind."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from workloads import QUICK, WORKLOADS

from hocket.compiler.problem import AttentionProblem, MaskKind
from hocket.hwmodels.dtypes import DType

NOTATION = "heads,q_len,kv_len,head_dim[,kv_heads=K][,causal][,mask][,exported][,bf16][,backward]"
FLAGS = ("causal", "mask", "exported", "bf16", "backward")

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
        is_backward: Whether the gradients of query, key and value are computed, from an output
            that is there already.
    """

    kind: str
    name: str
    problem: AttentionProblem
    is_exported: bool = False
    is_backward: bool = False

    @property
    def text(self) -> str:
        """The problem in the notation of the command line."""
        problem = self.problem
        parts = [problem.query_heads, problem.query_length, problem.kv_length, problem.head_dim]
        words = [str(part) for part in parts]
        if problem.kv_heads != problem.query_heads:
            words.append(f"kv_heads={problem.kv_heads}")
        flags = (
            problem.is_causal,
            problem.mask is not MaskKind.NONE,
            self.is_exported,
            problem.dtype is DType.BFLOAT16,
            self.is_backward,
        )
        words += [flag for flag, is_set in zip(FLAGS, flags, strict=True) if is_set]
        return ",".join(words)

    @property
    def kv_bytes(self) -> int:
        """Bytes of key and value, which a decode step must read."""
        problem = self.problem
        columns = problem.head_dim + problem.value_dim
        return problem.kv_heads * problem.kv_length * columns * problem.dtype.itemsize


def forward_flops(problem: AttentionProblem) -> float:
    """Return the operations of both products, of the scores that must be computed."""
    return 2.0 * problem.num_macs


def backward_flops(problem: AttentionProblem) -> float:
    """Return the operations of the five products of the gradients, likewise.

    These are the scores once more, the gradients of weights, query, key and value.
    """
    columns = 3 * problem.head_dim + 2 * problem.value_dim
    return 2.0 * problem.num_score_elements * columns


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
        dtype=DType.BFLOAT16 if "bf16" in flags else DType.FLOAT32,
    )
    case = Case("", "", problem, "exported" in flags, "backward" in flags)
    case = dataclasses.replace(case, kind=_kind(case))
    _check_kind(case, flags)
    return case


def make_problem(
    heads: int,
    kv_heads: int,
    lengths: tuple[int, int],
    head_dim: int,
    *,
    is_causal: bool = False,
    is_masked: bool = False,
    dtype: DType = DType.FLOAT32,
) -> AttentionProblem:
    """Return an attention of batch 1, its mask shared by all heads."""
    return AttentionProblem(
        batch=1,
        query_heads=heads,
        kv_heads=kv_heads,
        query_length=lengths[0],
        kv_length=lengths[1],
        head_dim=head_dim,
        value_dim=head_dim,
        dtype=dtype,
        scale=head_dim**-0.5,
        mask=MaskKind.ADDITIVE if is_masked else MaskKind.NONE,
        mask_shape=(1, 1, *lengths) if is_masked else None,
        is_causal=is_causal,
    )


def make_cases(kind: str, *, is_quick: bool) -> list[Case]:
    """Return the cases of a kind."""
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
    if kind == "backward":
        return _backward_cases(is_quick=is_quick)
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
                dtype=DType.BFLOAT16 if kind == "bf16" else DType.FLOAT32,
            ),
            is_exported=kind == "exported",
        )
        for name, (heads, length, dim) in networks.items()
        # A mask of 16k by 16k is a gigabyte; models have none, and one head says nothing about
        # heads that are laid side by side.
        if not (name == "16k" and kind == "mask") and not (name in _LONG and kind == "exported")
    ]


def _backward_cases(*, is_quick: bool) -> list[Case]:
    names = QUICK[:1] if is_quick else tuple(WORKLOADS)
    cases = []
    for name, (heads, length, dim) in ({n: WORKLOADS[n] for n in names} | _LONG).items():
        if name in _LONG and (is_quick or name == "16k"):
            continue
        cases += [
            Case(
                "backward",
                f"{name} causal" if causal else name,
                make_problem(heads, heads, (length, length), dim, is_causal=causal),
                is_backward=True,
            )
            # Networks that are trained by the next token, and one long sequence.
            for causal in ((False, True) if name in ("Llama3-8B", "4k") else (False,))
        ]
    return cases


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


def _kind(case: Case) -> str:
    problem = case.problem
    particular = {
        "backward": case.is_backward,
        "bf16": problem.dtype is DType.BFLOAT16,
        "decode": problem.query_length == 1,
        "gqa": problem.group_size > 1,
        "exported": case.is_exported,
        "mask": problem.mask is not MaskKind.NONE,
        "causal": problem.is_causal,
    }
    return next((kind for kind, is_so in particular.items() if is_so), "dense")


def _check_kind(case: Case, flags: set[str]) -> None:
    """Refuse what a kind is not timed with."""
    refused = {"backward": {"mask", "exported", "bf16"}, "bf16": {"mask", "exported"}}
    beside = flags & refused.get(case.kind, set())
    if beside:
        raise ProblemError(
            f"problem {case.text!r}: {case.kind} is not timed with {', '.join(sorted(beside))}; "
            "leave one of them out"
        )
    if case.kind in refused and case.problem.group_size > 1:
        raise ProblemError(
            f"problem {case.text!r}: {case.kind} is not timed with fewer heads of key and value "
            "than of query; leave kv_heads out"
        )
