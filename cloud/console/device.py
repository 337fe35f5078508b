"""A device's page: its state, its values, and a chart for each property with gaps as gaps and anomalies marked."""

from dataclasses import dataclass
from html import escape

from nicegui import ui

from cloud.console import chart, render
from cloud.console.live import SCORE, Details, Live
from cloud.console.pulse import EVERY_S, Pulse
from cloud.console.session import Taste
from cloud.console.shell import Piece, Tab, begin
from cloud.console.texts import RANGES, Language, text
from protocols.thing.datatypes import EnumType, is_numeric

CHARTS_AT_FIRST = 6
MOST_CHARTS = 24
CHARTS_EVERY = 2  # updates of the values for one of the charts


@dataclass(slots=True)
class Chart:
    """One property on the page."""

    identifier: str
    card: ui.element
    latest: ui.label
    plot: ui.echart

    def show(self, history: chart.History, details: Details, language: Language) -> None:
        """Send the chart again if it has changed."""
        found = details.model.properties[self.identifier]
        new = chart.option(history, language, render.unit_of(found.data_type))
        if new != self.plot.options:
            self.plot.options.clear()
            self.plot.options.update(new)
            self.plot.update()
        alert = bool(history.anomalies) and history.anomalies[-1][1] >= history.range.end - history.range.width
        self.card.classes(add="alert") if alert else self.card.classes(remove="alert")
        if self.identifier in details.reported:
            self.latest.set_text(render.shown_value(language, details, self.identifier, details.reported[self.identifier][0]))


async def device(live: Live, tenant_id: int, taste: Taste, product_key: str, device_name: str, range_name: str) -> None:
    """Build the page and keep it up to date. Raises TryAgain."""
    language = taste.language
    details = await live.details(tenant_id, product_key, device_name)
    here = "/console/" if details is None else f"{render.path_of(details.line.device)}?range={range_name}"
    begin(taste, here)
    if details is None:
        with ui.element("main").classes("hl-main"):
            back = f'<a href="/console/">{escape(text(language, "back"))}</a>'
            ui.html(f'<p data-testid="no-device">{escape(text(language, "no_device"))} {back}</p>', sanitize=False)
        return
    seconds = RANGES[range_name]
    names = {identifier: render.property_name(language, details, identifier) for identifier in charted(details)}
    charts: dict[str, Chart] = {}
    with ui.element("main").classes("hl-main"):
        head = Piece()
        with ui.element("section"):
            with ui.element("div").classes("hl-head"):
                ui.html(f"<h2>{escape(text(language, 'charts'))}</h2>", sanitize=False)
                ui.html(render.ranges(language, details.line.device, range_name), sanitize=False)
                chosen = ui.select(names, value=list(names)[:CHARTS_AT_FIRST], multiple=True, label=text(language, "shown"))
                chosen.props("dense outlined options-dense").classes("push").style("min-width: min(340px, 100%)")
            grid = ui.element("div").classes("hl-charts")
        with ui.element("section").classes("hl-card"):
            ui.html(f'<div class="hl-head"><h2>{escape(text(language, "properties"))}</h2></div>', sanitize=False)
            values = Piece()
        ui.html(f'<p class="hl-muted">{escape(text(language, "local_time"))}</p>', sanitize=False)

    def choose() -> None:
        """Draw what is chosen, in the order of the thing model."""
        wanted = [identifier for identifier in names if identifier in (chosen.value or ())][:MOST_CHARTS]
        if wanted == list(charts):
            return
        grid.clear()
        charts.clear()
        with grid:
            for identifier in wanted:
                charts[identifier] = _chart(identifier, names[identifier])

    turn = 0

    async def update() -> None:
        nonlocal turn
        found = await live.details(tenant_id, product_key, device_name)
        if found is None:
            return ui.navigate.to("/console/")
        head.show(render.device_head(language, found.line))
        values.show(render.property_table(language, found))
        if turn % CHARTS_EVERY == 0:
            for drawn in list(charts.values()):
                drawn.show(await live.history(found, drawn.identifier, seconds), found, language)
        turn += 1
        return None

    async def rechoose() -> None:
        nonlocal turn
        choose()
        turn = 0
        await update()

    choose()
    chosen.on_value_change(rechoose)
    await update()
    pulse = Pulse(Tab(ui.context.client), update)
    ui.timer(EVERY_S, pulse.tick, immediate=False)


def charted(details: Details) -> list[str]:
    """The properties a chart can show: the score first, then numbers in the order of the thing model; states and enums last."""
    numeric = [name for name, found in details.model.properties.items() if is_numeric(found.data_type)]
    states = [name for name in numeric if isinstance(details.model.properties[name].data_type, EnumType)]
    rest = [name for name in numeric if name not in states and name != SCORE]
    return [name for name in (SCORE,) if name in numeric] + rest + states


def _chart(identifier: str, name: str) -> Chart:
    with ui.element("article").classes("hl-card hl-chart").props(f'data-testid="chart-{identifier}"') as card:
        with ui.element("div").classes("title"):
            ui.html(f"<b>{escape(name)}</b>", sanitize=False)
            latest = ui.label("")
        plot = ui.echart({}).props(f'role="img" aria-label="{escape(name)}"')
    return Chart(identifier, card, latest, plot)
