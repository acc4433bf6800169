"""A compiled model, and the two ways to come by one: compile it, or load what was compiled."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import onnx
    import onnx_ir

    from hocket.compiler.options import CompileOptions
    from hocket.hwmodels.machine import HardwareModel
    from hocket.inference import InferenceSession
    from hocket.runtime.artifact import Artifact
    from hocket.runtime.signature import Signature, TensorSpec


@dataclass(frozen=True)
class CompiledModule:
    """A model compiled for one machine: an ``Artifact`` with what people ask of it at hand.

    Example:
        >>> module = hocket.compile("model.onnx", dims={"batch": 1})  # doctest: +SKIP
        >>> module.save("model.hkt")  # doctest: +SKIP
        >>> outputs = module.session().run(None, feeds)  # doctest: +SKIP
    """

    artifact: Artifact

    @property
    def target(self) -> HardwareModel:
        """The machine it was compiled for."""
        return self.artifact.target

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""
        return self.artifact.signature

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Its inputs, in the model's order."""
        return self.artifact.signature.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Its outputs, in the model's order."""
        return self.artifact.signature.outputs

    @property
    def digest(self) -> str:
        """The digest over every byte, to be given to whoever must run this and nothing else."""
        return self.artifact.digest

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it to one file, customarily ``NAME.hkt``, and return the path.

        The file appears whole or not at all.
        """
        from pathlib import Path

        from hocket.runtime.artifact import save_artifact

        save_artifact(self.artifact, Path(path))
        return Path(path)

    def export(
        self,
        folder: str | os.PathLike[str],
        triple: str,
        *,
        cpu: str = "",
        kind: str = "onnxruntime",
        dims: Mapping[str, int] | None = None,
    ) -> dict[str, Any]:
        """Write what runs on a device without Python, and return its manifest.

        See ``compiler.export.driver.export_artifact``.
        """
        from hocket.compiler.export.driver import export_artifact

        return export_artifact(self.artifact, folder, triple=triple, cpu=cpu, kind=kind, dims=dims)

    def session(self, **options: Any) -> InferenceSession:
        """Return a session that runs it; ``options`` are those of ``SessionOptions``."""
        from hocket.inference import InferenceSession
        from hocket.runtime.session import SessionOptions

        return InferenceSession(self, SessionOptions(**options))


def compile(  # noqa: A001 (hocket.compile is the name of the field)
    model: str | os.PathLike[str] | bytes | onnx.ModelProto | onnx_ir.Model,
    target: str | os.PathLike[str] | HardwareModel = "host",
    dims: Mapping[str, int | str | tuple[int, int]] | None = None,
    *,
    num_threads: int | None = None,
    options: CompileOptions | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> CompiledModule:
    """Compile an ONNX model for a machine.

    Args:
        model: Path or bytes of an ONNX file, or a model in memory, which is left as it is.
        target: Name of a built-in machine, path of a TOML file that describes one, or a machine.
        dims: A size for each symbolic dimension of the inputs; two sizes, the least and the
            largest, for one that is to stay open: the module then takes any size between them; text
            for one that is a sum of others (``past + new``), where the file has a name of its own.
        num_threads: Threads that the compiled module is tuned for; all cores by default.
        options: The finer switches of the compiler.
        progress: Called as ``progress(what, done, total)`` as the work goes on.

    Raises:
        ModelError: The model cannot be read, or a dimension has no size.
        TargetError: The machine is unknown, or its description wrong.
        InfeasibleError: An attention does not fit the machine in any tiling.
    """
    from hocket.compiler.driver import compile_model
    from hocket.compiler.options import CompileOptions

    if options is None:
        options = CompileOptions()
    if num_threads is not None:
        options = dataclasses.replace(options, num_threads=num_threads)
    artifact = compile_model(model, target=target, dims=dims, options=options, progress=progress)
    return CompiledModule(artifact)


def load(path: str | os.PathLike[str], *, expected_digest: str | None = None) -> CompiledModule:
    """Load what ``CompiledModule.save`` wrote.

    Args:
        path: The file.
        expected_digest: Refuse the file if its digest is another.

    Raises:
        ArtifactError: The file is truncated, tampered with, or of another version.
    """
    from pathlib import Path

    from hocket.runtime.artifact import load_artifact

    return CompiledModule(load_artifact(Path(path), expected_digest=expected_digest))
