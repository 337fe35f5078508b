"""How the API answers errors: each as a problem, whatever raised it, and a request that is too large before it is read."""

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import IntegrityError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloud.foundation.db import is_duplicate
from cloud.foundation.logs import get_logger
from cloud.foundation.problems import TYPE, Problem
from protocols.errors import Refused, TryAgain

CONTENT_TYPE = "application/problem+json"
MAX_BODY_BYTES = 1024 * 1024

_NEXT_STEP = {
    400: "The request could not be read; correct its body and send `Content-Type: application/json`.",
    404: "There is nothing at this path; /docs lists the routes.",
    405: "This path does not take this method; /docs lists the routes.",
}


def _answer(problem: Problem) -> JSONResponse:
    return JSONResponse(problem.body(), problem.status, problem.headers, CONTENT_TYPE)


class BodyLimit:
    """ASGI middleware: a request body is at most `limit` bytes, however it is sent; otherwise 413.

    `larger` names the ends of paths that take more.
    """

    def __init__(self, app: ASGIApp, limit: int, larger: Mapping[str, int] = MappingProxyType({})) -> None:
        self._app, self._limit, self._larger = app, limit, dict(larger)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        limit = next((most for end, most in self._larger.items() if scope["path"].endswith(end)), self._limit)
        if not declared.isdigit() or int(declared) > limit:
            return await _answer(self._problem(limit))(scope, receive, send)
        left = limit

        async def bounded() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise self._problem(limit)
            return message

        return await self._app(scope, bounded, send)

    def _problem(self, limit: int) -> Problem:
        return Problem(413, "body-too-large", f"Send at most {limit} bytes in one request.")


_SCHEMA = {
    "title": "Problem",
    "description": "RFC 9457. Members beside these depend on `type`.",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": f"`{TYPE}` and a stable word."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong, and what to do next."},
    },
}


def describe(openapi: dict[str, Any]) -> dict[str, Any]:
    """Say in an OpenAPI document what is so for every route: that its errors are problems, a body that does not fit (422) included."""
    answer = {"description": "A problem.", "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    for path in openapi["paths"].values():
        for operation in path.values():
            operation["responses"] |= dict.fromkeys({"default", "422"} & {"default", *operation["responses"]}, answer)
    schemas = openapi.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = _SCHEMA
    return openapi


def install(app: FastAPI, larger: Mapping[str, int] = MappingProxyType({})) -> None:
    """Answer every kind of error with a problem, and bound what a request may send; `larger`: ends of paths that take more bytes."""
    app.add_middleware(BodyLimit, limit=MAX_BODY_BYTES, larger=larger)
    plain = app.openapi
    setattr(app, "openapi", lambda: describe(plain()))  # noqa: B010 - FastAPI's own way to extend it

    @app.exception_handler(Problem)
    def _problem(_request: Request, error: Problem) -> JSONResponse:
        return _answer(error)

    @app.exception_handler(Refused)
    def _refused(_request: Request, error: Refused) -> JSONResponse:
        return _answer(Problem(422, error.reason.replace("_", "-"), str(error)))

    @app.exception_handler(TryAgain)
    def _try_again(request: Request, error: TryAgain) -> JSONResponse:
        get_logger().warning("api.unavailable", path=request.url.path, error=str(error))
        detail = "A part of the platform is busy or restarting; send the same request again in a second."
        return _answer(Problem(503, "try-again", detail, headers={"Retry-After": "1"}))

    @app.exception_handler(IntegrityError)
    def _raced(request: Request, error: IntegrityError) -> JSONResponse:
        if not is_duplicate(error):
            return _bug(request, error)
        get_logger().warning("api.raced", path=request.url.path, error=str(error.orig))
        detail = "Another request entered the same at the same moment, and nothing of this one was kept; send it again."
        return _answer(Problem(503, "try-again", detail, headers={"Retry-After": "1"}))

    @app.exception_handler(RequestValidationError)
    def _invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        if any(fault["type"] == "json_invalid" for fault in error.errors()):
            return _answer(Problem(422, "bad-json", "The body is not JSON; correct it and send `Content-Type: application/json`."))
        faults = [{"where": "/".join(str(part) for part in fault["loc"]), "fault": fault["msg"]} for fault in error.errors()]
        first = faults[0] if faults else {"where": "request", "fault": "is not what this route takes"}
        detail = f"Correct {first['where']}: {first['fault']}."
        return _answer(Problem(422, "invalid-request", detail, more={"errors": faults}))

    @app.exception_handler(HTTPException)
    def _http(_request: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error.__cause__, Problem):  # FastAPI wraps what is raised while it reads a body
            return _answer(error.__cause__)
        kind = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
        detail = _NEXT_STEP.get(error.status_code, str(error.detail))
        return _answer(Problem(error.status_code, kind, detail, headers=error.headers))

    @app.exception_handler(Exception)
    def _bug(request: Request, error: Exception) -> JSONResponse:
        get_logger().error("api.bug", path=request.url.path, exc_info=error)
        return _answer(Problem(500, "bug", "This is a fault of the platform; its log names it under `api.bug`. Please report it."))
