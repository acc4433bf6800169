"""ONNX files of the definitions, made once and kept in a folder."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import sys
import warnings
from contextlib import contextmanager
from importlib import metadata
from typing import TYPE_CHECKING, Any

from zoo.models import Definition, Variant, ZooError, shape_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

INSTALL = 'pip install -e ".[zoo]" -c constraints.txt'

_MADE_BY = ("torch", "transformers", "onnxscript")


def default_cache() -> Path:
    """Return the folder for files that are made once, below the user's cache."""
    from platformdirs import user_cache_path

    return user_cache_path("hocket") / "zoo"


def find_missing() -> str | None:
    """Return what must be installed before anything can be exported; None if nothing."""
    for package in _MADE_BY:
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            return f"{package} is not installed: {INSTALL}"
    return None


def export(definition: Definition, variant: Variant, cache: Path) -> Path:
    """Return the ONNX file of a definition, which is made now if it was not before.

    Args:
        definition: Of the zoo.
        variant: One of its variants.
        cache: Folder in which files are kept; made if need be.

    Raises:
        ZooError: Something is not installed, or torch cannot make the file; then with its reason.
    """
    missing = find_missing()
    if missing is not None:
        raise ZooError(missing)
    path = cache / file_name(definition, variant)
    if path.exists():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        _export(definition, variant, temporary)
        temporary.replace(path)
    except ZooError:
        raise
    # An exporter fails with whatever the code that it traces raises: each is its reason.
    except Exception as error:
        raise ZooError(f"torch cannot export it: {reason_of(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def file_name(definition: Definition, variant: Variant) -> str:
    """Return a name that tells everything apart that a file depends on."""
    text = "".join(
        [
            *(inspect.getsource(module) for module in dict.fromkeys(_modules(definition))),
            repr((definition.inputs, sorted(definition.sample.items()))),
            *(f"{package} {metadata.version(package)}" for package in _MADE_BY),
        ]
    )
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{definition.name}-{str(variant).replace(' ', '-')}-{digest}.onnx"


def reason_of(error: BaseException) -> str:
    """Return the innermost reason of an error, in one line.

    Exporters wrap what went wrong in pages of advice.
    """
    seen = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        current = current.__cause__
    lines = [line.strip() for line in str(seen[-1]).splitlines() if line.strip()]
    return f"{type(seen[-1]).__name__}: {lines[0] if lines else 'without a word'}"


def _modules(definition: Definition) -> tuple[ModuleType, ModuleType]:
    """Return the module that a definition is built by, and the one that all share."""
    name = definition.build.rpartition(".")[0]
    return importlib.import_module(f"zoo.{name}"), importlib.import_module("zoo.modules")


def _export(definition: Definition, variant: Variant, path: Path) -> None:
    import torch

    own, shared = _modules(definition)
    torch.manual_seed(0)
    module = getattr(own, definition.build.rpartition(".")[2])(variant.implementation)
    if not definition.weights:
        shared.randomize(module)
    # The exporter puts back a module that was left in training mode, and so does its reference.
    module.eval()
    inputs = _sample(definition)
    names = [each.name for each in definition.inputs]
    open_axes = {
        each.name: {axis: part for axis, part in enumerate(each.shape) if isinstance(part, str)}
        for each in definition.inputs
    }
    settings: dict[str, Any] = {"opset_version": variant.opset, "input_names": names}
    if variant.exporter == "legacy":
        settings |= {"dynamo": False, "dynamic_axes": open_axes}
    else:
        dynamic = torch.export.Dim.DYNAMIC
        shapes = {name: dict.fromkeys(axes, dynamic) for name, axes in open_axes.items()}
        settings |= {
            "dynamo": True,
            "dynamic_shapes": shapes,
            "external_data": False,
            "verbose": False,
        }
    with _silence(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, inputs, str(path), **settings)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep exporters from the terminal: what they say is advice for whoever wrote the model.

    By the files themselves, for a graph that cannot be exported is printed by the C++ below.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = {number: os.dup(number) for number in (1, 2)}
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in kept:
            os.dup2(nowhere, number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in kept.items():
            os.dup2(copy, number)
            os.close(copy)
        os.close(nowhere)


def _sample(definition: Definition) -> tuple[Any, ...]:
    import torch

    generator = torch.Generator().manual_seed(0)
    tensors = []
    for each in definition.inputs:
        shape = shape_at(each, definition.sample)
        if not each.high:
            tensors.append(torch.randn(shape, generator=generator))
        elif each.high == 2:  # a padding mask
            tensors.append(torch.ones(shape, dtype=torch.int64))
        else:
            tensors.append(torch.randint(0, each.high, shape, generator=generator))
    return tuple(tensors)
