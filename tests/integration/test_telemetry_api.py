"""The query API over a real store: what a script may rely on."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

import cloud.devices.tables
import cloud.ingest.tables
import cloud.products.tables
import cloud.tenancy.tables  # noqa: F401 - the whole schema
from cloud.devices.registry import create_device
from cloud.devices.service import apply_reported
from cloud.foundation import problem_answers
from cloud.foundation.db import Database
from cloud.foundation.schema import upgrade
from cloud.foundation.vault import Vault
from cloud.products.model import GATEWAY
from cloud.products.service import create_product
from cloud.telemetry.api import router
from cloud.telemetry.duckdb_store import DuckDbStore
from cloud.telemetry.model import Append, ClockNote, Gap, Kind, Numbers, Position, Series, SeriesKey, Text
from cloud.telemetry.service import History
from cloud.tenancy.service import KnownKeys, create_api_key, create_tenant
from tests.unit.cloud.ingest.scene import MODEL

T = 1_412_121_600_000  # 2014-10-01T00:00:00Z
POINTS = [(T, 1.5), (T + 1000, 2.5), (T + 1000, 3.5), (T + 2000, 4.5), (T + 86_400_000, 5.5)]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Any]:
    """`get(path, **query)` with the key of the tenant that owns stove s1; `other` with a stranger's key; `store` to fill."""
    database = Database(f"sqlite:///{tmp_path / 'meta.db'}")
    upgrade(database)
    with database.system() as work:
        owner, stranger = (create_tenant(work, name).tenant_id for name in ("owner", "stranger"))
        keys = [create_api_key(work, tenant_id, "test") for tenant_id in (owner, stranger)]
        work.commit()
    with database.unit_of_work(owner) as work:
        product_key = create_product(work, "Stove", MODEL.to_dict()).product_key
        create_device(work, Vault(b"k" * 32), product_key, "s1", None)
        for name, site in (("h1", "home"), ("h2", "elsewhere"), ("h3", None)):
            create_device(work, Vault(b"k" * 32), product_key, name, site)
        create_device(work, Vault(b"k" * 32), GATEWAY, "gw", "home")
        work.commit()
    store = DuckDbStore(tmp_path / "telemetry.duckdb")
    app = FastAPI()
    app.include_router(router)
    problem_answers.install(app)
    app.state.database, app.state.history, app.state.known_keys = database, History(store), KnownKeys()
    client = TestClient(app)

    def asks(key: str) -> Any:
        def get(path: str, **query: Any) -> Any:
            params = {name.rstrip("_"): value for name, value in query.items()}
            return client.get(f"/v1/telemetry/{product_key}/{path}", params=params, headers={"Authorization": f"Bearer {key}"})

        return get

    named = [SeriesKey(product_key, "s1", "power"), SeriesKey(product_key, "s1", "level")]
    named += [SeriesKey(product_key, "s1", "mode", Kind.TEXT), SeriesKey(product_key, "s1", "boiled_over", Kind.EVENT)]
    ts, values = (np.array(column) for column in zip(*POINTS, (T, 7.0), strict=True))
    store.append(
        Append(
            Position(),
            Position("s", 1),
            [Series(number, key) for number, key in enumerate(named, 1)],
            Numbers(np.array([1] * len(POINTS) + [2], np.int32), ts.astype(np.int64), values, np.full(len(ts), 1)),
            [Text(3, T, '"蒸"', 1), Text(4, T, '{"zone":1}', 1)],
            [
                Gap(product_key, "s1", "power", T + 100, T + 900, 3, "missed_poll"),
                Gap(product_key, "s1", "", T + 5000, T + 6000, None, "agent_down"),
                Gap(GATEWAY, "gw", "", T + 20, T + 30, None, "buffer_reset"),
                Gap(GATEWAY, "gw", "", T + 40, T + 50, None, "agent_down"),
            ],
            [ClockNote(product_key, "s1", T + 1500, T + 2000, -7), ClockNote(product_key, "s1", T + 1900, T + 2500, -7)],
            T + 50,
        )
    )
    with database.system() as work:
        apply_reported(work.session, {1: {"power": (5.5, T), "mode": ("蒸", T)}})
        work.commit()
    yield SimpleNamespace(get=asks(keys[0]), other=asks(keys[1]), store=store)
    store.close()
    database.close()


def test_a_range_has_one_point_a_ms_the_gaps_that_overlap_it_and_no_next_page(api: Any) -> None:
    assert api.get("s1/power", from_=T, to=T + 10_000).json() == {
        "points": [[T, 1.5], [T + 1000, 3.5], [T + 2000, 4.5]],
        "gaps": [
            {"from": T + 100, "to": T + 900, "count": 3, "reason": "missed_poll"},
            {"from": T + 5000, "to": T + 6000, "count": None, "reason": "agent_down"},
        ],
        "clock": [{"from": T + 1500, "to": T + 2500, "shift_ms": -7}],
        "next": None,
    }


