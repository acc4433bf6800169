"""Who may import whom: the table of ``docs/architecture.md``, and the test that keeps it true.

Every import statement counts for the table, wherever it stands: at the top of a module, inside a
function (late, but it still ties one layer to the other), and under ``TYPE_CHECKING`` (a name in an
annotation is knowledge, too). Only for circles do the last kind not count, as nobody runs them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from support.import_graph import Import, Place, find_circle, find_modules, read_imports

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        scope: A module; the row holds for it and all below it that have no row of their own.
        may: Modules of ours it may import, with all below them; itself always.
        packages: Packages of others it may import; the standard library always.
        is_planned: Whether it says what a module may that is not there yet.
    """

    scope: str
    may: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    is_planned: bool = False


GRAPH_MAY = (
    "hocket.compiler.errors",
    "hocket.compiler.problem",
    "hocket.hwmodels.dtypes",
    "hocket.hwmodels.sizes",
)
GRAPH_PACKAGES = ("numpy", "onnx", "onnx_ir", "onnxscript")
ATTENTION_MAY = ("hocket.compiler.errors", "hocket.compiler.problem", "hocket.hwmodels")
ARTIFACT = "hocket.runtime.artifact"
BACKENDS_MAY = ("hocket.fl.core", "hocket.fl.backends", "hocket.hwmodels", "hocket.runtime")
EVERYTHING = ("hocket",)

