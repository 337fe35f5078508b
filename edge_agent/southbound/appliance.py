"""What an appliance's messages become: rows and records for the intake, acknowledgements and answers for the appliance. No sockets here."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import msgspec

from edge_agent.domain.batch import Shape
from edge_agent.domain.clock import Clock
from edge_agent.domain.seen import Digests, SeenRing
from edge_agent.ports import DeviceKey, Intake
from edge_agent.southbound.refusals import Refusals
from protocols.alink.codes import Code, code_of
from protocols.alink.dialogue import Dialogue, Outcome, refusal, refused_data
from protocols.alink.envelope import MessageRefused
from protocols.alink.messages import AHEAD_MS, EventPost, Reply, check_times, post_decoder, reply
from protocols.alink.topics import Kind, Topic
from protocols.edgelink.lanes import Lane
from protocols.edgelink.records import EventRecord
from protocols.errors import Reason, Refused
from protocols.mqtt.run import PublishRun, encode_publish
from protocols.thing.datatypes import Value
from protocols.thing.model import ThingModel

NEVER_MS = 1 << 52
_METHOD = "thing.event.property.post"
_, _SUCCESS_TAIL = reply(b"\0", _METHOD, Code.DONE).split(b"\0")
_json = msgspec.json.Encoder()


class Appliance:
    """What the front door knows of one device before it attaches."""

    __slots__ = (
        "decode",
        "dialogue",
        "digests",
        "key",
        "model",
        "post_reply_topic",
        "post_topic",
        "reply_heads",
        "secret",
        "set_topic",
        "shapes",
    )

    def __init__(self, key: DeviceKey, model: ThingModel, secret: str) -> None:
        self.key, self.model, self.secret = key, model, secret
        self.dialogue = Dialogue(key.product_key, key.device_name, model)
        self.decode = post_decoder(model).decode
        self.post_topic = str(Topic(Kind.PROPERTY_POST, key.product_key, key.device_name))
        self.post_reply_topic = str(Topic(Kind.PROPERTY_POST_REPLY, key.product_key, key.device_name))
        self.set_topic = str(Topic(Kind.PROPERTY_SET, key.product_key, key.device_name))
        self.digests = Digests(self.post_topic)
        self.shapes: dict[tuple[str, ...], Shape] = {}
        self.reply_heads: dict[int, bytes] = {}

    def shape(self, identifiers: tuple[str, ...]) -> Shape:
        shape = self.shapes.get(identifiers)
        if shape is None:
            if len(self.shapes) >= 1_024:  # a device that invents subsets of its properties must not fill memory
                self.shapes.clear()
            shape = self.shapes[identifiers] = Shape(self.key.product_key, self.key.device_name, self.model, identifiers)
        return shape

    def reply_head(self, id_length: int) -> bytes:
        """A PUBLISH (3.1.1, QoS 0) of a success reply up to its id, for ids of this length."""
        head = self.reply_heads.get(id_length)
        if head is None:
            packet = encode_publish(self.post_reply_topic, reply(b"\0" * id_length, _METHOD, Code.DONE))
            head = self.reply_heads[id_length] = packet[: packet.index(b"\0" * id_length, len(self.post_reply_topic))]
        return head


@dataclass(frozen=True, slots=True)
class Taken:
    """A run that was taken in: what goes out once it is durable, or why it was refused: MQTT 5 is told so, 3.1.1 is closed."""

    acks: bytes = b""
    answers: tuple[tuple[str, bytes], ...] = ()
    refused: Refused | None = None


class Reception:
    """Takes runs of messages in. A message that is already in the buffer is acknowledged and answered, and not taken in twice."""

    def __init__(self, intake: Intake, seen: Mapping[Lane, SeenRing], clock: Clock, answered: Callable[[DeviceKey, Reply], None]) -> None:
        self._intake, self._clock, self._answered = intake, clock, answered
        self._live, self._alarm = seen[Lane.LIVE], seen[Lane.ALARM]
        self.counts: Counter[str] = Counter()
        self.refusals = Refusals()

    def take(self, appliance: Appliance, run: PublishRun, version: int) -> Taken:
        """One run of an attached appliance that speaks this version of MQTT."""
        self.counts["messages"] += run.count
        if run.topic.partition("?")[0] != appliance.post_topic:
            return self._others(appliance, run, version)
        packets = self._alike(appliance, run) if run.count > 1 and version < 5 else None
        if packets is not None:
            return Taken(run.acks() + packets)
        topic = appliance.post_reply_topic
        return Taken(run.acks(), tuple((topic, answer) for answer in self._each(appliance, run)))

    def _now_ms(self) -> int:
        """What a device's own times are held against: nothing, while we do not know the time ourselves. The cloud looks again."""
        return NEVER_MS if self._clock.period else self._clock.now_ms()

    def count_refusal(self, key: DeviceKey, refused: Refused) -> None:
        """A message of an attached appliance, or something in it, was not taken."""
        self.refusals.count(refused, self._clock.now_ms(), who=str(key))

    def _alike(self, appliance: Appliance, run: PublishRun) -> bytes | None:
        """Take in a run whose messages are alike, new, timed and without fault, and return its replies as packets.

        None, and nothing taken in, if they are not all that: then each is looked at.
        """
        decode, digest = appliance.decode, appliance.digests.of
        values: list[Value] = []
        times: list[int | None] = []
        parts: list[bytes] = []
        digests: list[bytes] = []
        identifiers: tuple[str, ...] | None = None
        try:
            for payload in run.payloads():
                post = decode(payload)
                if post.times is None or post.refused or (post.identifiers is not identifiers and identifiers is not None):
                    return None
                identifiers = post.identifiers
                values += post.values
                times += post.times
                digests.append(digest(payload))
                if post.wants_reply:
                    parts += (appliance.reply_head(len(post.id)), post.id, _SUCCESS_TAIL)
        except MessageRefused:
            return None
        if not identifiers or None in times:
            return None
        known = cast("list[int]", times)
        shape = appliance.shape(identifiers)
        if shape.texts or max(known) > self._now_ms() + AHEAD_MS or not self._live.add_new(digests):
            return None
        self._intake.rows(shape, run.count, values, known)
        return b"".join(parts)

    def _each(self, appliance: Appliance, run: PublishRun) -> list[bytes]:
        """Take in message by message; returns the replies."""
        ring = self._live
        now_ms = self._clock.now_ms()
        replies: list[bytes] = []
        for index, payload in enumerate(run.payloads()):
            try:
                post = check_times(appliance.decode(payload), self._now_ms())
            except MessageRefused as refused:
                self.count_refusal(appliance.key, refused)
                answer = refusal(refused, _METHOD)
                if answer is not None:
                    replies.append(answer)
                continue
            times = post.times
            if times is None or None in times:
                # Without times equal payloads may be different messages: only a repeat of the same packet is one message.
                digest = appliance.digests.of(payload, run.packet_ids[2 * index : 2 * index + 2])
                known = run.dup and digest in ring
            else:
                digest = appliance.digests.of(payload)
                known = digest in ring
            if known:
                self.counts["repeated"] += 1
            elif post.identifiers:
                ring.add(digest)
                period = self._clock.period if times is None else 0  # a post with times of its own keeps them all
                at = now_ms if times is None else [now_ms if time is None else time for time in times]
                self._intake.row(appliance.shape(post.identifiers), post.values, at, period)
            for refused_value in post.refused.values():
                self.count_refusal(appliance.key, refused_value)
            if post.wants_reply:
                replies.append(reply(post.id, _METHOD, Code.DONE, refused_data(post.refused)))
        return replies

    def _others(self, appliance: Appliance, run: PublishRun, version: int) -> Taken:
        """Events, answers to commands, and what this door does not serve."""
        now_ms = self._clock.now_ms()
        answers, denied = [], None
        for index, payload in enumerate(run.payloads()):
            outcome = appliance.dialogue.handle(run.topic, payload, self._now_ms())
            refused, answer = outcome.refused, outcome.answer
            if outcome.event is not None:
                self._event(appliance, run, payload, outcome.event, now_ms, run.packet_ids[2 * index : 2 * index + 2])
            elif outcome.reply is not None:
                self._answered(appliance.key, outcome.reply)
            elif refused is None and outcome.answer is None:
                refused = Refused(Reason.UNKNOWN_TOPIC, f"{run.topic[:128]}: {_NOT_CARRIED}")
                answer = _not_carried(outcome, refused)
            if refused is not None:
                self.count_refusal(appliance.key, refused)
                if refused.reason is Reason.FOREIGN_TOPIC and version < 5:
                    return Taken(refused=refused)  # 3.1.1 has no other way to say no
                if refused.reason in (Reason.FOREIGN_TOPIC, Reason.UNKNOWN_TOPIC) and version == 5:
                    denied = refused
            if answer is not None and outcome.answer_topic is not None:
                answers.append((outcome.answer_topic, answer))
        return Taken(run.acks(), tuple(answers), denied)

    def _event(self, appliance: Appliance, run: PublishRun, payload: bytes, event: EventPost, now_ms: int, packet_id: bytes) -> None:
        level = appliance.model.events[event.identifier].level
        lane = Lane.LIVE if level == "info" else Lane.ALARM
        ring = self._live if lane is Lane.LIVE else self._alarm
        digest = Digests(run.topic).of(payload, packet_id if event.time is None else b"")
        if digest in ring and (run.dup or event.time is not None):
            self.counts["repeated"] += 1
            return
        ring.add(digest)
        time_ms = now_ms if event.time is None else event.time
        output = _json.encode(event.output).decode()
        key = appliance.key
        record = EventRecord(key.product_key, key.device_name, event.identifier, time_ms, output)
        self._intake.record(lane, record, self._clock.period if event.time is None else 0)


_NOT_CARRIED = "this gateway carries posts of properties and events; connect the device to the cloud for anything else"


def _not_carried(outcome: Outcome, refused: Refused) -> bytes | None:
    """The answer to what only the cloud serves: a device that hears nothing asks for ever. Only `_reply` topics have a word for it."""
    asked = outcome.request or outcome.history
    if asked is None or outcome.answer_topic is None or not outcome.answer_topic.endswith("_reply"):
        return None
    return reply(asked.id, outcome.method, code_of(refused), message=str(refused))
