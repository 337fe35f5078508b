"""Routes that are about the platform itself: `/healthz`, `/readyz`, `/metrics`. They need no key and name no tenant."""

import asyncio
from collections.abc import Mapping

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from cloud.foundation import metrics
from cloud.foundation.bus import Bus
from cloud.foundation.health import ASK_S, Check, run_checks
from cloud.foundation.problems import Problem
from protocols.errors import TryAgain

router = APIRouter(tags=["health"])


@router.get("/healthz", operation_id="get_health")
async def healthz() -> dict[str, str]:
    """This process runs and answers."""
    return {"status": "ok"}


@router.get("/readyz", operation_id="get_readiness")
async def readyz(request: Request) -> JSONResponse:
    """The whole platform can take devices and answer queries; otherwise 503 and what is missing."""
    checks: Mapping[str, Check] = request.app.state.checks
    faults = await run_checks(checks)
    if faults:
        named = ", ".join(f"{part}: {fault}" for part, fault in faults.items())
        raise Problem(503, "not-ready", f"Wait for these parts, or look at their logs: {named}.", more={"parts": faults})
    return JSONResponse({"status": "ready", "parts": dict.fromkeys(checks, "ready")})


@router.get("/metrics", operation_id="get_metrics")
async def get_metrics(request: Request) -> Response:
    """Prometheus metrics of all roles in one scrape, told apart by the label `role`; a role that is away is missing."""
    own: metrics.Metrics = request.app.state.metrics
    bus: Bus = request.app.state.bus

    async def of(role: str) -> tuple[str, bytes]:
        try:
            return role, await bus.request(f"metrics.{role}", b"", timeout_s=ASK_S)
        except TryAgain:
            return role, b""

    others = await asyncio.gather(*(of(role) for role in request.app.state.other_roles))
    texts = {"core": own.render(), **{role: text for role, text in others if text}}
    return Response(metrics.merge(texts), media_type=metrics.CONTENT_TYPE)
