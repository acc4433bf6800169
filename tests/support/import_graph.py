"""Every import of the package, read from its source without running any of it."""

from __future__ import annotations

import ast
import enum
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("hwmodels", "runtime", "compiler", "fl")


class Place(enum.Enum):
    """Where an import statement stands, which says when it is carried out."""

    MODULE = "when the module is loaded"
    FUNCTION = "when a function is called"
    TYPING = "by type checkers only"


@dataclass(frozen=True)
class Import:
    """One import of one module.

    Attributes:
        importer: Name of the module that imports.
        target: Name of what it imports, down to the module: ``from hocket.runtime import artifact``
            has the target ``hocket.runtime.artifact``.
        line: Line of the statement.
        place: When it is carried out.
    """

    importer: str
    target: str
    line: int
    place: Place

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}"


def find_modules(root: Path = ROOT) -> dict[str, Path]:
    """Return every module of the package with its file, by the package map of ``setup.py``."""
    modules: dict[str, Path] = {}
    for folder, prefix in [("hocket", "hocket")] + [(name, f"hocket.{name}") for name in LAYERS]:
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            if parts[-1] == "__init__":
                parts = parts[:-1]
            modules[".".join((prefix, *parts))] = path
    return modules


def read_imports(modules: dict[str, Path]) -> list[Import]:
    """Return the imports of all modules, those of ``importlib.import_module("name")`` too."""
    found: list[Import] = []
    for name, path in modules.items():
        reader = _Reader(name, set(modules))
        reader.visit(ast.parse(path.read_text(encoding="utf-8"), str(path)))
        found += reader.imports
    return found


def find_circle(imports: list[Import]) -> list[str]:
    """Return the modules of one circle of imports, first and last the same; empty without one."""
    edges: dict[str, list[str]] = {}
    for item in imports:
        if item.place is not Place.TYPING and item.importer != item.target:
            edges.setdefault(item.importer, []).append(item.target)
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for target in edges.get(module, []):
            circle = walk(target, [*path, module])
            if circle:
                return circle
        done.add(module)
        return []

    for module in sorted(edges):
        circle = walk(module, [])
        if circle:
            return circle
    return []


class _Reader(ast.NodeVisitor):
    def __init__(self, importer: str, modules: set[str]) -> None:
        self.importer = importer
        self.modules = modules
        self.imports: list[Import] = []
        self._place = Place.MODULE

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level:
            raise AssertionError(f"{self.importer}:{node.lineno}: relative imports are banned")
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            self._add(full if full in self.modules else str(node.module), node.lineno)

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name in ("import_module", "__import__") and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant):
                self._add(str(first.value), node.lineno)
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        test = node.test
        name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
        if name != "TYPE_CHECKING":
            self.generic_visit(node)
            return
        self._visit_in(Place.TYPING, node.body)
        self._visit_in(self._place, node.orelse)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_in(Place.FUNCTION, [node])

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_in(Place.FUNCTION, [node])

    def _visit_in(self, place: Place, nodes: list[ast.stmt] | list[ast.FunctionDef]) -> None:
        before, self._place = self._place, place
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                self.generic_visit(node)
            else:
                self.visit(node)
        self._place = before

    def _add(self, target: str, line: int) -> None:
        self.imports.append(Import(self.importer, target, line, self._place))
