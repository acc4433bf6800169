"""The runtime's session, which here also takes a compiled module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from hocket.runtime import session

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from hocket.runtime.artifact import Artifact
    from hocket.runtime.session import SessionOptions


class HasArtifact(Protocol):
    """What a session needs of a ``CompiledModule``, which is made on top of this file."""

    @property
    def artifact(self) -> Artifact:
        """What to run."""
        ...


class InferenceSession(session.InferenceSession):
    """Runs a compiled module, by the conventions of onnxruntime's class of this name.

    Args:
        path_or_module: Path of a ``.hkt`` file, or a module that is already in memory.
        sess_options: Threads and profiling.
        providers: For those who come from onnxruntime; ``CPUExecutionProvider`` is all there is.
        expected_digest: Refuse the module if its digest is another.

    Raises:
        ArtifactError: The file is truncated, tampered with, of another version, or not the
            expected one.
        ValueError: An option is out of range, or a provider is unknown.
    """

    def __init__(
        self,
        path_or_module: str | os.PathLike[str] | Artifact | HasArtifact,
        sess_options: SessionOptions | None = None,
        providers: Sequence[str] | None = None,
        *,
        expected_digest: str | None = None,
    ) -> None:
        # By attribute, not by type: `module.py` imports this file, so this one may not import it.
        artifact: Any = getattr(path_or_module, "artifact", path_or_module)
        super().__init__(artifact, sess_options, providers, expected_digest=expected_digest)
