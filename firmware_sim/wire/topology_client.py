"""A gateway's dealings for its sub-devices (alink.md par. 9), as a state machine: adds them, logs them in five at a time, and again.

Values in, messages out: no socket and no clock. Who is logged in may post, and is asked things, over the gateway's connection.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeVar

import msgspec

from protocols.alink.codes import Code
from protocols.alink.messages import decode_reply
from protocols.alink.topics import Kind, Topic
from protocols.alink.topology import MOST_A_BATCH, names, sign_identity
from protocols.errors import Reason, Refused

Key = tuple[str, str]
T = TypeVar("T")


class Standing(Enum):
    """How far a sub-device is."""

    OUT = "out"
    ADDED = "added"  # or asked to be: a login may follow
    LOGGING_IN = "logging_in"
    IN = "in"
    REFUSED = "refused"  # until the topology changes, or the gateway connects again


@dataclass(slots=True)
class SubDevice:
    """A sub-device as its gateway knows it; `code` is why it was refused last."""

    key: Key
    secret: str
    standing: Standing = Standing.OUT
    code: int = 0


@dataclass(frozen=True, slots=True)
class _Asked:
    kind: Kind
    keys: tuple[Key, ...]


class _SubList(msgspec.Struct):
    status: int
    subList: list[dict[str, str]]  # noqa: N815  # the wire's own spelling


class _Change(msgspec.Struct):
    params: _SubList
    id: msgspec.Raw = msgspec.Raw(b'"0"')


class _Told(msgspec.Struct):
    code: int
    data: dict[str, str]


MOST_TRIES: Final = 3
_DELETED, _DISABLED = 1, 8
_LATER: Final = (Code.TOO_MANY_REQUESTS, Code.FAILED, Code.SERVER_ERROR)


@dataclass(slots=True)
class Counts:
    """What happened."""

    added: int = 0
    logged_in: int = 0
    logged_out: int = 0
    refused: int = 0
    forced_out: int = 0
    changes: int = 0
    codes: dict[int, int] = field(default_factory=dict)


class Topology:
    """`send` takes (topic, payload). One request is on its way at a time; `sub_devices` shows where each stands."""

    def __init__(
        self, gateway: Key, sub_devices: Mapping[Key, str], send: Callable[[str, bytes], None], timestamp: Callable[[], str]
    ) -> None:
        self._gateway, self._send, self._timestamp = gateway, send, timestamp
        self.sub_devices = {key: SubDevice(key, secret) for key, secret in sub_devices.items()}
        self.counts = Counts()
        self._number = 0
        self._asked: dict[str, _Asked] = {}
        self._tries: dict[Key, int] = {}

    def is_in(self, key: Key) -> bool:
        """Whether this one may speak."""
        found = self.sub_devices.get(key)
        return found is not None and found.standing is Standing.IN

    def connected(self) -> None:
        """A new connection carries nobody: everybody is added, which changes nothing for those that are, and logged in."""
        self._asked.clear()
        self._tries.clear()
        for sub in self.sub_devices.values():
            sub.standing, sub.code = Standing.OUT, 0
        self._go_on()

    def log_out(self, keys: Sequence[Key]) -> None:
        """Take them offline; they stay in the topology."""
        leaving = [key for key in keys if self.is_in(key)]
        for key in leaving:
            self.sub_devices[key].standing = Standing.REFUSED
        for start in range(0, len(leaving), MOST_A_BATCH):
            part = leaving[start : start + MOST_A_BATCH]
            self._ask(Kind.BATCH_LOGOUT, names(part), tuple(part))

    def log_in(self, keys: Sequence[Key]) -> None:
        """Have them come (again)."""
        for key in keys:
            sub = self.sub_devices.get(key)
            if sub is not None and sub.standing is Standing.REFUSED:
                sub.standing = Standing.OUT
        self._go_on()

    @property
    def waits_for(self) -> int:
        """The number of the request that is on its way; 0 without one."""
        return self._number if self._asked else 0

    def give_up(self) -> None:
        """The answer does not come: ask once more, one by one."""
        for asked in self._asked.values():
            if asked.kind is not Kind.BATCH_LOGOUT:
                self._on_refusal(asked.kind, [self.sub_devices[key] for key in asked.keys], int(Code.SERVER_ERROR))
        self._asked.clear()
        self._go_on()

    def receive(self, topic: Topic, payload: bytes) -> bool:
        """Take a message for the gateway; False when it is about something else."""
        if (topic.product_key, topic.device_name) != self._gateway:
            return False
        match topic.kind:
            case Kind.TOPO_ADD_REPLY | Kind.BATCH_LOGIN_REPLY | Kind.BATCH_LOGOUT_REPLY:
                self._on_reply(payload)
            case Kind.SESSION_ERROR:
                self._on_error(payload)
            case Kind.TOPO_CHANGE:
                self._on_change(topic, payload)
            case _:
                return False
        return True

    def _go_on(self) -> None:
        """The next request, if none is on its way: all that are to be added first, then logins."""
        if self._asked:
            return
        for standing, following, kind in (
            (Standing.OUT, Standing.ADDED, Kind.TOPO_ADD),
            (Standing.ADDED, Standing.LOGGING_IN, Kind.BATCH_LOGIN),
        ):
            chosen = [sub for sub in self.sub_devices.values() if sub.standing is standing][:MOST_A_BATCH]
            single = next((sub for sub in chosen if self._tries.get(sub.key)), None)  # a batch fails as a whole: then one by one
            chosen = chosen if single is None else [single]
            if not chosen:
                continue
            for sub in chosen:
                sub.standing = following
            signed = [self._signed(sub) for sub in chosen]
            body: object = signed if kind is Kind.TOPO_ADD else {"signMethod": "hmacSha256", "deviceList": signed}
            self._ask(kind, body, tuple(sub.key for sub in chosen))
            return

    def _signed(self, sub: SubDevice) -> dict[str, str]:
        product_key, device_name = sub.key
        client_id = f"{product_key}.{device_name}|_ss=1|"  # signed as it stands, bars and all
        return sign_identity(product_key, device_name, sub.secret, client_id, self._timestamp()) | {"cleanSession": "true"}

    def _ask(self, kind: Kind, params: object, keys: tuple[Key, ...]) -> None:
        self._number += 1
        topic = Topic(kind, *self._gateway)
        self._asked[str(self._number)] = _Asked(kind, keys)
        body = {"id": str(self._number), "version": "1.0", "params": params, "method": topic.method}
        self._send(str(topic), msgspec.json.encode(body))

    def _on_reply(self, payload: bytes) -> None:
        answer = decode_reply(payload)
        asked = self._asked.pop(answer.id, None)
        if asked is None:
            return  # of a connection before
        subs = [self.sub_devices[key] for key in asked.keys if key in self.sub_devices]
        if asked.kind is Kind.BATCH_LOGOUT:
            self.counts.logged_out += len(subs)
        elif answer.code != Code.DONE:
            self._on_refusal(asked.kind, subs, answer.code)
        elif asked.kind is Kind.TOPO_ADD:
            self.counts.added += len(subs)
        else:
            self.counts.logged_in += len(subs)
            for sub in subs:
                sub.standing, sub.code = Standing.IN, 0
        self._go_on()

    def _on_refusal(self, kind: Kind, subs: Sequence[SubDevice], code: int) -> None:
        """A batch is refused whole: its members are tried one by one, and the one that is refused alone stays out."""
        self.counts.codes[code] = self.counts.codes.get(code, 0) + 1
        for sub in subs:
            sub.code = code
            tries = self._tries[sub.key] = self._tries.get(sub.key, 0) + 1
            alone = len(subs) == 1 and (code not in _LATER or tries >= MOST_TRIES)
            if alone:
                sub.standing = Standing.REFUSED
                self.counts.refused += 1
            else:
                sub.standing = Standing.OUT if kind is Kind.TOPO_ADD else Standing.ADDED

    def _on_error(self, payload: bytes) -> None:
        """A session was ended by the platform, or never was: 520 logs in again, 6401 is added again, the others stay out."""
        told = _decode(payload, _Told)
        sub = self.sub_devices.get((told.data.get("productKey", ""), told.data.get("deviceName", "")))
        if sub is None:
            return
        self.counts.codes[told.code] = self.counts.codes.get(told.code, 0) + 1
        if sub.standing is not Standing.IN:
            return  # the change of the topology was here first
        self.counts.forced_out += 1
        sub.code = told.code
        if told.code == Code.NO_SUB_SESSION:
            sub.standing = Standing.ADDED  # it is in the topology: only the login is missing
        elif told.code == Code.NOT_IN_TOPOLOGY:
            sub.standing = Standing.OUT
        else:  # deleted (521), disabled (522), or at another gateway (427), which would only take it away in turn
            sub.standing = Standing.REFUSED
        self._go_on()

    def _on_change(self, topic: Topic, payload: bytes) -> None:
        """The platform changed the topology: created (0) and enabled (2) ones come, deleted (1) and disabled (8) ones stay out."""
        change = _decode(payload, _Change)
        self.counts.changes += 1
        for entry in change.params.subList:
            sub = self.sub_devices.get((entry.get("productKey", ""), entry.get("deviceName", "")))
            if sub is not None and change.params.status in (_DELETED, _DISABLED):
                sub.standing = Standing.REFUSED
            elif sub is not None and sub.standing is Standing.REFUSED:
                sub.standing = Standing.OUT
        answer = topic.reply
        if answer is not None:
            self._send(str(answer), b'{"id":%b,"code":200,"data":{}}' % bytes(change.id))
        self._go_on()


def _decode(payload: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(payload, type=kind)
    except msgspec.MsgspecError as error:
        raise Refused(Reason.BAD_ENVELOPE, f"not readable: {error}") from error
