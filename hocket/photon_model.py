"""The GPT decoders that Photon trains, compiled; and what makes a client's model of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from hocket.fl.photon.sizes import GptSize
    from hocket.runtime.artifact import Artifact


def compile_gpt(
    size: GptSize,
    seed: int = 0,
    max_batch: int = 64,
    *,
    target: str = "host",
    num_threads: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> Artifact:
    """Return a decoder as a compiled module, which training and evaluation run.

    It is compiled once: rounds change its weights and nothing else.

    Args:
        size: Of the decoder.
        seed: Of the weights it begins with.
        max_batch: Sequences of a batch at most.
        target: The machine to compile for.
        num_threads: Threads that it is tuned for.
        progress: Of the compilation, as ``hocket.compile`` takes it.
    """
    from hocket.fl.photon.gpt import BATCH, Gpt, export_gpt
    from hocket.module import compile  # noqa: A004

    file = export_gpt(Gpt(size, seed), size)
    dims = {BATCH: (1, max_batch)}
    return compile(file, target, dims, num_threads=num_threads, progress=progress).artifact
