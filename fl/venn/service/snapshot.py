"""A manager as bytes and back, with all that its decisions depend on.

The bytes are a pickle, because a scheduler is a web of objects that no table mirrors and each
change of it would have to be told twice. It stays in the journal's own file, and is read by a
reader that knows the scheduler's classes and numpy's numbers, and nothing that could run code.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

from hocket.fl.venn.service.errors import JournalError
from hocket.fl.venn.service.manager import ResourceManager

_PACKAGE = "hocket.fl.venn."
_SERVICE = ("hocket.fl.venn.service.manager", "hocket.fl.venn.service.answers")
_OTHERS = {
    *(("collections", name) for name in ("OrderedDict", "deque")),
    *(("numpy", name) for name in ("dtype", "ndarray")),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.random._pcg64", "PCG64"),
    *(("numpy.random._pickle", f"__{name}_ctor") for name in ("bit_generator", "generator")),
    ("numpy.random.bit_generator", "SeedSequence"),
    ("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"),
}


_UNREADABLE = (
    *(pickle.UnpicklingError, AttributeError, EOFError, ImportError, IndexError, KeyError),
    *(TypeError, ValueError),
)


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name) if _is_ours(module) else None
        if isinstance(found, type) and found.__module__ == module:
            return found
        if (module, name) in _OTHERS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds a {module}.{name}")


def _is_ours(module: str) -> bool:
    """Whether a module has what schedulers are made of; one of the service opens files."""
    return module in _SERVICE or (
        module.startswith(_PACKAGE) and not module.startswith(f"{_PACKAGE}service")
    )


def write_snapshot(manager: ResourceManager) -> bytes:
    """Return a manager as bytes."""
    return pickle.dumps(manager, protocol=5)


def read_snapshot(content: bytes) -> ResourceManager:
    """Return the manager that bytes hold.

    Raises:
        JournalError: They hold none.
    """
    try:
        found = _Reader(io.BytesIO(content)).load()
    except _UNREADABLE as error:
        raise JournalError(f"the snapshot cannot be read: {error}") from error
    if not isinstance(found, ResourceManager):
        raise JournalError(f"the snapshot holds a {type(found).__name__}")
    return found