TABLE = (
    Row("hocket.hwmodels", (), ("ml_dtypes", "numpy", "numba")),
    Row(
        "hocket.runtime",
        ("hocket.hwmodels",),
        ("numpy", "numba", "llvmlite", "safetensors", "platformdirs"),
    ),
    Row("hocket.runtime.host", ("hocket.hwmodels", "hocket.runtime"), ("numpy", "onnxruntime")),
    Row("hocket.compiler", ("hocket.hwmodels",), ("numpy",)),
    # Only to say what a choice may be: a dataflow by its name, or one of the caller's.
    Row(
        "hocket.compiler.options",
        ("hocket.compiler.attention.schedule.dataflows", "hocket.hwmodels"),
        (),
    ),
    Row("hocket.compiler.graph", GRAPH_MAY, GRAPH_PACKAGES),
    Row("hocket.compiler.attention", ATTENTION_MAY, ("numpy", "numba", "platformdirs")),
    Row(
        "hocket.compiler.attention.search.cp_sat",
        (*ATTENTION_MAY, "hocket.compiler.attention"),
        ("numpy", "ortools"),
    ),
    Row(
        "hocket.compiler.attention.memory.exact",
        (*ATTENTION_MAY, "hocket.compiler.attention"),
        ("numpy", "ortools"),
    ),
    Row(
        "hocket.compiler.assemble",
        (
            "hocket.compiler.errors",
            "hocket.compiler.problem",
            "hocket.compiler.graph.regions",
            # Numbers leave a region's ONNX for the artifact's weights: the graph wing knows ONNX.
            "hocket.compiler.graph.host_model",
            "hocket.hwmodels",
            ARTIFACT,
            "hocket.runtime.steps",
            "hocket.runtime.signature",
            "hocket.runtime.resizing",
            "hocket.runtime.kernels.parameters",
        ),
        ("numpy", "onnx_ir"),
    ),
    Row(
        "hocket.compiler.resizing",
        (
            "hocket.compiler.problem",
            "hocket.compiler.graph.regions",
            "hocket.compiler.graph.resizable",
            "hocket.hwmodels.sizes",
            "hocket.runtime.resizing",
        ),
    ),
    Row(
        "hocket.compiler.export",
        (
            "hocket.compiler.errors",
            "hocket.hwmodels.dtypes",
            ARTIFACT,
            "hocket.runtime.cpu",
            "hocket.runtime.kernels",
            "hocket.runtime.sharing",
            "hocket.runtime.signature",
            "hocket.runtime.steps",
        ),
        ("numpy", "llvmlite", "numba"),
    ),
    # A module becomes one ONNX model again.
    Row(
        "hocket.compiler.export.onnx_model",
        (ARTIFACT, "hocket.compiler.export", "hocket.runtime.signature", "hocket.runtime.steps"),
        ("onnx", "onnx_ir"),
    ),
    Row(
        "hocket.compiler.export.driver",
        (
            "hocket.compiler.errors",
            "hocket.compiler.export",
            ARTIFACT,
            "hocket.runtime.files",
            "hocket.runtime.signature",
            "hocket.runtime.steps",
        ),
        ("llvmlite", "numba", "onnx_ir"),
    ),
    Row(
        "hocket.compiler.driver",
        # It asks the kernels' own check which problems they refuse, and that answers by an error.
        ("hocket.compiler", "hocket.hwmodels", ARTIFACT, "hocket.runtime.errors"),
        ("numpy", "onnx", "onnx_ir"),
    ),
    Row(
        "hocket.fl.core",
        ("hocket.hwmodels.machine", "hocket.runtime.files"),
        ("numpy", "safetensors"),
    ),
    Row("hocket.fl.core.sections", ("hocket.fl.core",), ("pydantic",)),
    Row("hocket.fl", ("hocket.fl.core",), ("numpy",)),
    Row(
        "hocket.fl.sim",
        ("hocket.fl.core", "hocket.hwmodels.loader", "hocket.hwmodels.machine"),
        ("numpy",),
    ),
    # Made from an artifact alone: it needs no compiler, and ONNX only to read host models.
    Row("hocket.fl.backends", BACKENDS_MAY, ("numpy", "torch")),
    *(
        Row(f"hocket.fl.backends.{name}", BACKENDS_MAY, ("numpy", "onnx", "torch"))
        for name in ("training_graph", "inference", "onnx_ops.constants")
    ),
    # Torch calls the runtime's kernels as its own: nothing of the federation is in that.
    Row(
        "hocket.fl.backends.attention_op",
        ("hocket.fl.backends.kernel_tensors", "hocket.runtime"),
        ("numpy", "torch"),
    ),
    Row(
        "hocket.fl.backends.kernel_tensors",
        ("hocket.hwmodels.dtypes", "hocket.runtime.errors"),
        ("numpy", "torch"),
    ),
    Row("hocket.fl.backends.torch", ("hocket.fl.core",), ("numpy", "torch"), is_planned=True),
    Row("hocket.fl.data", ("hocket.fl.core",), ("numpy", "datasets", "flwr_datasets")),
    Row(
        "hocket.fl.store",
        ("hocket.fl.core",),
        ("cachetools", "ml_dtypes", "numba", "numpy", "obstore", "sklearn", "threadpoolctl"),
    ),
    # A pass over updates takes as many cores as the kernels do.
    Row(
        "hocket.fl.store.workloads.means",
        ("hocket.fl.core", "hocket.fl.store", "hocket.runtime.cpu"),
        ("numba", "numpy"),
    ),
    Row(
        "hocket.fl.store.ray_instances",
        ("hocket.fl.core", "hocket.fl.store"),
        ("numpy", "ray", "threadpoolctl"),
    ),
    Row("hocket.fl.venn", ("hocket.fl.core",), ("numpy", "numba")),
    Row("hocket.fl.venn.exact", ("hocket.fl.core", "hocket.fl.venn"), ("numpy", "ortools")),
    # What services share is no wing of its own: the two that are served may know it.
    Row(
        "hocket.fl.service",
        ("hocket.fl.core", "hocket.runtime.files"),
        ("pydantic", "starlette", "uvicorn"),
    ),
    Row(
        "hocket.fl.venn.service",
        ("hocket.fl.core", "hocket.fl.service", "hocket.fl.venn"),
        ("httpx", "prometheus_client", "pydantic", "starlette"),
    ),
    Row(
        "hocket.fl.store.service",
        ("hocket.fl.core", "hocket.fl.service", "hocket.fl.store"),
        ("pydantic", "starlette"),
    ),
    # A decoder is written in torch, to be exported: what trains it is a backend.
    Row("hocket.fl.photon.gpt", ("hocket.fl.core", "hocket.fl.photon"), ("torch",)),
    Row(
        "hocket.fl.photon.tokenizer",
        ("hocket.fl.core", "hocket.runtime.files"),
        ("tokenizers",),
    ),
    # Masks and noise that nobody can draw again, and a kept accountant for what they hide.
    Row(
        "hocket.fl.photon.secure_sum",
        ("hocket.fl.core", "hocket.fl.photon"),
        ("numpy", "cryptography", "Crypto"),
    ),
    Row("hocket.fl.photon.noise", (), ("numpy", "cryptography")),
    Row("hocket.fl.photon.privacy", ("hocket.fl.core", "hocket.fl.photon"), ("numpy", "opacus")),
    # Collectives.
    Row("hocket.fl.photon.peers", ("hocket.fl.core", "hocket.fl.photon"), ("numpy", "torch")),
    Row("hocket.fl.photon.config", ("hocket.fl.core", "hocket.fl.photon"), ("pydantic",)),
    Row("hocket.fl.engines.local", ("hocket.fl.core",), ("pebble",)),
    Row("hocket.fl.config", ("hocket.fl.core",), ("pydantic",)),
    # Libraries of attacks are written for torch.
    Row(
        "hocket.fl.fat.libraries",
        ("hocket.fl.core",),
        ("numpy", "torch", "foolbox", "pyautoattack"),
    ),
    Row("hocket.fl.tensorboard", ("hocket.fl.core",), ("torch",)),
    Row("hocket.fl.engines.ray", ("hocket.fl.core",), ("ray",)),
    Row("hocket.fl.engines.flower", ("hocket.fl.core",), ("numpy", "flwr")),
    Row("hocket.fl.engines.flower.certificates", ("hocket.fl.core",), ("cryptography",)),
    Row("hocket.backend", EVERYTHING, ("numpy", "onnx")),
    Row("hocket.verification", EVERYTHING, ("numpy", "onnxruntime")),
    Row("hocket.benchmarking", EVERYTHING, ("numpy", "onnxruntime")),
    Row("hocket.calibration", EVERYTHING, ("numpy", "numba")),
    Row("hocket.diagnosis", EVERYTHING, ("numpy", "llvmlite")),
    Row("hocket.federated_clients", EVERYTHING, ("torch",)),
    Row("hocket.federation", EVERYTHING, ("torch",)),
    Row("hocket.fleet.config", EVERYTHING, ("pydantic",)),
    Row("hocket.fleet.run", EVERYTHING, ("torch",)),
    Row("hocket.flower_app", EVERYTHING, ("flwr",)),
    Row("hocket.flower_recording", EVERYTHING, ("flwr", "numpy")),
    Row("hocket.inspection", EVERYTHING, ("onnx",)),
    Row("hocket.memory_probe", EVERYTHING, ("numpy", "numba", "scipy")),
    Row("hocket.module", EVERYTHING, ("onnx", "onnx_ir")),
    Row("hocket.venn_plotting", EVERYTHING, ("matplotlib", "numpy")),
    # How many threads torch has is the process's, not a model's.
    Row("hocket.photon", EVERYTHING, ("numpy", "torch")),
    Row("hocket.photon_app", EVERYTHING, ("flwr",)),
    Row("hocket.photon_peers", EVERYTHING, ("torch",)),
    Row("hocket.photon_plotting", EVERYTHING, ("matplotlib",)),
    Row("hocket.photon_parts", EVERYTHING, ("torch",)),
    Row("hocket.plotting", EVERYTHING, ("matplotlib",)),
    Row("hocket.installation", EVERYTHING, ("packaging",)),
    *(
        Row(f"hocket.report.{name}", EVERYTHING, ("matplotlib", "numpy"))
        for name in ("drawings", "fleet_drawings", "svg")
    ),
    Row("hocket.prophet_plots", EVERYTHING, ("matplotlib",)),
    Row("hocket.robust_clients", EVERYTHING, ("torch",)),
    Row("hocket.commands", EVERYTHING, ("numpy", "typer", "rich")),
    Row("hocket.cli", EVERYTHING, ("typer", "rich")),
    Row("hocket", EVERYTHING, ("numpy",)),
)

