"""Hocket: a dual-stream attention compiler for edge devices, and federations that run on it.

Nothing is loaded until a name is asked for.

```python
import hocket

module = hocket.compile("model.onnx", target="host", dims={"batch": 1, "seq": 128})
module.save("model.hkt")
outputs = hocket.InferenceSession("model.hkt").run(None, feeds)

result = hocket.simulate((12, 512, 64), target="mas-edge")  # no model: heads, rows, columns
print(result.explanation)

result = hocket.federate("federation.toml")  # trains across devices: docs/federated.md
```
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from hocket.federation import FederationResult, federate
    from hocket.hwmodels.loader import load_target
    from hocket.inference import InferenceSession
    from hocket.module import CompiledModule, compile, load  # noqa: A004
    from hocket.runtime.session import SessionOptions
    from hocket.simulation import simulate
    from hocket.simulation_result import SimulationResult

    __version__: str

__all__ = [
    "CompiledModule",
    "FederationResult",
    "InferenceSession",
    "SessionOptions",
    "SimulationResult",
    "__version__",
    "compile",
    "federate",
    "load",
    "load_target",
    "simulate",
]

_HOMES = {
    "CompiledModule": "hocket.module",
    "FederationResult": "hocket.federation",
    "InferenceSession": "hocket.inference",
    "SessionOptions": "hocket.runtime.session",
    "SimulationResult": "hocket.simulation_result",
    "compile": "hocket.module",
    "federate": "hocket.federation",
    "load": "hocket.module",
    "load_target": "hocket.hwmodels.loader",
    "simulate": "hocket.simulation",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        value: object = version("hocket")
    elif name in _HOMES:
        value = getattr(_import(_HOMES[name], name), name)
    else:
        raise AttributeError(f"module 'hocket' has no attribute {name!r}")
    globals()[name] = value
    return value


def _import(module: str, wanted: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        from hocket.installation import missing_package

        raise missing_package(error, f"hocket.{wanted}", ("fl",)) or error from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
