"""Who may use the API: `Authorization: Bearer hl_...` on every route under /v1."""

import time
from typing import Annotated

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from cloud.foundation.db import Database
from cloud.foundation.problems import Problem
from cloud.tenancy.model import Principal
from cloud.tenancy.service import KnownKeys, authenticate

_bearer = HTTPBearer(auto_error=False, description="An API key of a tenant.")


async def authenticated(request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> Principal:
    """The dependency of every route under /v1; `app.state` is filled by the composition root. Raises Problem 401."""
    database: Database = request.app.state.database
    known: KnownKeys = request.app.state.known_keys
    principal = None
    if given is not None and (principal := known.get(given.credentials)) is None:
        asked = time.monotonic()
        principal = await run_in_threadpool(authenticate, database, given.credentials)
        if principal is not None:
            known.remember(given.credentials, principal, asked)
    if principal is None:
        raise Problem(
            401,
            "bad-key",
            "Send `Authorization: Bearer <key>` with a key that is not revoked; `hearthline tenant key NAME` makes one.",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return principal


Caller = Annotated[Principal, Depends(authenticated)]