# Only presentation: what it presents does not know it, nor does anything that is loaded for a user.
COMMAND_LINE = ("hocket.cli", "hocket.commands")
STARTS_IT = "hocket.__main__"

FLOORS = ("hocket.hwmodels", "hocket.runtime", "hocket.compiler", "hocket.fl")


def governing_row(module: str) -> Row:
    """Return the row with the longest scope that holds for a module."""
    return max(
        (row for row in TABLE if _is_within(module, row.scope)), key=lambda row: len(row.scope)
    )


def find_breaches(imports: list[Import]) -> list[str]:
    """Return one sentence for every import that the table does not allow."""
    breaches = []
    for item in imports:
        row = governing_row(item.importer)
        package = item.target.split(".")[0]
        if package == "hocket":
            if not _may_import(row, item):
                allowed = ", ".join(row.may) or "nothing of ours"
                breaches.append(f"{item}; {row.scope} may import {allowed}")
        elif package not in sys.stdlib_module_names and package not in row.packages:
            allowed = ", ".join(row.packages) or "no package"
            breaches.append(f"{item}; {row.scope} may have {allowed}")
    return breaches


def _may_import(row: Row, item: Import) -> bool:
    wing, other = _wing_of_fl(item.importer), _wing_of_fl(item.target)
    if wing and other and other not in (wing, "service"):
        return other == "core"
    if any(_is_within(item.target, scope) for scope in (row.scope, *row.may)):
        return True
    # The package of a module it may import holds nothing but a docstring, so it is free.
    return any(_is_within(scope, item.target) for scope in row.may) and item.target != "hocket"


