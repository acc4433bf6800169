"""Public names are documented, and the front door offers what it says."""

from __future__ import annotations

import ast
import inspect
from typing import TYPE_CHECKING

from support.import_graph import find_modules

import hocket

if TYPE_CHECKING:
    from collections.abc import Iterator


def undocumented_names(module: str, source: str) -> Iterator[str]:
    """Yield each public class, function and method of a module that has no docstring."""
    tree = ast.parse(source)
    if not ast.get_docstring(tree):
        yield module
    yield from _undocumented_in(module, tree.body)


def _undocumented_in(owner: str, body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("_") or _is_overload_or_setter(node):
            continue
        name = f"{owner}.{node.name}"
        if not ast.get_docstring(node):
            yield name
        if isinstance(node, ast.ClassDef):
            yield from _undocumented_in(name, node.body)


def _is_overload_or_setter(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A docstring on these would stand beside the one that help() shows."""
    for decorator in node.decorator_list:
        name = decorator.attr if isinstance(decorator, ast.Attribute) else ast.unparse(decorator)
        if name in ("overload", "setter", "override"):
            return True
    return False


def test_every_public_name_has_a_docstring() -> None:
    missing = [
        name
        for module, path in find_modules().items()
        for name in undocumented_names(module, path.read_text(encoding="utf-8"))
    ]
    assert missing == []


def test_a_missing_docstring_is_found() -> None:
    source = '"""Doc."""\nclass A:\n    """Doc."""\n    def f(self): ...\n    def _g(self): ...\n'
    assert list(undocumented_names("m", source)) == ["m.A.f"]


def test_the_front_door_offers_what_it_says() -> None:
    assert set(hocket.__all__) == {
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
    }
    assert set(hocket.__all__) <= set(dir(hocket))
    for name in hocket.__all__:
        assert inspect.getdoc(getattr(hocket, name))


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(hocket, "no_such_name")
