"""Any order of what client, owner and time do keeps the session's promises."""

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocols.mqtt.codec import (
    ConnAck,
    Connect,
    Decoder,
    Disconnect,
    PingReq,
    PingResp,
    Properties,
    PubAck,
    PublishRun,
    Will,
    encode,
    encode_publish,
)
from protocols.mqtt.session import Disconnected, Event, Limits, Published, ServerSession
from tests.unit.protocols.mqtt.packets import Publish, singles

LIMITS = Limits(in_flight=3, queued_messages=4)
WILL = Will("w", b"gone")


class Conversation(RuleBasedStateMachine):
    """A client that keeps the rules, an owner that acknowledges when it likes, a wire that cuts anywhere."""

    @initialize(version=st.sampled_from([3, 4, 5]), window=st.integers(1, 5))
    def connect(self, version: int, window: int) -> None:
        self.version, self.now = version, 0.0
        self.window = min(window, LIMITS.in_flight) if version == 5 else LIMITS.in_flight
        self.session = ServerSession(0.0, LIMITS)
        self.client = Decoder(version, server_side=False)
        self.wire = encode(Connect("a", keepalive=10, will=WILL, version=version, properties=Properties(receive_maximum=window)))
        self.heard = 0.0
        self.accepted = self.clean = False
        self.ends: list[Disconnected] = []
        self.published: list[int] = []  # packet ids, as the client sent them
        self.seen: list[int] = []  # as the owner saw them
        self.unacknowledged: deque[PublishRun] = deque()
        self.acknowledged: list[int] = []
        self.acks: list[int] = []  # as the client read them
        self.promised: list[bytes] = []  # deliveries that were taken
        self.delivered: list[bytes] = []
        self.in_hand: list[int] = []  # deliveries the client has not acknowledged
        self.pings = self.pongs = self.connacks = 0

    def take(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Published):
                assert self.accepted
                assert not self.ends
                ids = event.run.packet_ids
                self.seen += [int.from_bytes(ids[at : at + 2], "big") for at in range(0, len(ids), 2)]
                self.unacknowledged.append(event.run)
            elif isinstance(event, Disconnected):
                self.ends.append(event)
                assert event.will == (None if self.clean else WILL)

    # the client

    @rule(packet_id=st.integers(1, 65_535), times=st.integers(1, 4), size=st.sampled_from([1, 2, 200]))
    def publish(self, packet_id: int, times: int, size: int) -> None:
        if not self.clean:
            self.wire += encode_publish("t", bytes(size), 1, packet_id, version=self.version) * times
            self.published += [packet_id] * times

    @rule()
    def ping(self) -> None:
        if not self.clean:
            self.wire += encode(PingReq())
            self.pings += 1

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data())
    def acknowledge_a_delivery(self, data: st.DataObject) -> None:
        packet_id = data.draw(st.sampled_from(self.in_hand))
        if not self.clean:
            self.in_hand.remove(packet_id)
            self.wire += encode(PubAck(packet_id), self.version)

    @precondition(lambda self: self.accepted)
    @rule()
    def say_goodbye(self) -> None:
        if not self.clean:
            self.wire += encode(Disconnect(), self.version)
            self.clean = True
            self.flow(len(self.wire))

    @rule(size=st.integers(1, 600))
    def flow(self, size: int) -> None:
        data, self.wire = self.wire[:size], self.wire[size:]
        self.take(self.session.receive(data, self.now))
        self.heard = self.now

    # the owner

    @precondition(lambda self: self.session.holding)
    @rule()
    def accept(self) -> None:
        self.accepted = True
        self.take(self.session.accept())

    @precondition(lambda self: self.unacknowledged)
    @rule()
    def acknowledge(self) -> None:
        run = self.unacknowledged.popleft()
        if not self.ends:
            ids = run.packet_ids
            self.acknowledged += [int.from_bytes(ids[at : at + 2], "big") for at in range(0, len(ids), 2)]
        self.session.acknowledge(run.acks())

    @rule(qos=st.integers(0, 1))
    def deliver(self, qos: int) -> None:
        payload = b"%d" % len(self.promised) if qos else b""
        waiting = self.session.awaiting
        taken = self.session.deliver("d", payload, qos)
        assert taken == (self.session.connected and (not qos or waiting < self.window + LIMITS.queued_messages))
        if taken and qos:
            self.promised.append(payload)

    @precondition(lambda self: self.accepted)
    @rule(way=st.sampled_from(["takeover", "close", "connection_lost"]), likely=st.integers(0, 9))
    def end(self, way: str, likely: int) -> None:
        if likely == 9:
            self.take(getattr(self.session, way)())
            assert self.session.should_close

    @rule(seconds=st.sampled_from([0.0, 1.0, 5.0, 9.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        deadline = self.session.deadline
        self.take(self.session.tick(self.now))
        if deadline is not None:
            assert self.session.should_close == (self.now > deadline)

    @rule()
    def read(self) -> None:
        """The client reads what there is."""
        for packet in singles(self.client.feed(self.session.take_output())):
            match packet:
                case ConnAck():
                    self.connacks += 1
                case PubAck():
                    self.acks.append(packet.packet_id)
                case Publish():
                    if packet.qos:
                        self.delivered.append(packet.payload)
                        assert packet.packet_id not in self.in_hand
                        self.in_hand.append(packet.packet_id)
                case PingResp():
                    self.pongs += 1
                case Disconnect():
                    assert self.version == 5
                    assert self.session.should_close

    # what holds at any time

    @invariant()
    def nothing_is_lost_or_moved(self) -> None:
        assert self.seen == self.published[: len(self.seen)]
        assert self.acks == self.acknowledged[: len(self.acks)]
        assert self.delivered == self.promised[: len(self.delivered)]

    @invariant()
    def bounds_hold(self) -> None:
        assert len(self.in_hand) <= self.window
        assert self.session.awaiting <= self.window + LIMITS.queued_messages
        assert self.pongs <= self.pings
        assert self.connacks <= 1

    @invariant()
    def an_accepted_session_ends_once(self) -> None:
        assert len(self.ends) == (self.accepted and self.session.should_close)

    def teardown(self) -> None:
        """Left alone, everything that was promised arrives."""
        if not hasattr(self, "session") or self.session.should_close:
            return
        self.take(self.session.receive(self.wire, self.now))
        if self.session.holding:
            self.accept()
        for _ in range(len(self.promised) + 1):
            while self.unacknowledged:
                self.acknowledge()
            self.read()
            self.take(self.session.receive(b"".join(encode(PubAck(one), self.version) for one in self.in_hand), self.now))
            self.in_hand = []
        self.read()
        assert self.acks == self.acknowledged == self.seen == self.published
        assert self.delivered == self.promised
        assert (self.pongs, self.connacks, self.ends) == (self.pings, 1, [])


TestConversation = Conversation.TestCase
TestConversation.settings = settings(deadline=None, stateful_step_count=40)