def find_callers_of_the_command_line(imports: list[Import]) -> list[str]:
    """Return one sentence for every import of the command line that is not its own."""
    its_own = (*COMMAND_LINE, STARTS_IT)
    return [
        f"{item}; only the command line knows the command line"
        for item in imports
        if any(_is_within(item.target, scope) for scope in COMMAND_LINE)
        and not any(_is_within(item.importer, scope) for scope in its_own)
    ]


def _wing_of_fl(module: str) -> str:
    parts = module.split(".")
    return parts[2] if parts[:2] == ["hocket", "fl"] and len(parts) > 2 else ""


def _is_within(module: str, scope: str) -> bool:
    return module == scope or module.startswith(f"{scope}.")


def test_every_import_is_allowed_by_the_table() -> None:
    assert find_breaches(read_imports(find_modules())) == []


def test_only_the_command_line_knows_the_command_line(tmp_path: Path) -> None:
    assert find_callers_of_the_command_line(read_imports(find_modules())) == []
    breach = _tree_with(tmp_path, "hocket", "module.py", "from hocket.commands import terminal")
    assert len(find_callers_of_the_command_line(read_imports(breach))) == 1


def test_imports_run_in_no_circle() -> None:
    assert find_circle(read_imports(find_modules())) == []


def test_the_table_says_which_modules_are_planned_only() -> None:
    there = set(find_modules())
    for row in TABLE:
        assert (row.scope in there) != row.is_planned, row.scope


def test_the_walk_sees_every_layer() -> None:
    modules = find_modules()
    assert {"hocket", *FLOORS} <= set(modules)
    assert len(read_imports(modules)) > 20


def test_packages_above_modules_hold_only_a_docstring() -> None:
    """Loading ``hocket.runtime.artifact`` loads ``hocket.runtime`` first: it must cost nothing."""
    heavy = [
        item
        for item in read_imports(find_modules())
        if item.importer in FLOORS and item.place is Place.MODULE
    ]
    assert heavy == []


