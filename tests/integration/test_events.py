"""What a device announced, over the API: newest first, page by page."""

from typing import Any

from cloud.telemetry.model import Append, Kind, Position, Series, SeriesKey, Text
from tests.integration.api_rig import Rig, problem

T = 1_412_121_600_000
DAY = 86_400_000


async def pages(rig: Rig, path: str, **asked: Any) -> list[list[tuple[str, int, Any]]]:
    found, cursor = list[list[tuple[str, int, Any]]](), None
    while cursor is not None or not found:
        page = (await rig.one.get(path, params=asked | ({"cursor": cursor} if cursor else {}))).json()
        found.append([(item["event"], item["time"], item["output"]) for item in page["items"]])
        cursor = page["next"]
    return found


async def test_events_of_a_device_come_newest_first_and_none_is_left_out_between_pages(rig: Rig) -> None:
    product_key = await rig.product(rig.one)
    await rig.device(rig.one, product_key, "s1")
    path = f"/v1/devices/{product_key}/s1/events"
    assert await pages(rig, path) == [[]]
    alarm, done = (SeriesKey(product_key, "s1", name, Kind.EVENT) for name in ("alarm", "done"))
    foreign = SeriesKey(product_key, "s2", "alarm", Kind.EVENT)
    texts = [Text(1 + n % 2, T + (n // 3) * DAY, f'{{"n":{n}}}', 1) for n in range(9)]  # three share each ms
    known = [Series(1, alarm), Series(2, done), Series(3, foreign)]
    rig.store.append(Append(Position(), Position("s", 1), series=known, texts=[*texts, Text(3, T, "{}", 1)]))
    everything = [one for page in await pages(rig, path) for one in page]
    assert [output["n"] for _, _, output in everything] == [8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert everything[0] == ("alarm", T + 2 * DAY, {"n": 8})
    for limit in (1, 2, 4):
        assert [one for page in await pages(rig, path, limit=limit) for one in page] == everything
    assert [output["n"] for _, _, output in (await pages(rig, path, event="done"))[0]] == [7, 5, 3, 1]
    within = {"from": "2014-10-01T12:00:00Z", "to": str(T + 2 * DAY)}
    assert [output["n"] for _, _, output in (await pages(rig, path, **within))[0]] == [5, 4, 3]
    problem(await rig.two.get(path), 404, "not-found")
    problem(await rig.one.get(path, params={"from": "noon"}), 422, "bad-time")
