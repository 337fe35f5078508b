"""The uplink: MQTT 5 to the cloud's front door, through aiomqtt.

A fresh client for each connection: the buffer owns what is not delivered, paho keeps nothing.
"""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiomqtt
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.client import DisconnectFlags
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_agent.ports import LinkDown
from protocols.alink.credentials import sign
from protocols.edgelink.messages import Command, Committed, ExchangeReply, decode_message
from protocols.edgelink.topics import EdgeChannel, EdgeTopic, downlink_topics
from protocols.errors import Refused

log = logging.getLogger("edge.link")

_KINDS: dict[EdgeChannel, Any] = {
    EdgeChannel.DOWN_COMMITTED: Committed,
    EdgeChannel.DOWN_EXCHANGE: ExchangeReply,
    EdgeChannel.DOWN_COMMAND: Command,
}
CONNECT_S = 10.0
_NOT_LET_IN = frozenset((0x86, 0x87))  # bad user name or password, not authorised (MQTT 5 par. 3.2.2.2)
_WHAT_TO_CHECK = "; check gateway.device_name and gateway.secret_file against what the cloud gave, and that the device is enabled there"


_CERTIFICATE = (
    "; check that uplink.host is a name the platform was started with (HEARTHLINE_TLS_NAMES), that uplink.ca_file is what "
    "`hearthline ca export` prints there, and this machine's clock"
)
_NO_TLS = "; what answers there speaks no TLS: check uplink.port (it is that of `--mqtts-port`), or a portal of this network is in the way"


def _hint(problem: Exception) -> str:
    """What to do about a connection that did not come about, where that is known."""
    if isinstance(problem, aiomqtt.MqttCodeError):
        return _WHAT_TO_CHECK if _code(problem.rc) in _NOT_LET_IN else ""
    text = str(problem)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return _CERTIFICATE
    return _NO_TLS if "[SSL" in text else ""


def _code(code: object) -> int | None:
    """The number of a paho reason code."""
    value = getattr(code, "value", code)
    return value if isinstance(value, int) else None


class _Client(aiomqtt.Client):
    """aiomqtt's `publish` forgets the PUBACK's reason code, and the forwarder has to know it.

    And a connection that ends before its CONNACK is waited for until `timeout`: here it has failed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.outcomes: dict[int, asyncio.Future[int]] = {}

    def _on_publish(self, client: PahoClient, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties) -> None:
        outcome = self.outcomes.pop(mid, None)
        if outcome is not None and not outcome.done():
            outcome.set_result(int(reason_code.value))
        super()._on_publish(client, userdata, mid, reason_code, properties)

    def _on_disconnect(
        self,
        client: PahoClient,
        userdata: Any,
        flags: DisconnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        if not self._connected.done():
            self._connected.set_exception(aiomqtt.MqttError("the connection ended before it was accepted"))
            return
        super()._on_disconnect(client, userdata, flags, reason_code, properties)

    def send(self, topic: str, payload: bytes) -> "asyncio.Future[int]":
        """Hand a QoS 1 message to paho; the future brings its PUBACK's reason code. Raises LinkDown."""
        info = self._client.publish(topic, payload, 1)
        if info.rc:
            raise LinkDown(f"not sent: paho error {info.rc}")
        outcome: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.outcomes[info.mid] = outcome
        return outcome


class Session:
    """`UplinkSession` over one aiomqtt connection."""

    def __init__(self, client: _Client, product_key: str, device_name: str) -> None:
        self._client = client
        self._up = {channel: str(EdgeTopic(product_key, device_name, channel)) for channel in EdgeChannel if channel.is_uplink}
        self._down = {str(EdgeTopic(product_key, device_name, channel)): kind for channel, kind in _KINDS.items()}

    async def publish(self, channel: EdgeChannel, payload: bytes) -> int:
        return await self._client.send(self._up[channel], payload)

    async def messages(self) -> AsyncIterator[ExchangeReply | Committed | Command]:
        try:
            async for message in self._client.messages:
                kind = self._down.get(str(message.topic))
                if kind is None or not isinstance(message.payload, bytes):
                    continue
                try:
                    yield decode_message(kind, message.payload)
                except Refused as refused:
                    log.warning("downlink.refused", extra={"topic": str(message.topic), "problem": str(refused)})
        except aiomqtt.MqttError as problem:
            raise LinkDown(str(problem)) from problem
        raise LinkDown("the cloud closed the connection")


class MqttUplink:
    """`Uplink` by host and credentials."""

    def __init__(
        self,
        host: str,
        port: int,
        product_key: str,
        device_name: str,
        secret: str,
        *,
        keepalive_s: int,
        window: int,
        tls: bool = False,
        ca_file: Path | None = None,
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        """With `tls` the platform has to show a certificate for `host` that `ca_file` (None: the system's CAs) vouches for.

        `certificate` and its key are shown to the platform, beside the signature by the secret.
        """
        self._host, self._port = host, port
        self._tls, self._ca_file, self._certificate = tls, ca_file, certificate
        self._product_key, self._device_name, self._secret = product_key, device_name, secret
        # paho sends a ping after one keepalive of silence and gives up after a second one: a dead link is noticed in 1.5 `keepalive_s`.
        self._keepalive_s = max(1, keepalive_s * 3 // 4)
        self._window = window

    def _context(self) -> ssl.SSLContext | None:
        """Made anew for each connection: a CA file that was exchanged counts from the next one on. Raises LinkDown."""
        if not self._tls:
            return None
        try:
            context = ssl.create_default_context(cafile=None if self._ca_file is None else str(self._ca_file))
        except (OSError, ssl.SSLError) as problem:
            raise LinkDown(f"uplink.ca_file: {self._ca_file} cannot be read: {problem}") from problem
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._certificate is not None:
            try:
                context.load_cert_chain(*self._certificate)
            except (OSError, ssl.SSLError) as problem:
                raise LinkDown(f"uplink.certificate_file: {self._certificate[0]} and its key cannot be used: {problem}") from problem
        return context

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Session]:
        """A connection; raises LinkDown, also when it breaks while in use."""
        who = sign(self._product_key, self._device_name, self._secret)
        client = _Client(
            self._host,
            self._port,
            identifier=who.client_id,
            username=who.username,
            password=who.password.decode(),
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=True,
            keepalive=self._keepalive_s,
            timeout=CONNECT_S,
            max_inflight_messages=self._window + 4,  # frames, exchange
            tls_context=self._context(),
        )
        client.pending_calls_threshold = 1 << 20
        try:
            async with client:
                for topic in downlink_topics(self._product_key, self._device_name):
                    await client.subscribe(topic, qos=1)
                yield Session(client, self._product_key, self._device_name)
        except aiomqtt.MqttError as problem:
            raise LinkDown(f"{self._host}:{self._port}: {problem}{_hint(problem)}") from problem
        finally:
            for outcome in client.outcomes.values():
                outcome.cancel()
