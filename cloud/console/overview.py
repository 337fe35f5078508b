"""The first page: the platform at a glance, the tenant's devices, and what was refused last."""

from dataclasses import dataclass

from nicegui import ui

from cloud.console import render
from cloud.console.live import A_PAGE, Live
from cloud.console.pulse import EVERY_S, Pulse
from cloud.console.session import Taste
from cloud.console.shell import Piece, Tab, begin
from cloud.console.texts import text

LONGEST_SEARCH = 64


@dataclass(slots=True)
class _Place:
    """Where in the list this browser is."""

    words: str = ""
    skip: int = 0


async def overview(live: Live, tenant_id: int, taste: Taste) -> None:
    """Build the page and keep it up to date. Raises TryAgain."""
    language = taste.language
    begin(taste, "/console/")
    place = _Place()
    with ui.element("main").classes("hl-main"):
        ready, tiles = Piece(), Piece()
        with ui.element("section").classes("hl-card"):
            with ui.element("div").classes("hl-head"):
                ui.html(f"<h2>{text(language, 'devices')}</h2>", sanitize=False)
                search = ui.input(placeholder=text(language, "search")).props("dense outlined clearable").classes("push")
                search.props(f'aria-label="{text(language, "search")}" maxlength={LONGEST_SEARCH}').style("min-width: min(320px, 100%)")
            devices = Piece()
            with ui.element("div").classes("hl-head"):
                where = ui.label("").classes("hl-muted")
                previous = ui.button(text(language, "previous")).props("flat dense no-caps").classes("push")
                following = ui.button(text(language, "next")).props("flat dense no-caps")
        with ui.element("section").classes("hl-card"):
            ui.html(f'<div class="hl-head"><h2>{text(language, "quarantine_newest")}</h2></div>', sanitize=False)
            refused = Piece()
        ui.html(f'<p class="hl-muted">{text(language, "local_time")}</p>', sanitize=False)

    async def update() -> None:
        found = await live.overview(tenant_id)
        ready.show(render.readiness(language, found.platform))
        tiles.show(render.tiles(language, found))
        refused.show(render.refusals(language, found.refusals))
        await show_devices()

    async def show_devices() -> None:
        words, skip = place.words, place.skip
        page = await live.page(tenant_id, words, skip)
        devices.show(render.device_table(language, page, words))
        where.set_text(render.place_in_list(language, page))
        previous.set_enabled(skip > 0)
        following.set_enabled(skip + A_PAGE < page.total)

    async def turn(pages: int) -> None:
        place.skip = max(0, place.skip + pages * A_PAGE)
        await show_devices()

    async def find() -> None:
        place.words, place.skip = (search.value or "").strip()[:LONGEST_SEARCH], 0
        await show_devices()

    search.on("update:model-value", find, throttle=0.3, leading_events=False)
    previous.on_click(lambda: turn(-1))
    following.on_click(lambda: turn(1))
    await update()
    pulse = Pulse(Tab(ui.context.client), update)
    ui.timer(EVERY_S, pulse.tick, immediate=False)
