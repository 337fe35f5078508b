"""Sub-devices at the front door: a gateway logs them in and out over its own connection (alink.md par. 9), and speaks for them meanwhile.

A sub-device has one session, like any device: the newest wins, whether it came by itself or through a gateway, and the gateway that loses
it is told 427. When the gateway's connection ends, so do the sessions it carried.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final, Protocol

import msgspec

from cloud.access.group import GroupCommit
from cloud.access.model import Kind as RowKind
from cloud.access.model import PresenceNote, SessionRow, session_key
from cloud.access.ports import SubDeviceLookup
from cloud.access.proof import fingerprint, mark_secret, standing
from cloud.access.topics import uplink_lane
from cloud.devices.model import ONLY_ITS_SECRET, Credentials, SubDevice
from cloud.foundation.clock import now_ms
from cloud.foundation.logs import get_logger
from protocols.alink.codes import Answer, Code
from protocols.alink.dialogue import refusal
from protocols.alink.envelope import MessageRefused
from protocols.alink.messages import reply
from protocols.alink.requests import DeviceRequest, read_request
from protocols.alink.topics import Kind, Topic, belongs_to
from protocols.alink.topology import MOST_ONLINE, names
from protocols.edgelink.lanes import Lane
from protocols.errors import Refused, TryAgain
from protocols.mqtt.run import PublishRun
from protocols.mqtt.session import ServerSession

Key = tuple[str, str]
Way = tuple[Lane | None, bytes]
"""How a topic's messages go on: as frames of a lane, and as whose (an encoded `SessionRow`)."""

MOST_WAITING: Final = 20
"""Logins of one gateway that wait for their answer; beyond them it is told 429."""
TOGETHER: Final = 100
_SESSION_KINDS: Final = (Kind.LOGIN, Kind.BATCH_LOGIN, Kind.LOGOUT, Kind.BATCH_LOGOUT)
_GATEWAY_KINDS: Final = (*_SESSION_KINDS, Kind.TOPO_ADD, Kind.TOPO_GET, Kind.TOPO_DELETE, Kind.SUB_REGISTER, Kind.PRODUCT_REGISTER)


@dataclass(frozen=True, slots=True)
class SubSession:
    """A sub-device that is logged in. `fingerprint` changes when it has to log in again."""

    credentials: Credentials
    row: bytes
    fingerprint: int


@dataclass(slots=True)
class Carried:
    """What a connection carries, from its first request as a gateway on."""

    sessions: dict[Key, SubSession]
    waiting: int = 0


