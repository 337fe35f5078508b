"""Values as HTML. Everything that came from outside is escaped here and nowhere else; times become local in the browser."""

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from cloud.console.live import Details, Line, Overview, Page, Platform, Refusal
from cloud.console.session import Taste, Theme
from cloud.console.texts import RANGES, Language, text
from cloud.devices.model import Device
from protocols.thing.datatypes import DataType, words

START_COMMANDS = """hearthline product create Stove stove.tsl.json
hearthline device create <product key> stove-1 --site home-1"""


def path_of(device: Device) -> str:
    """Where a device's page is."""
    return f"/console/device/{quote(device.product_key, safe='')}/{quote(device.device_name, safe='')}"


def bar(taste: Taste, here: str) -> str:
    """The head of every page; `here` is where a change of taste leads back to."""
    language = taste.language
    other = Language.EN if language is Language.ZH else Language.ZH
    back = quote(here, safe="/")
    themes = "".join(
        f'<span class="here">{escape(text(language, f"theme_{theme}"))}</span>'
        if theme is taste.theme
        else f'<a href="/console/prefer?theme={theme}&back={back}">{escape(text(language, f"theme_{theme}"))}</a>'
        for theme in Theme
    )
    return (
        f'<div class="hl-bar" role="banner"><a class="hl-brand" href="/console/">Hearthline'
        f"<small>{escape(text(language, 'tagline'))}</small></a><nav>{themes}"
        f'<a data-testid="language" href="/console/prefer?language={other}&back={back}" lang="{other.tag}">'
        f'{escape(text(language, "language"))}</a><a href="/docs">{escape(text(language, "api_docs"))}</a>'
        f'<a data-testid="sign-out" href="/console/sign-out">{escape(text(language, "sign_out"))}</a></nav></div>'
    )


def readiness(language: Language, platform: Platform) -> str:
    if not platform.faults:
        return f'<div class="hl-ready" data-testid="ready">{escape(text(language, "platform_ready"))}</div>'
    parts = ", ".join(f"{part} ({fault})" for part, fault in platform.faults.items())
    return f'<div class="hl-ready bad" data-testid="ready" role="alert">{escape(text(language, "platform_not_ready", parts=parts))}</div>'


def tiles(language: Language, overview: Overview) -> str:
    """The figures at the top."""
    platform = overview.platform
    rate = "–" if platform.readings_s is None else f"{platform.readings_s:,.0f}"
    lag = "–" if platform.lag_s is None else _lag(platform.lag_s)
    entries = (
        ("readings", text(language, "readings_s"), rate, text(language, "platform_only")),
        ("lag", text(language, "lag"), lag, text(language, "lag_hint")),
        ("online", text(language, "online"), f"{overview.online:,} / {overview.devices:,}", ""),
        ("quarantined", text(language, "quarantine"), f"{overview.quarantine:,}", ""),
    )
    cards = "".join(
        f'<div class="hl-card hl-tile"><div class="label">{escape(label)}</div>'
        f'<div class="figure" data-testid="{name}">{escape(figure)}</div><div class="hint">{escape(hint)}</div></div>'
        for name, label, figure, hint in entries
    )
    return f'<div class="hl-tiles">{cards}</div>'


