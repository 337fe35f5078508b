"""What a device does about its shadow (alink.md par. 8) and about desired values (par. 5), as state machines without a socket.

`ShadowMirror` reports by /shadow/update with versions of its own, and does what `control` brings. `DesiredValues` asks for what is desired
when it connects, and takes it back once it is done.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from protocols.alink.messages import decode_reply
from protocols.alink.shadow import ShadowCode, shadow_delta, shadow_question, shadow_report
from protocols.alink.topics import Kind, Topic
from protocols.errors import Reason, Refused

Take = Callable[[Mapping[str, object]], None]
"""Carry values out; raises Refused for values that the device does not take."""


class _Payload(msgspec.Struct):
    status: str = ""
    version: int = 0
    content: dict[str, str] = {}
    state: dict[str, dict[str, object]] = {}


class _FromShadow(msgspec.Struct):
    method: str
    payload: _Payload
    version: int = 0


class ShadowMirror:
    """One report is on its way at a time: what changes meanwhile goes with the next. A part of a device (see `Part`)."""

    def __init__(
        self, key: tuple[str, str], send: Callable[[str, bytes], None], take: Take, values: Callable[[], Mapping[str, object]]
    ) -> None:
        self._key, self._send, self._take, self._values = key, send, take, values
        self._topic = str(Topic(Kind.SHADOW_UPDATE, *key))
        self._version: int | None = None  # what the server has, as far as is known
        self._reported: dict[str, object] = {}
        self._on_the_way: dict[str, object] | None = None
        self.conflicts = self.reports = self.refused = 0

    async def start(self) -> None:
        """A new connection knows nothing: what was on its way may be lost."""
        self._version, self._on_the_way = None, None

    async def work(self) -> None:
        """Read the shadow first: it brings the version, and what was desired meanwhile."""
        self._send(self._topic, shadow_question())

    def report(self) -> None:
        """Report what differs from what the shadow has."""
        if self._version is None or self._on_the_way is not None:
            return
        changed = shadow_delta(self._values(), self._reported)
        if changed:
            self._on_the_way = changed
            self._send(self._topic, shadow_report(self._version + 1, changed))

    def receive(self, topic: Topic, payload: bytes) -> bool:
        if topic.kind is not Kind.SHADOW_GET or (topic.product_key, topic.device_name) != self._key:
            return False
        try:
            message = msgspec.json.decode(payload, type=_FromShadow)
        except msgspec.MsgspecError as error:
            raise Refused(Reason.BAD_JSON, f"not a message of the shadow: {error}") from error
        if message.payload.status == "error":
            self._on_error(message.payload.content.get("errorcode", ""))
        elif message.payload.state or message.method == "control":
            self._on_content(message)
        else:
            self._reported |= self._on_the_way or {}
            self._version, self._on_the_way = message.payload.version, None
            self.reports += 1
        self.report()
        return True

    def _on_error(self, code: str) -> None:
        self._on_the_way = None
        if code == str(int(ShadowCode.CONFLICT)):
            self.conflicts += 1
            self._version = None  # nothing is reported until it is known again
            self._send(self._topic, shadow_question())
        else:
            self.refused += 1

    def _on_content(self, message: _FromShadow) -> None:
        self._version = message.version
        self._reported = dict(message.payload.state.get("reported", {}))
        wanted = shadow_delta(message.payload.state.get("desired", {}), self._values())
        if wanted:
            try:
                self._take(wanted)
            except Refused:
                self.refused += 1


class DesiredValues:
    """Asks for what is desired of `identifiers`, does it, and takes back the versions that it did. A part of a device (see `Part`)."""

    def __init__(self, key: tuple[str, str], send: Callable[[str, bytes], None], take: Take, identifiers: Sequence[str]) -> None:
        self._key, self._send, self._take, self._identifiers = key, send, take, identifiers
        self.done = self.refused = 0

    async def start(self) -> None:
        """Nothing is kept."""

    async def work(self) -> None:
        self._ask(Kind.DESIRED_GET, list(self._identifiers))

    def _ask(self, kind: Kind, params: object) -> None:
        topic = Topic(kind, *self._key)
        self._send(str(topic), msgspec.json.encode({"id": "1", "version": "1.0", "params": params, "method": topic.method}))

    def receive(self, topic: Topic, payload: bytes) -> bool:
        if (topic.product_key, topic.device_name) != self._key or topic.kind not in (Kind.DESIRED_GET_REPLY, Kind.DESIRED_DELETE_REPLY):
            return False
        if topic.kind is Kind.DESIRED_GET_REPLY:
            self._on_desired(decode_reply(payload).data)
        return True

    def _on_desired(self, data: object) -> None:
        try:
            wanted = msgspec.convert(data, dict[str, dict[str, object]])
        except msgspec.ValidationError as error:
            raise Refused(Reason.BAD_ENVELOPE, f"not a list of desired values: {error}") from error
        taken: dict[str, object] = {}
        for name, entry in wanted.items():
            try:
                self._take({name: entry.get("value")})
            except Refused:
                self.refused += 1
            else:
                self.done += 1
                taken[name] = {"version": entry.get("version")}
        if taken:
            self._ask(Kind.DESIRED_DELETE, taken)
