"""Signing in and out, and how the page looks: plain routes, plain HTML."""

import asyncio
import time
from collections import OrderedDict
from html import escape
from typing import Annotated, Final

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from cloud.console.session import COOKIE, LANGUAGE, THEME, Sessions, Taste, Theme, prefer, remember
from cloud.console.shell import STYLE
from cloud.console.texts import Language, text

SLOWEST_S: Final = 5.0
FORGET_S: Final = 300.0
MOST_ADDRESSES: Final = 10_000


class Patience:
    """Wrong keys of one address make its next answers slower, up to five seconds; everybody else's are as quick as ever."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait_s(self, address: str, now: float) -> float:
        failures, last = self._failures.get(address, (0, 0.0))
        return min(SLOWEST_S, 0.25 * 2.0 ** min(failures - 1, 10)) if failures and now - last < FORGET_S else 0.0

    def failed(self, address: str, now: float) -> None:
        failures, last = self._failures.pop(address, (0, now))
        self._failures[address] = (failures + 1 if now - last < FORGET_S else 1, now)
        while len(self._failures) > MOST_ADDRESSES:  # the oldest address goes first
            self._failures.popitem(last=False)

    def succeeded(self, address: str) -> None:
        self._failures.pop(address, None)


def routes(sessions: Sessions) -> APIRouter:
    """The routes below /console that are no live page."""
    router = APIRouter(prefix="/console", include_in_schema=False)
    patience = Patience()

    @router.get("/sign-in")
    def form(request: Request, over: bool = False) -> HTMLResponse:
        taste = Taste.of(request)
        return HTMLResponse(_page(taste, "session_over" if over else None))

    @router.post("/sign-in")
    async def sign_in(request: Request, key: Annotated[str, Form(max_length=256)] = "") -> Response:
        address = request.client.host if request.client else ""
        await asyncio.sleep(patience.wait_s(address, time.monotonic()))
        session = await asyncio.to_thread(sessions.open, key.strip())
        if session is None:
            patience.failed(address, time.monotonic())
            return HTMLResponse(_page(Taste.of(request), "key_wrong"), 403)
        patience.succeeded(address)
        response = RedirectResponse("/console/", 303)
        remember(response, session, secure=request.url.scheme == "https")
        return response

    @router.get("/sign-out")
    def sign_out() -> Response:
        response = RedirectResponse("/console/sign-in", 303)
        response.delete_cookie(COOKIE, path="/console")
        return response

    @router.get("/prefer")
    def taste(
        back: Annotated[str, Query(max_length=512)] = "/console/", language: Language | None = None, theme: Theme | None = None
    ) -> Response:
        # (only within the console: nobody is sent elsewhere)
        response = RedirectResponse(back if back.startswith("/console/") and "\\" not in back else "/console/", 303)
        if language is not None:
            prefer(response, LANGUAGE, language)
        if theme is not None:
            prefer(response, THEME, theme)
        return response

    return router


def _page(taste: Taste, message: str | None) -> str:
    language = taste.language
    other = Language.EN if language is Language.ZH else Language.ZH
    said = f'<p class="hl-ready bad" role="alert" data-testid="message">{escape(text(language, message))}</p>' if message else ""
    dark = {Theme.AUTO: "matchMedia('(prefers-color-scheme: dark)').matches", Theme.LIGHT: "false", Theme.DARK: "true"}[taste.theme]
    return f"""<!doctype html>
<html lang="{language.tag}"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(text(language, "title"))}</title><style>{STYLE}
.hl-sign {{ max-width: 420px; margin: 12vh auto 0; padding: 0 16px; }}
.hl-sign .hl-card {{ padding: 24px; }}
.hl-sign h1 {{ font-size: 20px; margin: 0 0 2px; line-height: 1.3; }}
.hl-sign label {{ display: block; font-size: 13px; margin: 18px 0 6px; }}
.hl-sign input {{ width: 100%; box-sizing: border-box; padding: 9px 10px; font: inherit; border: 1px solid var(--line);
  border-radius: 6px; background: var(--ground); color: var(--ink); }}
.hl-sign button {{ margin-top: 16px; width: 100%; padding: 10px; font: inherit; font-weight: 600; border: 0; border-radius: 6px;
  background: var(--accent); color: var(--card); cursor: pointer; }}
</style></head><body><script>if ({dark}) document.body.classList.add('body--dark')</script>
<main class="hl-sign"><form class="hl-card" method="post" action="/console/sign-in"><h1>Hearthline</h1>
<div class="hl-muted">{escape(text(language, "tagline"))}</div>{said}
<label for="key">{escape(text(language, "key"))}</label>
<input id="key" name="key" type="password" autocomplete="current-password" required autofocus maxlength="256">
<button type="submit">{escape(text(language, "sign_in"))}</button><p class="hl-muted">{escape(text(language, "key_hint"))}</p>
<a href="/console/prefer?language={other}&back=/console/sign-in" lang="{other.tag}">{escape(text(language, "language"))}</a>
</form></main></body></html>"""
