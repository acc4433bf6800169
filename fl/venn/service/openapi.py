"""The interface as OpenAPI 3.1, made from the types that are served."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from hocket.fl.venn.service.answers import ANSWERS, Answer, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hocket.fl.venn.service.operations import Model

_REFERENCE = "#/components/schemas/{model}"


def describe(endpoints: Iterable[tuple[str, type[Model], type[Answer]]]) -> dict[str, Any]:
    """Return the document.

    Args:
        endpoints: The path of each, its body and its answer.
    """
    endpoints = list(endpoints)
    asked = [(path, "validation", TypeAdapter(body)) for path, body, _ in endpoints]
    answered = [
        (answer.__name__, "serialization", ANSWERS[answer])
        for answer in dict.fromkeys((Problem, *(answer for _, _, answer in endpoints)))
    ]
    schemas, definitions = TypeAdapter.json_schemas(
        [*asked, *answered],  # type: ignore[list-item]
        ref_template=_REFERENCE,
    )
    problem = _json_of(schemas["Problem", "serialization"])
    return {
        "openapi": "3.1.0",
        "info": {"title": "Hocket's device scheduler", "version": version("hocket")},
        "paths": {
            path: {
                "post": {
                    "summary": (body.__doc__ or "").splitlines()[0],
                    "parameters": [{"$ref": "#/components/parameters/key"}],
                    "requestBody": {
                        "required": True,
                        "content": _json_of(schemas[path, "validation"]),
                    },
                    "responses": {
                        "200": {
                            "description": (answer.__doc__ or "").splitlines()[0],
                            "content": _json_of(schemas[answer.__name__, "serialization"]),
                        },
                        "default": {"description": "Why not.", "content": problem},
                    },
                }
            }
            for path, body, answer in endpoints
        },
        "components": {
            "schemas": definitions.get("$defs", {}),
            "parameters": {
                "key": {
                    "name": "Idempotency-Key",
                    "in": "header",
                    "description": "The same key gets the same answer, and nothing is done again.",
                    "schema": {"type": "string", "maxLength": 100},
                }
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _json_of(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
