"""Whatever is delivered, acknowledged and lost: a kept session loses nothing, doubles only what had no PUBACK, and keeps order."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocols.mqtt.codec import ConnAck, Connect, Decoder, Properties, PubAck, encode
from protocols.mqtt.downlink import NEVER, Message
from protocols.mqtt.events import Disconnected, Limits
from protocols.mqtt.kept import KeptSessions
from protocols.mqtt.session import ServerSession
from tests.unit.protocols.mqtt.packets import Publish, singles

LIMITS = Limits(session_s=1_000, in_flight=3, queued_messages=4)


class Device(RuleBasedStateMachine):
    """A device that comes and goes, in any version of MQTT, with any window; an owner that delivers; time that passes."""

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.store: KeptSessions[str, None] = KeptSessions(1 << 20, LIMITS)
        self.session: ServerSession | None = None
        self.count = 0
        self.promised: dict[bytes, float] = {}  # taken and not acknowledged, in order: when it expires
        self.received: list[bytes] = []  # for the first time, in order
        self.seen: set[bytes] = set()
        self.in_hand: dict[int, bytes] = {}
        self.order: list[bytes] = []

    @precondition(lambda self: self.session is None)
    @rule(version=st.sampled_from([3, 4, 5]), window=st.integers(1, 4), aliases=st.integers(0, 2))
    def connect(self, version: int, window: int, aliases: int) -> None:
        self.session = ServerSession(self.now, LIMITS)
        self.window = min(window, LIMITS.in_flight) if version == 5 else LIMITS.in_flight
        self.client = Decoder(version, server_side=False)
        self.client.alias_maximum = aliases
        properties = Properties(session_expiry_interval=1_000, receive_maximum=window, topic_alias_maximum=aliases)
        self.session.receive(encode(Connect("d", clean_start=False, version=version, properties=properties)), self.now)
        kept = self.store.resume("d")
        self.session.accept(kept, now=self.now)
        self.in_hand = {}
        self.read()

    @precondition(lambda self: self.session is not None)
    @rule()
    def lose(self) -> None:
        assert self.session is not None
        (event,) = self.session.connection_lost()
        assert isinstance(event, Disconnected)
        assert event.kept is not None
        assert self.store.keep("d", event.kept, None, self.now) == []
        self.session = None

    @rule(expires=st.sampled_from([0.0, 3.0, 20.0, NEVER]), topic=st.sampled_from(["t", "a/topic/that/is/long"]))
    def deliver(self, expires: float, topic: str) -> None:
        payload, at = b"%d" % self.count, self.now + expires
        self.count += 1
        if self.session is None:
            taken, _ = self.store.offer("d", Message(topic, payload, at), self.now)
        else:
            taken = self.session.deliver(topic, payload, 1, expires=at, now=self.now)
        if taken:
            assert expires > 0
            self.promised[payload] = at
            self.order.append(payload)
        self.read()

    @precondition(lambda self: self.session is not None and self.in_hand)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        assert self.session is not None
        packet_id = data.draw(st.sampled_from(sorted(self.in_hand)))
        payload = self.in_hand.pop(packet_id)
        self.promised.pop(payload, None)
        self.session.receive(encode(PubAck(packet_id), self.session.version), self.now)
        self.read()

    @rule(seconds=st.sampled_from([1.0, 2.0, 10.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        assert self.store.due(self.now) == []

    def read(self) -> None:
        if self.session is None:
            return
        for packet in singles(self.client.feed(self.session.take_output())):
            if isinstance(packet, ConnAck):
                continue
            assert isinstance(packet, Publish)
            assert packet.qos == 1
            assert packet.packet_id not in self.in_hand
            assert packet.dup is (packet.payload in self.seen)
            expires = self.promised[packet.payload]  # KeyError: sent after its PUBACK
            assert expires > self.now
            if self.session.version == 5:
                left = None if expires == NEVER else int(expires - self.now)
                assert packet.properties.message_expiry_interval == left
            if not packet.dup:
                self.received.append(packet.payload)
                self.seen.add(packet.payload)
            self.in_hand[packet.packet_id] = packet.payload

    @invariant()
    def first_deliveries_are_in_order(self) -> None:
        if hasattr(self, "order"):
            wanted = [payload for payload in self.order if payload in self.seen]
            assert self.received == wanted

    @invariant()
    def the_window_holds(self) -> None:
        if getattr(self, "session", None) is not None:
            assert len(self.in_hand) <= self.window

    def teardown(self) -> None:
        """A client that acknowledges everything gets everything that was promised and has not expired."""
        if not hasattr(self, "order"):
            return
        if self.session is None:
            self.connect(4, 3, 0)
        assert self.session is not None
        while self.in_hand:
            packet_id, payload = self.in_hand.popitem()
            self.promised.pop(payload, None)
            self.session.receive(encode(PubAck(packet_id), self.session.version), self.now)
            self.read()
        assert all(expires <= self.now for expires in self.promised.values())
        assert self.session.awaiting == 0


TestDevice = Device.TestCase
TestDevice.settings = settings(deadline=None, stateful_step_count=40)