def _lag(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms" if seconds < 1 else f"{seconds:,.1f} s"


def device_table(language: Language, page: Page, words: str) -> str:
    """One page of the list, or what to do when it is empty."""
    if not page.lines:
        if words:
            return f'<p class="hl-muted" data-testid="no-match">{escape(text(language, "no_match", text=words))}</p>'
        return (
            f'<p class="hl-muted" data-testid="no-devices">{escape(text(language, "no_devices"))}</p>'
            f'<div class="hl-code">{escape(START_COMMANDS)}</div>'
        )
    head = _head(text(language, name) for name in ("device", "product", "site", "state", "since", "newest"))
    rows = "".join(
        f'<tr><td><a href="{path_of(line.device)}">{escape(line.device.device_name)}</a></td><td>{escape(line.product)}</td>'
        f"<td>{escape(line.device.site or '')}</td><td>{state(language, line.device)}</td>"
        f'<td class="time">{moment(line.device.since_ms)}</td><td class="time">{moment(line.newest_ms)}</td></tr>'
        for line in page.lines
    )
    return f'<div class="hl-scroll"><table class="hl" data-testid="devices">{head}<tbody>{rows}</tbody></table></div>'


def place_in_list(language: Language, page: Page) -> str:
    if not page.total:
        return ""
    first, last = page.skip + 1, page.skip + len(page.lines)
    return escape(text(language, "page_of", first=first, last=last, total=f"{page.total:,}"))


def state(language: Language, device: Device) -> str:
    """Online, offline, disabled, or never seen, with a dot that says it again."""
    name = "disabled" if not device.enabled else "online" if device.online else "never" if device.since_ms is None else "offline"
    return f'<span class="hl-dot {name}" data-state="{name}">{escape(text(language, f"state_{name}"))}</span>'


def refusals(language: Language, entries: Sequence[Refusal]) -> str:
    if not entries:
        return f'<p class="hl-muted">{escape(text(language, "quarantine_empty"))}</p>'
    head = _head(text(language, name) for name in ("received", "device", "reason", "detail"))
    rows = "".join(
        f'<tr><td class="time">{moment(entry.received_ms)}</td><td>{escape(entry.device)}</td>'
        f'<td><code>{escape(entry.reason)}</code></td><td class="detail">{escape(entry.detail[:240])}</td></tr>'
        for entry in entries
    )
    how = f'<p class="hl-muted">{escape(text(language, "quarantine_how"))}</p>'
    return f'<div class="hl-scroll"><table class="hl" data-testid="refusals">{head}<tbody>{rows}</tbody></table></div>{how}'


def device_head(language: Language, line: Line) -> str:
    device = line.device
    through = "" if device.via is None else f" · {text(language, 'through', gateway=device.via[1])}"
    where = " · ".join(part for part in (line.product, device.product_key, device.site or "") if part) + through
    return (
        f'<div class="hl-head"><a href="/console/">← {escape(text(language, "back"))}</a></div><div class="hl-head">'
        f'<h2 data-testid="device">{escape(device.device_name)}</h2>{state(language, device)}'
        f'<span class="hl-muted">{escape(where)}</span></div>'
    )


def ranges(language: Language, device: Device, chosen: str) -> str:
    """Links to the same page over other ranges."""
    links = "".join(
        f'<span class="here" aria-current="true">{escape(text(language, f"range_{name}"))}</span>'
        if name == chosen
        else f'<a href="{path_of(device)}?range={name}">{escape(text(language, f"range_{name}"))}</a>'
        for name in RANGES
    )
    return f'<div class="hl-ranges" role="navigation" aria-label="{escape(text(language, "range"))}">{links}</div>'


def property_table(language: Language, details: Details) -> str:
    """The latest value of every property that was reported."""
    if not details.reported:
        return f'<p class="hl-muted">{escape(text(language, "no_values"))}</p>'
    head = _head(text(language, name) for name in ("property", "value", "time"))
    rows = "".join(
        f"<tr><td>{escape(property_name(language, details, identifier))}</td>"
        f'<td class="number" data-property="{escape(identifier)}">{escape(shown_value(language, details, identifier, value))}</td>'
        f'<td class="time">{moment(time_ms)}</td></tr>'
        for identifier, (value, time_ms) in details.reported.items()
    )
    return f'<div class="hl-scroll"><table class="hl" data-testid="properties">{head}<tbody>{rows}</tbody></table></div>'


def property_name(language: Language, details: Details, identifier: str) -> str:
    """The thing model's name in this language, else its only name, else the identifier."""
    found = details.model.properties.get(identifier)
    return identifier if found is None else found.names.get(language.value) or found.name or identifier


def shown_value(language: Language, details: Details, identifier: str, value: Any) -> str:
    """A value with its unit; the word of an enum or a bool, in this language if the thing model has it."""
    found = details.model.properties.get(identifier)
    data_type = None if found is None else found.data_type
    shown = words(data_type, language.value)
    if shown and isinstance(value, int):
        return shown.get(value, str(value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
    number = f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
    unit = unit_of(data_type)
    return f"{number} {unit}" if unit else number


def unit_of(data_type: DataType | None) -> str:
    return str(getattr(data_type, "unit", "") or "")


def moment(time_ms: int | None) -> str:
    """A time that the browser shows in its own zone."""
    return "" if time_ms is None else f'<time data-ms="{time_ms:d}"></time>'


def _head(names: Iterable[str]) -> str:
    return "<thead><tr>" + "".join(f'<th scope="col">{escape(name)}</th>' for name in names) + "</tr></thead>"
