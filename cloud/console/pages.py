"""The console on the API's application: who may see which page. Only `core` imports this: NiceGUI is not small."""

import asyncio

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse
from nicegui import ui

from cloud.console.device import device
from cloud.console.live import Live
from cloud.console.overview import overview
from cloud.console.session import COOKIE, Sessions, Taste
from cloud.console.sign_in import routes
from cloud.console.texts import RANGES
from cloud.tenancy.model import Principal

DEFAULT_RANGE = "5m"
HISTORY = 20  # messages kept for a browser that lost its connection for a moment; beyond them it loads the page again


def install(app: FastAPI, sessions: Sessions, live: Live) -> None:
    """Serve the console below /console, for as long as `app` lives."""
    app.include_router(routes(sessions))

    async def holder(request: Request) -> Principal | None:
        return await asyncio.to_thread(sessions.holder, request.cookies.get(COOKIE))

    def away(request: Request) -> RedirectResponse:
        return RedirectResponse("/console/sign-in" + ("?over=true" if COOKIE in request.cookies else ""), 303)

    def watch(request: Request) -> None:
        """A session that is over, or whose key was revoked, ends on the open page too."""
        cookie = request.cookies.get(COOKIE)

        async def check() -> None:
            if await asyncio.to_thread(sessions.holder, cookie) is None:
                ui.navigate.to("/console/sign-in?over=true")

        ui.timer(10.0, check, immediate=False)

    @ui.page("/")
    async def first(request: Request) -> RedirectResponse | None:
        principal = await holder(request)
        if principal is None:
            return away(request)
        await overview(live, principal.tenant_id, Taste.of(request))
        watch(request)
        return None

    @ui.page("/device/{product_key}/{device_name}")
    async def one(request: Request, product_key: str, device_name: str) -> RedirectResponse | None:
        principal = await holder(request)
        if principal is None:
            return away(request)
        wanted = request.query_params.get("range", DEFAULT_RANGE)
        chosen = wanted if wanted in RANGES else DEFAULT_RANGE
        await device(live, principal.tenant_id, Taste.of(request), product_key, device_name, chosen)
        watch(request)
        return None

    ui.run_with(
        app,
        mount_path="/console",
        title="Hearthline",
        favicon="🔥",
        dark=None,
        tailwind=False,
        reconnect_timeout=10.0,
        message_history_length=HISTORY,
        show_welcome_message=False,
    )