class Gateway(Protocol):
    """A connection as this file sees it."""

    session: ServerSession
    address: str
    credentials: Credentials | None
    row: bytes
    carried: Carried | None

    def flush(self) -> None: ...
    def forget_ways(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Request:
    gateway: Gateway
    topic: Topic
    request: DeviceRequest


class SubDevices:
    """The sub-devices of all connections. `take_over` ends a device's own session."""

    def __init__(self, commit: GroupCommit, next_epoch: Callable[[], int], take_over: Callable[[Key], None]) -> None:
        self._commit, self._next_epoch, self._take_over = commit, next_epoch, take_over
        self.carriers: dict[Key, Gateway] = {}  # by sub-device
        self._line: deque[_Request] = deque()
        self._asked = asyncio.Event()
        self._errors = itertools.count(1)

    def way(self, gateway: Gateway, topic: str) -> Way | None:
        """How messages on `topic` go on; None: it is about sessions, see `asked`. Raises Refused(FOREIGN_TOPIC).

        A gateway that speaks for a device that is not logged in is told so (520), and what it sends is put aside as its own.
        """
        assert gateway.credentials is not None
        try:
            lane = uplink_lane(gateway.credentials, topic)
        except Refused:
            return None, self._row_of(gateway, topic)
        if topic.startswith(("/ext/session/", "/sys/")) and (kind := _kind(topic)) in _GATEWAY_KINDS:
            if gateway.carried is None:
                gateway.carried = Carried({})
            if kind in _SESSION_KINDS:
                return None
        return lane, gateway.row

    def _row_of(self, gateway: Gateway, topic: str) -> bytes:
        if gateway.carried is not None:
            sessions, key = gateway.carried.sessions, _named(topic)
            for known in (key,) if key is not None else sessions:  # a topic that nobody knows may be any sub-device's
                if known in sessions and belongs_to(topic, *known):
                    return sessions[known].row
            if key is not None and topic.startswith("/sys/"):
                self._tell(gateway, Code.NO_SUB_SESSION, key, "the sub-device is not logged in: log it in first")
                return gateway.row
        assert gateway.credentials is not None
        uplink_lane(gateway.credentials, topic)  # refuses
        raise AssertionError(topic)

    def may_listen(self, gateway: Gateway, topic_filter: str, allows: Callable[[Credentials, str], bool]) -> bool:
        """Whether a SUBSCRIBE is about what is sent to one of its sub-devices."""
        return gateway.carried is not None and any(allows(sub.credentials, topic_filter) for sub in gateway.carried.sessions.values())

    def asked(self, gateway: Gateway, run: PublishRun) -> None:
        """Requests for sessions came; each is answered, in order, once the registry has been asked."""
        topic = Topic.parse(run.topic)
        assert gateway.carried is not None
        for payload in run.payloads():
            try:
                request = read_request(topic.kind, payload)
            except MessageRefused as refused:
                answer = refusal(refused, topic.method)
                if answer is not None:
                    self._send(gateway, str(topic.reply), answer)
                continue
            if gateway.carried.waiting >= MOST_WAITING:
                self._answer(gateway, topic, request, Answer(Code.TOO_MANY_REQUESTS, message="wait for the answers to the logins before"))
                continue
            gateway.carried.waiting += 1
            self._line.append(_Request(gateway, topic, request))
        self._asked.set()

    async def run(self, lookup: SubDeviceLookup, confirm: Callable[[Sequence[int]], None] | None = None) -> None:
        """Answer for ever.

        `confirm` is told who came with the secret that registration gave it, before it is let in; it may raise TryAgain.
        """
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="sub-devices") as thread:
            while True:
                await self._asked.wait()
                now = [self._line.popleft() for _ in range(min(TOGETHER, len(self._line)))]
                if not self._line:
                    self._asked.clear()
                keys = list(dict.fromkeys(item.key for one in now for item in one.request.params))
                known: Mapping[Key, SubDevice] | None = None
                try:
                    known = await loop.run_in_executor(thread, lookup, keys) if keys else {}
                    if confirm is not None and (fresh := _fresh([one.request for one in now], known)):
                        await loop.run_in_executor(thread, confirm, fresh)
                except TryAgain as error:
                    known = None
                    get_logger().warning("sub_devices.unavailable", error=str(error))
                except Exception:  # noqa: BLE001 - a name that trips over a bug of ours must not end everybody's connections
                    known = None
                    get_logger().exception("sub_devices.bug", keys=keys[:MOST_WAITING])
                for one in now:
                    self._decide(one, known)

    def _decide(self, one: _Request, known: Mapping[Key, SubDevice] | None) -> None:
        gateway, kind = one.gateway, one.topic.kind
        if gateway.carried is None or not gateway.session.connected:
            return  # it went away meanwhile
        gateway.carried.waiting -= 1
        if known is None:
            answer = Answer(Code.FAILED, message="the device registry does not answer: try again later")
        elif kind in (Kind.LOGIN, Kind.BATCH_LOGIN):
            answer = self._log_in(gateway, gateway.carried, one.request, known)
        else:
            answer = self._log_out(gateway, gateway.carried, one.request)
        self._answer(gateway, one.topic, one.request, answer)

    def _log_in(self, gateway: Gateway, carried: Carried, request: DeviceRequest, known: Mapping[Key, SubDevice]) -> Answer:
        """All of them or none."""
        assert gateway.credentials is not None
        now, proved = now_ms(), list[Credentials]()
        for item in request.params:
            sub, name = known.get(item.key), "/".join(item.key)
            if sub is None or sub.credentials.tenant_id != gateway.credentials.tenant_id:
                return Answer(Code.DEVICE_UNKNOWN, message=f"{name}: no such device: enter it on the platform, or correct its name")
            secret = next((secret for secret in sub.credentials.secrets_at(now) if item.proves(secret)), None)
            if secret is None:
                return Answer(Code.BAD_SUB_SIGN, message=f"{name}: the sign is not the one that the sub-device's secret makes")
            if not sub.credentials.enabled:
                return Answer(Code.SUB_DISABLED, message=f"{name}: the device is disabled: its owner can enable it on the platform")
            if sub.gateway_id != gateway.credentials.device_id:
                return Answer(Code.NOT_IN_TOPOLOGY, message=f"{name}: it is not in the topology of this gateway: add it first")
            proved.append(replace(sub.credentials, proof=mark_secret(secret)))
        if len(carried.sessions.keys() | {item.key for item in request.params}) > MOST_ONLINE:
            return Answer(Code.TOO_MANY_SUB_DEVICES, message=f"{MOST_ONLINE} sub-devices are logged in: log some out first")
        for credentials in proved:
            self._open(gateway, carried, credentials)
        found = names([item.key for item in request.params])
        return Answer(data=msgspec.json.encode(found if request.kind is Kind.BATCH_LOGIN else found[0]))

    def _open(self, gateway: Gateway, carried: Carried, credentials: Credentials) -> None:
        key = (credentials.product_key, credentials.device_name)
        assert gateway.credentials is not None
        if (older := self.carriers.get(key)) is not None:
            self.end(key, Code.CONNECTED_ELSEWHERE, "the sub-device has logged in elsewhere", tell=older is not gateway)
        self._take_over(key)
        row = session_key(SessionRow(credentials.tenant_id, credentials.device_id, *key, self._next_epoch()))
        carried.sessions[key] = SubSession(replace(credentials, secret=b"", identity=ONLY_ITS_SECRET), row, fingerprint(credentials))
        self.carriers[key] = gateway
        gateway.forget_ways()
        self._commit.note(RowKind.OPENED, row, now_ms(), PresenceNote(gateway.address, "", gateway.credentials.device_id))

    def _log_out(self, gateway: Gateway, carried: Carried, request: DeviceRequest) -> Answer:
        """Those that are logged in leave; if one is not, it is said (520)."""
        keys = [pair.key for pair in request.params]
        absent = [key for key in keys if key not in carried.sessions]
        for key in keys:
            self.end(key, None, "", only=gateway)
        if absent:
            listed = ", ".join("/".join(key) for key in absent)
            return Answer(Code.NO_SUB_SESSION, message=f"not logged in: {listed}")
        found = names(keys)
        return Answer(data=msgspec.json.encode(found if request.kind is Kind.BATCH_LOGOUT else found[0]))

    def end(self, key: Key, code: Code | None, why: str, *, tell: bool = True, only: Gateway | None = None) -> None:
        """End a sub-device's session; its gateway is told `code`, if there is one. Nothing if it has none."""
        gateway = self.carriers.get(key)
        if gateway is None or gateway.carried is None or (only is not None and gateway is not only):
            return
        sub = gateway.carried.sessions.pop(key)
        del self.carriers[key]
        gateway.forget_ways()
        assert gateway.credentials is not None
        self._commit.note(RowKind.CLOSED, sub.row, now_ms(), PresenceNote(gateway.address, why, gateway.credentials.device_id))
        if tell and code is not None:
            self._tell(gateway, code, key, why)

    def carrier_left(self, gateway: Gateway, cause: str) -> None:
        """A connection has ended: so have the sessions that it carried."""
        for key in list(gateway.carried.sessions) if gateway.carried is not None else ():
            self.end(key, None, cause)

    def recheck(self, key: Key, sub: SubDevice | None) -> None:
        """The registry changed: end the session of a sub-device that is gone, disabled, let go of, or known otherwise than when it came."""
        gateway = self.carriers.get(key)
        if gateway is None or gateway.carried is None or gateway.credentials is None:
            return
        if sub is None:
            self.end(key, Code.SUB_DELETED, "the device is deleted")
        elif not sub.credentials.enabled:
            self.end(key, Code.SUB_DISABLED, "the device is disabled")
        elif sub.gateway_id != gateway.credentials.device_id:
            self.end(key, Code.NOT_IN_TOPOLOGY, "the sub-device is not in the topology of this gateway any more")
        elif gateway.carried.sessions[key].fingerprint not in standing(sub.credentials, (), now_ms()):
            self.end(key, Code.NO_SUB_SESSION, "the sub-device has another secret or another site now: log it in again")

    def _answer(self, gateway: Gateway, topic: Topic, request: DeviceRequest, answer: Answer) -> None:
        if request.wants_reply:
            self._send(gateway, str(topic.reply), reply(request.id, topic.method, answer.code, answer.data, answer.message))

    def _tell(self, gateway: Gateway, code: Code, key: Key, why: str) -> None:
        assert gateway.credentials is not None
        own = gateway.credentials
        body = {"id": str(next(self._errors)), "code": int(code), "data": names([key])[0], "message": why}
        self._send(gateway, str(Topic(Kind.SESSION_ERROR, own.product_key, own.device_name)), msgspec.json.encode(body))

    @staticmethod
    def _send(gateway: Gateway, topic: str, payload: bytes) -> None:
        gateway.session.deliver(topic, payload)
        gateway.flush()


def _fresh(requests: Sequence[DeviceRequest], known: Mapping[Key, SubDevice]) -> list[int]:
    """Who shows a secret that registration gave it and that it has not used, as far as is known; in order, once each."""
    logins = (item for request in requests if request.kind in (Kind.LOGIN, Kind.BATCH_LOGIN) for item in request.params)
    found = ((item, known[item.key].credentials) for item in logins if item.key in known)
    now = now_ms()
    proved = (who.device_id for item, who in found if who.identity.unconfirmed and any(item.proves(one) for one in who.secrets_at(now)))
    return list(dict.fromkeys(proved))


def _kind(topic: str) -> Kind | None:
    try:
        return Topic.parse(topic).kind
    except Refused:
        return None


def _named(topic: str) -> Key | None:
    """The device in whose name space a topic of the grammar lies."""
    try:
        parsed = Topic.parse(topic)
    except Refused:
        return None
    return parsed.product_key, parsed.device_name
