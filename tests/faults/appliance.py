"""An appliance in the test's own process: it posts, hears commands, and counts what it was promised and told. Alink over paho."""

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from protocols.alink.credentials import sign
from tests.e2e.account import Account, Api, Row, balance
from tests.e2e.platform import wait_until

TSL: dict[str, Any] = {
    "properties": [
        {"identifier": "N", "name": "N", "accessMode": "r", "dataType": {"type": "int", "specs": {}}},
        {"identifier": "X", "name": "X", "accessMode": "r", "dataType": {"type": "double", "specs": {}}},
        {"identifier": "Level", "name": "Level", "accessMode": "rw", "dataType": {"type": "int", "specs": {}}},
    ],
    "events": [{"identifier": "Alarm", "name": "Alarm", "type": "alert", "outputData": []}],
    "services": [],
}


class TestAppliance:
    """`sent` is n -> wall ms of each numbered post, `acknowledged` the n with a PUBACK; a post is repeated until it has one."""

    __test__ = False

    def __init__(self, port: int, product_key: str, name: str, secret: str) -> None:
        self.product_key, self.name = product_key, name
        self.sent: dict[int, int] = {}
        self.acknowledged: set[int] = set()
        self.obeyed: Counter[int] = Counter()  # by the value a command set
        self._numbers, self._ids = itertools.count(1), itertools.count(1)
        proof = sign(product_key, name, secret)
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=proof.client_id)
        self._client.username_pw_set(proof.username, proof.password.decode())
        self._client.on_message = self._told
        self._client.on_connect = self._let_in
        self.connections = 0
        self.answered = threading.Event()
        """Set by the platform's answer to the last post: it is stored."""
        self._client.reconnect_delay_set(1, 1)
        self._client.max_inflight_messages_set(500)
        self._client.connect_async("127.0.0.1", port, keepalive=10)
        self._client.loop_start()
        wait_until(self._client.is_connected, 20, f"{name} is let in")

    def _topic(self, tail: str) -> str:
        return f"/sys/{self.product_key}/{self.name}/{tail}"

    def _let_in(self, *_: object) -> None:
        self.connections += 1

    def _told(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        if message.topic.endswith("/post_reply"):
            self.answered.set()
        if not message.topic.endswith("/thing/service/property/set"):
            return
        order = json.loads(message.payload)
        self.obeyed[order["params"]["Level"]] += 1
        answer = json.dumps({"id": order["id"], "code": 200, "data": {}})
        self._client.publish(self._topic("thing/service/property/set_reply"), answer, qos=1)

    def publish(self, topic: str, payload: bytes, timeout_s: float = 30.0) -> bool:
        """Bytes as they are, as a wrong firmware would send them; whether they were acknowledged in time."""
        info = self._client.publish(topic, payload, qos=1)
        try:
            info.wait_for_publish(timeout_s)
        except (RuntimeError, ValueError):  # not connected: paho sends it later
            return False
        return info.is_published()

    def post(self, params: object, tail: str = "thing/event/property/post", timeout_s: float = 30.0) -> bool:
        """Whether it was acknowledged in time."""
        method = "thing." + tail.removeprefix("thing/").replace("/", ".")
        message = {"id": str(next(self._ids)), "version": "1.0", "params": params, "method": method}
        return self.publish(self._topic(tail), json.dumps(message).encode(), timeout_s)

    def number(self, time_ms: int | None = None) -> int:
        """Post the next number, without a time unless one is given."""
        n = next(self._numbers)
        self.sent[n] = int(time.time() * 1000) if time_ms is None else time_ms
        value: object = n if time_ms is None else {"value": n, "time": time_ms}
        self.answered.clear()
        if self.post({"N": value}):
            self.acknowledged.add(n)
        return n

    def burst(self, numbers: Mapping[str, int], times: Sequence[int]) -> int:
        """Posts that leave at once, the id of each and its number, and their times; how many were acknowledged."""
        infos = []
        for (post_id, n), time_ms in zip(numbers.items(), times, strict=True):
            self.sent[n] = time_ms
            post = {"id": post_id, "version": "1.0", "params": {"N": {"value": n, "time": self.sent[n]}}}
            infos.append((n, self._client.publish(self._topic("thing/event/property/post"), json.dumps(post).encode(), qos=1)))
        for n, info in infos:
            info.wait_for_publish(30)
            self.acknowledged |= {n} if info.is_published() else set()
        return sum(info.is_published() for _, info in infos)

    def flood(self, seconds: float, begin_ms: int) -> int:
        """Posts as fast as they leave, hundreds in flight, each a ms later than the one before; how many were acknowledged."""
        infos: list[tuple[int, paho.MQTTMessageInfo]] = []
        until, topic = time.monotonic() + seconds, self._topic("thing/event/property/post")
        while time.monotonic() < until:
            n = next(self._numbers)
            self.sent[n] = begin_ms + len(infos)
            value = {"N": {"value": n, "time": self.sent[n]}}
            payload = json.dumps({"id": str(next(self._ids)), "version": "1.0", "params": value}).encode()
            infos.append((n, self._client.publish(topic, payload, qos=1)))
            while len(infos) > 2_000 and not infos[-2_000][1].is_published() and time.monotonic() < until:
                time.sleep(0.001)
        for n, info in infos:
            info.wait_for_publish(30)
            self.acknowledged |= {n} if info.is_published() else set()
        return len(infos)

    def keep_posting(self, every_s: float, stop: threading.Event) -> threading.Thread:
        """Numbers in a thread, until stopped."""

        def run() -> None:
            while not stop.wait(every_s):
                self.number()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def keep_posting_now(self, every_s: float, stop: threading.Event) -> threading.Thread:
        """The same, each with the time it is posted at: what is posted twice is visible once."""

        def run() -> None:
            while not stop.wait(every_s):
                self.number(int(time.time() * 1000))

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def judge(self, api: Api, *, raw: bool, timeout_s: float = 40.0) -> Account:
        """What came of the numbers that were acknowledged; those that were not may have been stored or not."""

        def account() -> Account:
            points = list(api.points(self.product_key, self.name, "N", raw=raw))
            gaps = api.gaps(self.product_key, self.name, "N")
            seen = {time_ms for time_ms, *_ in points}
            rows = [Row(n, at, {"N": n}) for n, at in self.sent.items() if n in self.acknowledged or at in seen]
            return balance(self.name, rows, {"N": points}, {"N": gaps})

        found, deadline = account(), time.monotonic() + timeout_s
        while found.lost and time.monotonic() < deadline:
            time.sleep(0.5)
            found = account()
        return found

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
