"""The console in a real browser, on a platform with a machine that failed for a while and a gateway that was away.

Debian's Chromium through Playwright; nothing is downloaded. `HEARTHLINE_SCREENSHOTS=<folder>` writes the pictures of the documentation.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.e2e.platform import ROOT, Cloud, wait_until
from tests.e2e.scenes import Site, press_line, wait_rows

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
RATE = 20.0
BUCKET_S = 1.25  # of the shortest range: 5 minutes in 240 buckets
AWAY_S = 2.6 * BUCKET_S
SHOTS = os.environ.get("HEARTHLINE_SCREENSHOTS")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: `make ci-deps` installs Debian's")


@dataclass
class Scene:
    cloud: Cloud
    site: Site

    @property
    def product_key(self) -> str:
        return self.site.keys["press-1"]

    def buckets(self, identifier: str, start: int, end: int) -> Any:
        path = f"/v1/telemetry/{self.product_key}/press-1/{identifier}"
        return self.cloud.api.get(path, **{"from": start, "to": end, "buckets": 240})


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("console")
    with Cloud(folder, crash_points=False) as cloud:
        line, link, site, log = press_line(cloud, folder / "line", "line-7", RATE)
        try:
            site.gateway.start()
            wait_rows(log, int(7 * BUCKET_S * RATE))
            site.gateway.kill()
            time.sleep(AWAY_S)
            site.gateway.start()
            (folder / "line" / "fault").touch()
            path = f"/v1/telemetry/{site.keys['press-1']}/press-1/AnomalyDetected"
            wait_until(lambda: cloud.api.get(path, **{"from": 0, "to": 4_102_444_800_000})["points"], 40, "the fault is seen")
            time.sleep(3 * BUCKET_S)  # the buckets of all that are over and full
            (folder / "line" / "fault").unlink()
            yield Scene(cloud, site)
        finally:
            site.end()
            line.end()
            link.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@dataclass
class Visit:
    """One browser profile, with everything it asked for and complained about."""

    page: Page
    url: str
    hosts: set[str] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)

    def sign_in(self, key: str) -> None:
        self.page.goto(f"{self.url}/console/")
        assert self.page.url.endswith("/console/sign-in")
        self.page.fill("#key", key)
        self.page.click("button[type=submit]")

    def text(self, name: str) -> str:
        return self.page.inner_text(f"[data-testid={name}]")

    def wait(self, name: str) -> None:
        self.page.wait_for_selector(f"[data-testid={name}]", timeout=15_000)


@contextmanager
def visit(browser: Browser, cloud: Cloud, locale: str = "en-GB", **more: Any) -> Iterator[Visit]:
    context = browser.new_context(locale=locale, viewport={"width": 1280, "height": 800}, **more)
    page = context.new_page()
    visitor = Visit(page, cloud.api_url)
    page.on("request", lambda request: visitor.hosts.add(re.split("[/:]+", request.url)[1]))
    page.on("console", lambda message: visitor.complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: visitor.complaints.append(str(error)))
    yield visitor
    context.close()


def drawn(page: Page, identifier: str) -> dict[str, Any]:
    """The option of a chart as ECharts itself holds it."""
    page.wait_for_selector(f"[data-testid=chart-{identifier}] canvas", timeout=15_000)
    script = """identifier => {
        const element = document.querySelector(`[data-testid=chart-${identifier}] [role=img]`);
        const option = getElement(Number(element.id.slice(1))).chart.getOption();
        return {from: option.xAxis[0].min, to: option.xAxis[0].max,
                average: option.series[0].data, low: option.series[1].data, spread: option.series[2].data,
                marks: option.series[0].markArea.data.map(([a, b]) => [a.name, a.xAxis, b.xAxis])};
    }"""
    found: dict[str, Any] = page.evaluate(script, identifier)
    return found


def shoot(page: Page, name: str) -> None:
    """A picture for the documentation, when they are asked for."""
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}.png")


TEXTS = {
    "en-GB": (
        {
            "AnomalyScore": ("Anomaly score", "the model did not score these readings"),
            "Tonnage": ("Peak tonnage", "the edge agent was not running"),
        },
        "Anomaly",
        "Readings a second",
    ),
    "zh-CN": (
        {"AnomalyScore": ("异常评分", "模型未对这些数据评分"), "Tonnage": ("峰值吨位", "边缘代理未运行")},
        "异常",
        "每秒读数",
    ),
}


@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
def test_a_chart_shows_what_the_api_says_with_nothing_where_the_gap_is(browser: Browser, scene: Scene, locale: str) -> None:
    charts, anomaly, rate = TEXTS[locale]
    theme = {"color_scheme": "dark"} if locale == "zh-CN" else {}
    with visit(browser, scene.cloud, locale, **theme) as at:
        at.sign_in(scene.cloud.admin_key)
        at.wait("devices")
        assert rate in at.page.inner_text("main")
        wait_until(lambda: at.text("readings") not in ("–", "0"), 15, "a rate")
        shoot(at.page, f"console-overview-{locale[:2]}")
        at.page.click("text=press-1")
        for identifier, (name, gap_reason) in charts.items():
            chart = drawn(at.page, identifier)
            assert name in at.page.inner_text(f"[data-testid=chart-{identifier}]")
            compare(scene, identifier, chart)
            reasons = {mark for mark, _, _ in chart["marks"]}
            assert {gap_reason, anomaly} <= reasons, reasons
        time.sleep(1.0)
        shoot(at.page, f"console-device-{locale[:2]}")
        assert at.hosts == {"127.0.0.1"}, "the page asked somebody else"
        assert at.complaints == []


def compare(scene: Scene, identifier: str, chart: dict[str, Any]) -> None:
    """Every bucket that is over equals the API's; exactly those without a value that a gap touches are null."""
    found = scene.buckets(identifier, chart["from"], chart["to"])
    width = (chart["to"] - chart["from"]) // 240
    newest = max(bucket["from"] for bucket in found["buckets"])
    over = newest - 2 * width  # the newest buckets are still being filled
    expected = {bucket["from"]: bucket for bucket in found["buckets"] if bucket["from"] < over}
    shown = {at: value for at, value in chart["average"] if at < over}
    lowest, spread = dict(chart["low"]), dict(chart["spread"])
    values = {at: value for at, value in shown.items() if value is not None}
    assert len(values) >= 3
    assert values == {at: pytest.approx(bucket["avg"], rel=1e-9) for at, bucket in expected.items()}
    for at in values:
        assert lowest[at] == pytest.approx(expected[at]["min"], rel=1e-9)
        assert lowest[at] + spread[at] == pytest.approx(expected[at]["max"], rel=1e-9)
    nulls = sorted(at for at, value in shown.items() if value is None)
    assert len(nulls) >= 1
    for at in nulls:
        assert any(gap["from"] < at + width and gap["to"] > at for gap in found["gaps"]), at
    touched = {
        chart["from"] + place * width
        for gap in found["gaps"]
        for place in range(240)
        if gap["from"] < chart["from"] + (place + 1) * width and gap["to"] > chart["from"] + place * width
    }
    assert nulls == sorted(at for at in touched if at < over and at not in expected)