@pytest.mark.parametrize(
    ("folder", "file", "line"),
    [
        ("hwmodels", "cost.py", "from hocket.runtime import artifact"),
        ("hwmodels", "cost.py", "import onnxruntime"),
        ("runtime", "session.py", "import hocket.compiler.driver"),
        ("runtime", "session.py", "import onnxruntime as ort"),
        ("runtime", "session.py", "import hocket"),
        ("runtime", "session.py", "def f():\n    import torch"),
        ("runtime", "session.py", "if TYPE_CHECKING:\n    import onnx"),
        ("runtime", "session.py", "import importlib\nimportlib.import_module('torch')"),
        ("compiler/graph", "load.py", "from hocket.compiler.attention.tiling import Tiling"),
        ("compiler/graph", "load.py", "from hocket.hwmodels.machine import HardwareModel"),
        ("compiler/attention", "tiling.py", "from hocket.compiler.graph import regions"),
        ("compiler/attention", "tiling.py", "import onnx_ir"),
        ("compiler/attention/search", "genetic.py", "from ortools.sat.python import cp_model"),
        ("compiler", "problem.py", "import hocket.runtime.artifact"),
        ("runtime", "session.py", "import hocket.fl.core.types"),
        ("compiler", "driver.py", "import hocket.runtime.session"),
        ("compiler", "driver.py", "import hocket.fl.core.types"),
        ("fl/fat", "cascade.py", "import hocket.fl.venn.matching"),
        ("fl/photon", "server.py", "from hocket.fl.store import history"),
        ("fl/store", "history.py", "import hocket.fl.photon.server"),
        ("fl/store/service", "app.py", "import hocket.fl.venn.service.manager"),
        ("fl/service", "tokens.py", "import hocket.fl.store.service.app"),
        ("fl/venn", "scheduler.py", "import hocket.fl.service.tokens"),
        ("fl/engines", "ray.py", "import hocket.fl.backends.compiled"),
        ("fl/backends", "compiled.py", "import hocket.fl.engines.local"),
        ("fl/backends", "compiled.py", "import hocket.module"),
        ("fl/core", "coordinator.py", "from hocket.fl.engines import local"),
        ("fl/core", "coordinator.py", "import hocket.fl.backends.task"),
        ("fl/core", "coordinator.py", "import torch"),
        ("fl/fat", "cascade.py", "import torch"),
        ("fl/core", "types.py", "import hocket.fl.fat.cascade"),
        ("fl/backends", "attention_op.py", "import hocket.compiler.driver"),
    ],
)
def test_a_breach_is_found(tmp_path: Path, folder: str, file: str, line: str) -> None:
    imports = read_imports(_tree_with(tmp_path, folder, file, line))
    assert len(find_breaches(imports)) == 1, imports


@pytest.mark.parametrize(
    ("folder", "file", "line"),
    [
        ("runtime", "host.py", "import onnxruntime"),
        ("runtime", "session.py", "from hocket.hwmodels.dtypes import DType"),
        ("compiler/attention/search", "cp_sat.py", "from ortools.sat.python import cp_model"),
        ("compiler", "driver.py", "from hocket.runtime.artifact import Artifact"),
        ("fl/fat", "cascade.py", "from hocket.fl.core import types"),
        ("fl/backends", "torch.py", "import torch"),
        ("fl/backends", "attention_op.py", "from hocket.runtime.kernels import gradients"),
        ("hocket", "module.py", "from hocket.compiler.driver import compile_model"),
    ],
)
def test_what_the_table_allows_is_no_breach(
    tmp_path: Path, folder: str, file: str, line: str
) -> None:
    assert find_breaches(read_imports(_tree_with(tmp_path, folder, file, line))) == []


def test_a_circle_is_found(tmp_path: Path) -> None:
    modules = {}
    for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
        path = tmp_path / f"{name}.py"
        path.write_text(f"def f():\n    import hocket.{other}\n")
        modules[f"hocket.{name}"] = path
    assert find_circle(read_imports(modules)) == ["hocket.a", "hocket.b", "hocket.c", "hocket.a"]


def test_a_circle_of_annotations_is_none(tmp_path: Path) -> None:
    modules = {}
    for name, other in (("a", "b"), ("b", "a")):
        path = tmp_path / f"{name}.py"
        path.write_text(f"if TYPE_CHECKING:\n    import hocket.{other}\n")
        modules[f"hocket.{name}"] = path
    assert find_circle(read_imports(modules)) == []


def _tree_with(root: Path, folder: str, file: str, line: str) -> dict[str, Path]:
    path = root / folder / file
    path.parent.mkdir(parents=True)
    path.write_text(f"{line}\n")
    return find_modules(root)
