"""The dataflows there are, by the name a user gives: who works when, on what, and beside whom.

One row block goes through scores (C), softmax (P) and output (O). Dataflows differ in what runs
side by side, in what stays on chip, and in which of the tiling's choices they leave open::

    layerwise     matrix C0 C1 C2 ..           O0 O1 O2     scores and probabilities go to DRAM
                  vector              P0 P1 P2
    soft_pipe     matrix C0 C1 C2 ..     O0 O1 O2           probabilities go to DRAM
                  vector    P0 P1 P2
    flat          matrix C0    O0 C1    O1 C2    O2         all on chip, units take turns
                  vector    P0       P1       P2
    tileflow      matrix C0 | C1 | C2 O0 | C3 O1 | O2 | O3  a turn ends when all stages are done
                  vector    | P0 | P1    | P2    | P3 |
    fusemax       matrix C00 C01 O00 C02 O01 ..             tile by tile, online softmax
                  vector     P00 P01 ..
    mas           matrix C0 C1 O0 C2 O1 C3 O2 O3            MAS-Attention: one row block apart
                  vector    P0 P1    P2    P3
    hocket        as mas or fusemax, whichever tiling is best, and more (see below)

``hocket`` is our own. All cores may work on one head, so that its keys and values are on chip once
and work is shared out row by row; query heads that share keys and values are stacked into one
product; what causality hides is not computed; the division may move from the probabilities to the
output, or softmax may be online; more than two row blocks may be in flight; the first ones begin as
a wave front on the keys that have arrived, and the last ones taper off. For few queries the cores
may split the keys instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from hocket.compiler.attention.schedule import steps as st
from hocket.compiler.attention.tiling import Softmax, Split

_FULL = (Softmax.FULL_ROW,)
_HEADS = (Split.HEADS,)

SPILLS = {
    st.PIPELINE: (False, False),
    st.LOCK_STEP: (False, False),
    st.LAYERS: (True, True),
    st.LAYERS_WITH_SOFTMAX: (False, True),
}
"""Whether scores, and probabilities, go to DRAM and back, by pace: they do between operators that
are not fused."""

LOCK_STEP_BLOCKS = 3
"""Row blocks between scores and output where three stages keep step."""


@dataclass(frozen=True)
class Dataflow:
    """A way to order the tiles of an attention problem, and the choices it leaves to a search.

    ``hocket.simulate`` and ``CompileOptions`` take one of your own in place of a name; see
    ``docs/writing-a-dataflow.md``.

    Attributes:
        name: What users call it.
        source: Where it comes from, and what we assumed where that is silent.
        pace: ``PIPELINE``, ``LOCK_STEP``, ``LAYERS`` or ``LAYERS_WITH_SOFTMAX`` of ``steps.py``.
        softmaxes, splits, live_blocks: What the tiling may choose from.
        skips_future: Whether scores that causality hides from a whole row block are left out.
        stacks_heads: Whether query heads that share keys and values may be stacked.
        tapers: Whether the last row blocks get smaller.
        fills: Whether the first row blocks may work as a wave front.
        overwrites: Whether fewer key and value tiles than a head has may be kept on chip, and the
            others loaded again over them.

    Raises:
        ValueError: The choices do not go together, so that no program could follow them.
    """

    name: str
    source: str
    pace: int
    softmaxes: tuple[Softmax, ...]
    splits: tuple[Split, ...]
    live_blocks: tuple[int, ...]
    skips_future: bool = False
    stacks_heads: bool = False
    tapers: bool = False
    fills: bool = False
    overwrites: bool = True

    def __post_init__(self) -> None:
        reason = self._why_empty() or self._why_impossible()
        if reason:
            raise ValueError(f"dataflow {self.name!r}: {reason}")

    @property
    def spills_scores(self) -> bool:
        """Whether scores go to DRAM and back."""
        return SPILLS[self.pace][0]

    @property
    def spills_probabilities(self) -> bool:
        """Whether probabilities go to DRAM and back."""
        return SPILLS[self.pace][1]

    def _why_empty(self) -> str:
        """Return which choice is none; empty if all are."""
        live = list(self.live_blocks)
        if not self.name:
            return "want a name"
        if not (self.softmaxes and self.splits and live):
            return "want at least one of softmaxes, of splits and of live_blocks"
        if live[0] < 1 or live != sorted(set(live)):
            return f"want live_blocks from 1 on, ascending, got {self.live_blocks}"
        return ""

    def _why_impossible(self) -> str:
        """Return why no program could follow the choices together; empty if one can."""
        if self.pace not in SPILLS:
            return f"there is no pace {self.pace!r}; steps.py has those there are"
        if self.pace != st.PIPELINE and (self.softmaxes, self.splits) != (_FULL, _HEADS):
            return "softmax of another form, and cores that share heads, want the pace PIPELINE"
        if self.splits == (Split.KEYS,) and self.softmaxes == _FULL:
            return "keys can be split where softmax is deferred or online, not a full row"
        if self.pace == st.LOCK_STEP and self.live_blocks[0] < LOCK_STEP_BLOCKS:
            return f"three stages want at least {LOCK_STEP_BLOCKS} live_blocks"
        return ""


DATAFLOWS = {
    dataflow.name: dataflow
    for dataflow in (
        Dataflow(
            "layerwise",
            "no fusion: three operators one after the other, each tiled",
            st.LAYERS,
            _FULL,
            _HEADS,
            live_blocks=(1, 2),
        ),
        Dataflow(
            "soft_pipe",
            "scores and softmax fused and overlapped, output an operator of its own (a baseline of "
            "MAS-Attention, arXiv 2411.17720; which two are fused is our assumption)",
            st.LAYERS_WITH_SOFTMAX,
            _FULL,
            _HEADS,
            live_blocks=(2, 3),
        ),
        Dataflow(
            "flat",
            "FLAT, arXiv 2107.06419: row-granular fusion, units in turn, transfers prefetched",
            st.PIPELINE,
            _FULL,
            _HEADS,
            live_blocks=(1,),
        ),
        Dataflow(
            "tileflow",
            "a three-stage pipeline whose turn lasts as long as its slowest stage, the way the "
            "tree model of TileFlow (MICRO 2023) adds up a pipeline scope; row-granular, as exact "
            "softmax asks for",
            st.LOCK_STEP,
            _FULL,
            _HEADS,
            live_blocks=(3,),
        ),
        Dataflow(
            "fusemax",
            "FuseMax, MICRO 2024: one pass over keys with a running maximum and sum, division at "
            "the end, both units pipelined tile by tile",
            st.PIPELINE,
            (Softmax.ONLINE,),
            _HEADS,
            live_blocks=(2, 3),
        ),
        Dataflow(
            "mas",
            "MAS-Attention, MLSys 2025 (arXiv 2411.17720): two streams one row block apart, "
            "row-granular softmax, keys and values overwritten and reloaded where memory is short",
            st.PIPELINE,
            _FULL,
            _HEADS,
            live_blocks=(2,),
        ),
        Dataflow(
            "hocket",
            "our own",
            st.PIPELINE,
            tuple(Softmax),
            tuple(Split),
            live_blocks=(1, 2, 4, 8),
            skips_future=True,
            stacks_heads=True,
            tapers=True,
            fills=True,
        ),
    )
}


def find_dataflow(dataflow: str | Dataflow) -> Dataflow:
    """Return a dataflow of ``DATAFLOWS`` by its name, or the one that is given.

    Raises:
        ValueError: There is none of this name, or one of one's own has the name of another.
    """
    if not isinstance(dataflow, Dataflow):
        if dataflow not in DATAFLOWS:
            names = ", ".join(DATAFLOWS)
            raise ValueError(f"unknown dataflow {dataflow!r}; there are auto, {names}")
        return DATAFLOWS[dataflow]
    if DATAFLOWS.get(dataflow.name, dataflow) != dataflow:
        raise ValueError(
            f"dataflow {dataflow.name!r} is not the built-in one of this name; results would be "
            "taken for those of the other, so give it a name of its own"
        )
    return dataflow
