"""Is this process alive, is the platform ready: `/healthz`, `/readyz`, `/metrics`, and how the other roles take part over the bus."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from cloud.foundation import metrics
from cloud.foundation.bus import Bus
from cloud.foundation.problems import Problem
from protocols.errors import TryAgain

# Says what is wrong with a part, None when it is ready. May raise TryAgain.
Check = Callable[[], Awaitable[str | None]]

_ASK_S = 1.0

router = APIRouter(tags=["health"])


async def serve_health(bus: Bus, role: str, own: metrics.Metrics, check: Check) -> None:
    """Answer `health.{role}` and `metrics.{role}` for as long as the bus lives."""

    async def health(_: bytes) -> bytes:
        return msgspec.json.encode(await check())

    async def exposition(_: bytes) -> bytes:
        return own.render()

    await bus.serve(f"health.{role}", health)
    await bus.serve(f"metrics.{role}", exposition)


def ask_role(bus: Bus, role: str) -> Check:
    """A check that asks another role."""

    async def check() -> str | None:
        return msgspec.json.decode(await bus.request(f"health.{role}", b"", timeout_s=_ASK_S), type=str | None)

    return check


async def run_checks(checks: Mapping[str, Check]) -> dict[str, str]:
    """What is wrong, by part; empty when everything is ready."""

    async def one(check: Check) -> str | None:
        try:
            async with asyncio.timeout(2 * _ASK_S):
                return await check()
        except (TryAgain, TimeoutError) as error:
            return str(error) or "no answer in time"

    answers = await asyncio.gather(*(one(check) for check in checks.values()))
    return {part: fault for part, fault in zip(checks, answers, strict=True) if fault is not None}


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
            return role, await bus.request(f"metrics.{role}", b"", timeout_s=_ASK_S)
        except TryAgain:
            return role, b""

    others = await asyncio.gather(*(of(role) for role in request.app.state.other_roles))
    texts = {"core": own.render(), **{role: text for role, text in others if text}}
    return Response(metrics.merge(texts), media_type=metrics.CONTENT_TYPE)
