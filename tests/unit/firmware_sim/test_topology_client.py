"""A gateway's dealings for its sub-devices: whoever may be in comes in, whatever the platform answers."""

import json
from collections import deque
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.wire.topology_client import Standing, Topology
from protocols.alink.requests import read_request
from protocols.alink.topics import Kind, Topic
from protocols.alink.topology import MOST_A_BATCH, names

GATEWAY = ("gw", "hub")
Key = tuple[str, str]


class Platform:
    """Answers a gateway as the cloud does: `refused` holds codes of devices that are not taken."""

    def __init__(self, count: int, refused: dict[Key, int] | None = None) -> None:
        self.keys = [("pk", f"d{n}") for n in range(count)]
        self.refused = refused or {}
        self.sent: deque[tuple[str, bytes]] = deque()
        self.members: set[Key] = set()
        self.inside: set[Key] = set()
        self.batches: list[int] = []
        self.topology = Topology(GATEWAY, {key: f"secret-{key[1]}" for key in self.keys}, lambda *message: self.sent.append(message), str)
        self.topology._timestamp = lambda: "1"

    def answer_all(self) -> None:
        for _ in range(1_000):
            if not self.sent:
                return
            self.answer(*self.sent.popleft())
        raise AssertionError("the gateway never comes to rest")

    def answer(self, name: str, payload: bytes) -> None:
        topic = Topic.parse(name)
        if topic.reply is None:
            return
        request = read_request(topic.kind, payload)
        code = 200
        if topic.kind in (Kind.TOPO_ADD, Kind.BATCH_LOGIN):
            self.batches.append(len(request.params))
            assert all(item.proves(f"secret-{item.device_name}") for item in request.params)
            code = next((self.refused[item.key] for item in request.params if item.key in self.refused), 200)
            if topic.kind is Kind.BATCH_LOGIN and code == 200 and not {item.key for item in request.params} <= self.members:
                code = 6401
            if code == 200:
                (self.members if topic.kind is Kind.TOPO_ADD else self.inside).update(item.key for item in request.params)
        else:
            self.inside -= {pair.key for pair in request.params}
        body = {"id": json.loads(request.id), "code": code, "data": [], "message": ""}
        assert self.topology.receive(topic.reply, json.dumps(body).encode())

    def says(self, kind: Kind, body: dict[str, Any]) -> None:
        assert self.topology.receive(Topic(kind, *GATEWAY), json.dumps(body).encode())

    def error(self, code: int, key: Key) -> None:
        self.inside.discard(key)
        if code == 6401:
            self.members.discard(key)
        self.says(Kind.SESSION_ERROR, {"id": "1", "code": code, "data": names([key])[0], "message": ""})

    def standing(self, key: Key) -> Standing:
        return self.topology.sub_devices[key].standing


@given(st.integers(1, 23), st.dictionaries(st.integers(0, 22), st.sampled_from([6100, 6287, 6619, 522, 429, 400])))
def test_all_that_may_be_in_come_in_at_most_five_at_a_time_and_one_that_is_refused_keeps_nobody_out(
    count: int, wrong: dict[int, int]
) -> None:
    refused = {("pk", f"d{n}"): code for n, code in wrong.items() if n < count}
    platform = Platform(count, refused)
    platform.topology.connected()
    platform.answer_all()
    assert platform.inside == set(platform.keys) - refused.keys()
    assert all(platform.topology.is_in(key) is (key not in refused) for key in platform.keys)
    assert all(platform.topology.sub_devices[key].code == code for key, code in refused.items())
    assert max(platform.batches) <= MOST_A_BATCH


def test_a_new_connection_brings_everybody_in_again() -> None:
    platform = Platform(7)
    for _ in range(2):
        platform.inside.clear()
        platform.topology.connected()
        platform.answer_all()
        assert platform.inside == set(platform.keys)
    assert platform.topology.counts.logged_in == 14


def test_a_session_that_the_platform_ended_comes_again_where_that_helps() -> None:
    platform = Platform(5)
    platform.topology.connected()
    platform.answer_all()
    for place, code in enumerate((520, 6401, 521, 522, 427)):
        platform.error(code, platform.keys[place])
        platform.answer_all()
    assert [platform.topology.is_in(key) for key in platform.keys] == [True, True, False, False, False]
    assert platform.inside == set(platform.keys[:2])
    assert platform.topology.counts.codes == {520: 1, 6401: 1, 521: 1, 522: 1, 427: 1}


def test_changes_of_the_topology_are_answered_and_followed() -> None:
    platform = Platform(2)
    platform.topology.connected()
    platform.answer_all()
    for status, inside in ((8, False), (2, True), (1, False), (0, True)):
        platform.says(Kind.TOPO_CHANGE, {"id": "5", "params": {"status": status, "subList": names([platform.keys[0]])}})
        assert platform.sent[0][0] == "/sys/gw/hub/thing/topo/change_reply"
        platform.answer_all()
        assert platform.topology.is_in(platform.keys[0]) is inside


def test_who_logs_out_stays_out_until_it_logs_in() -> None:
    platform = Platform(3)
    platform.topology.connected()
    platform.answer_all()
    platform.topology.log_out(platform.keys[:2])
    platform.answer_all()
    assert platform.inside == {platform.keys[2]}
    platform.topology.log_in(platform.keys)
    platform.answer_all()
    assert platform.inside == set(platform.keys)


def test_a_request_without_an_answer_is_made_again_and_an_answer_of_before_changes_nothing() -> None:
    platform = Platform(3)
    platform.topology.connected()
    lost = platform.sent.popleft()
    assert platform.topology.waits_for == 1
    platform.topology.give_up()
    platform.answer_all()
    assert platform.inside == set(platform.keys)
    platform.answer(*lost)
    assert not platform.sent
    assert all(platform.topology.is_in(key) for key in platform.keys)