def test_values_move_while_one_looks(browser: Browser, scene: Scene) -> None:
    with visit(browser, scene.cloud) as at:
        at.sign_in(scene.cloud.admin_key)
        at.wait("devices")
        at.page.click("text=press-1")
        at.wait("properties")
        cell = "[data-property=StrokeCount]"
        first, before = at.page.inner_text(cell), drawn(at.page, "Tonnage")
        wait_until(lambda: at.page.inner_text(cell) != first, 20, "another stroke count")
        wait_until(lambda: drawn(at.page, "Tonnage")["average"] != before["average"], 20, "another chart")


def test_a_wrong_key_is_told_so_and_sees_nothing(browser: Browser, scene: Scene) -> None:
    with visit(browser, scene.cloud) as at:
        at.sign_in("hl_0123abcd_" + "0" * 64)
        assert "it begins with hl_" in at.text("message")
        at.page.goto(f"{at.url}/console/device/{scene.product_key}/press-1")
        assert "/console/sign-in" in at.page.url
        assert at.page.context.cookies() == []


def test_signing_out_ends_the_session(browser: Browser, scene: Scene) -> None:
    with visit(browser, scene.cloud) as at:
        at.sign_in(scene.cloud.admin_key)
        at.wait("devices")
        (cookie,) = [cookie for cookie in at.page.context.cookies() if cookie["name"] == "hearthline_session"]
        assert cookie["httpOnly"]
        assert cookie["sameSite"] == "Strict"
        assert scene.cloud.admin_key.rsplit("_", 1)[1] not in cookie["value"]
        at.page.click("[data-testid=sign-out]")
        at.page.wait_for_url("**/console/sign-in")
        at.page.goto(f"{at.url}/console/")
        assert "/console/sign-in" in at.page.url


def hearthline(scene: Scene, *words: str) -> list[Any]:
    command = [sys.executable, "-m", "cloud", *words, "--data", str(scene.cloud.data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_another_tenant_sees_none_of_it_and_a_revoked_key_ends_an_open_page(browser: Browser, scene: Scene) -> None:
    (made,) = hearthline(scene, "tenant", "create", "elsewhere", "-o", "json")
    with visit(browser, scene.cloud) as at:
        at.sign_in(made["key"])
        at.wait("no-devices")
        assert at.text("online") == "0 / 0"
        assert at.text("readings") == "–"
        shoot(at.page, "console-empty-en")
        at.page.goto(f"{at.url}/console/device/{scene.product_key}/press-1")
        at.wait("no-device")
        assert "Tonnage" not in at.page.content()
        hearthline(scene, "tenant", "revoke", made["key"].rsplit("_", 1)[0])
        at.page.wait_for_url("**/console/sign-in?over=true", timeout=20_000)


def test_language_and_colours_are_remembered(browser: Browser, scene: Scene) -> None:
    with visit(browser, scene.cloud) as at:
        at.sign_in(scene.cloud.admin_key)
        at.wait("devices")
        at.page.click("[data-testid=language]")
        at.page.wait_for_selector("text=每秒读数")
        assert at.page.get_attribute("html", "lang") == "zh-CN"
        at.page.click("text=深色")
        at.page.wait_for_selector("body.body--dark")
        at.page.goto(f"{at.url}/console/")
        at.page.wait_for_selector("body.body--dark")
        assert "每秒读数" in at.page.inner_text("main")


def test_a_device_is_found_by_its_name_and_the_page_fits_a_phone(browser: Browser, scene: Scene) -> None:
    with visit(browser, scene.cloud) as at:
        at.sign_in(scene.cloud.admin_key)
        at.wait("devices")
        at.page.fill("input", "press")
        wait_until(lambda: "line-7" in at.text("devices") and at.page.locator("[data-testid=devices] tbody tr").count() == 1, 10, "one row")
        at.page.fill("input", "%no such")
        at.wait("no-match")
        at.page.set_viewport_size({"width": 390, "height": 800})
        assert at.page.evaluate("document.documentElement.scrollWidth") <= 390