def test_times_are_given_as_rfc_3339_too_and_the_end_is_exclusive(api: Any) -> None:
    page = api.get("s1/power", from_="2014-10-01T02:00:00+02:00", to="2014-10-01T00:00:02Z").json()
    assert [ts for ts, _ in page["points"]] == [T, T + 1000]


def test_pages_follow_each_other_and_the_gaps_come_with_the_first(api: Any) -> None:
    points: list[Any] = []
    gaps: list[int] = []
    cursor: dict[str, Any] = {}
    for _ in range(4):
        page = api.get("s1/power", limit=1, **cursor).json()
        points += page["points"]
        gaps.append(len(page["gaps"]))
        cursor = {"cursor": page["next"]}
    assert points == [[T, 1.5], [T + 1000, 3.5], [T + 2000, 4.5], [T + 86_400_000, 5.5]]
    assert gaps == [2, 0, 0, 0]
    assert cursor == {"cursor": None}


def test_raw_rows_keep_duplicates_and_say_their_position_page_by_page(api: Any) -> None:
    points: list[Any] = []
    cursor: dict[str, Any] = {}
    while True:
        page = api.get("s1/power", raw="true", limit=2, **cursor).json()
        points += page["points"]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert points == [[ts, value, 1, T + 50, None] for ts, value in POINTS], "a device of its own says not when it sent"


def test_buckets_cut_the_range_into_equal_parts(api: Any) -> None:
    page = api.get("s1/power", from_=T, to=T + 4000, buckets=2).json()
    assert page["buckets"] == [
        {"from": T, "min": 1.5, "max": 3.5, "avg": 2.5, "count": 2},
        {"from": T + 2000, "min": 4.5, "max": 4.5, "avg": 4.5, "count": 1},
    ]
    assert [gap["reason"] for gap in page["gaps"]] == ["missed_poll"]


def test_buckets_of_a_minute_and_more_begin_at_whole_minutes(api: Any) -> None:
    minute = T // 60_000 * 60_000
    later = POINTS[1][0]
    page = api.get("s1/power", from_=later, to=later + 100_000, buckets=1).json()
    assert [(bucket["from"], bucket["count"]) for bucket in page["buckets"]] == [(minute, 3)], "the whole minute of `from`, a ms once"


def test_values_come_back_in_the_type_of_the_thing_model(api: Any) -> None:
    assert api.get("s1/level").text.startswith(f'{{"points":[[{T},7]]')
    assert api.get("s1/mode").json()["points"] == [[T, "蒸"]]
    assert api.get("s1/boiled_over").json()["points"] == [[T, {"zone": 1}]]


def test_the_newest_values_come_from_the_shadow(api: Any) -> None:
    assert api.get("s1").json() == {"mode": {"value": "蒸", "time": T}, "power": {"value": 5.5, "time": T}}


def test_a_property_without_data_has_no_points(api: Any) -> None:
    assert api.get("s1/power", from_=0, to=1).json() == {"points": [], "gaps": [], "clock": [], "next": None}
    assert api.get("s1/power", from_=5, to=1, buckets=3).json() == {"buckets": [], "gaps": [], "clock": []}


@pytest.mark.parametrize("path", ["s2/power", "s1/colour", "s2"])
def test_what_does_not_exist_is_not_found(api: Any, path: str) -> None:
    answer = api.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


@pytest.mark.parametrize("path", ["s1/power", "s1"])
def test_another_tenant_finds_nothing(api: Any, path: str) -> None:
    assert api.other(path).status_code == 404
    assert api.other(path).json()["detail"] == api.get(path.replace("s1", "s2")).json()["detail"].replace("s2", "s1")


@pytest.mark.parametrize(
    "query",
    [{"from_": "yesterday"}, {"to": "2014-10-01"}, {"cursor": "made up"}, {"limit": 0}, {"limit": 100_001}, {"buckets": 0}, {"buckets": 5}],
)
def test_a_query_that_makes_no_sense_is_answered_with_a_problem(api: Any, query: dict[str, object]) -> None:
    answer = api.get("s1/power", **query)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")


def test_texts_have_no_buckets(api: Any) -> None:
    assert api.get("s1/mode", from_=0, to=1, buckets=1).status_code == 422


def test_a_gap_of_a_gateway_is_one_of_every_device_behind_it(api: Any) -> None:
    (gap,) = api.get("h1/power").json()["gaps"]
    assert (gap["from"], gap["to"], gap["count"], gap["reason"]) == (T + 20, T + 30, None, "buffer_reset")
    assert api.get("h2/power").json()["gaps"] == [], "it stands on another site"
    assert api.get("h3/power").json()["gaps"] == [], "it stands on none"
