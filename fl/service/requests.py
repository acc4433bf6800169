"""Bodies that are read no further than they may be, and refusals as JSON."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from hocket.fl.service.errors import InvalidError, RefusedError, SlowError, TooLargeError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from starlette.requests import Request

_Model = TypeVar("_Model", bound=BaseModel)


def said_length(request: Request, most_bytes: int) -> int | None:
    """Return how long a body says it is; None if it does not.

    Raises:
        TooLargeError: It is too long, or says nonsense.
    """
    length = request.headers.get("content-length")
    if length is None:
        return None
    if not length.isdecimal() or len(length) > 15 or int(length) > most_bytes:
        raise _too_large(most_bytes)
    return int(length)


async def body_parts(
    request: Request, most_bytes: int, silence_seconds: float
) -> AsyncIterator[bytes]:
    """Yield a body as it comes.

    Args:
        request: Whose.
        most_bytes: Of all of it.
        silence_seconds: Between two parts.

    Raises:
        TooLargeError, SlowError: It is too long, or too long in coming.
    """
    said_length(request, most_bytes)
    size, parts = 0, aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(silence_seconds):
                part = await anext(parts)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise SlowError(f"nothing of the body came for {silence_seconds:g} s") from None
        size += len(part)
        if size > most_bytes:
            raise _too_large(most_bytes)
        yield part


async def read_body(request: Request, most_bytes: int, seconds: float) -> bytes:
    """Return a body.

    Args:
        request: Whose.
        most_bytes: Of it.
        seconds: That all of it may take.

    Raises:
        TooLargeError, SlowError: It is too long, or too long in coming.
    """
    try:
        async with asyncio.timeout(seconds):
            return b"".join([part async for part in body_parts(request, most_bytes, seconds)])
    except TimeoutError:
        raise SlowError(f"the body took more than {seconds:g} s") from None


def parse(model: type[_Model], body: bytes | str) -> _Model:
    """Return what JSON says.

    Raises:
        InvalidError: It is not of the form; says where.
    """
    try:
        return model.model_validate_json(body or b"{}")
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        texts = [f"{'.'.join(map(str, each['loc'])) or 'body'}: {each['msg']}" for each in found]
        more = f"; and {len(texts) - 3} more" if len(texts) > 3 else ""
        raise InvalidError("; ".join(texts[:3]) + more) from None


async def _refuse(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, RefusedError)  # noqa: S101 - for whom this handler is
    return _problem(str(error), error.status, error.headers)


async def _refuse_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - for whom this handler is
    message = f"{error.detail}: {request.method} {request.url.path}"
    return _problem(message, error.status_code, error.headers)


REFUSALS: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
    RefusedError: _refuse,
    HTTPException: _refuse_path,
}
"""Handlers of Starlette for what has no answer: ``{"error": why}``."""


def _problem(message: str, status: int, headers: Mapping[str, str] | None) -> Response:
    return Response(json.dumps({"error": message}), status, headers, media_type="application/json")


def _too_large(most_bytes: int) -> TooLargeError:
    return TooLargeError(f"want at most {most_bytes} bytes")
