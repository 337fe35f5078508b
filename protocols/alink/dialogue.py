"""What a device's message means and how it is answered: bytes in, effects out. Used by the cloud and by the edge's front door."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import msgspec

from protocols.alink.codes import Code, code_of, explain
from protocols.alink.envelope import NO_ID, MessageRefused
from protocols.alink.messages import (
    EventPost,
    Post,
    Reply,
    check_times,
    decode_event,
    decode_reply,
    post_decoder,
    reply,
)
from protocols.alink.topics import Kind, Topic
from protocols.errors import Reason, Refused
from protocols.thing.model import ThingModel


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """The effects of one message: at most one of `post`, `event`, `set_reply`, `custom`; an answer to send; a refusal to count."""

    post: Post | None = None
    event: EventPost | None = None
    set_reply: Reply | None = None
    custom: bytes | None = None
    answer_topic: str | None = None
    answer: bytes | None = None
    refused: Refused | None = None


def refused_data(refused: Mapping[str, Refused]) -> bytes:
    """A reply's `data` (raw JSON) naming each value that was left out: the message itself is answered 200."""
    return msgspec.json.encode({name: explain(error) for name, error in refused.items()}) if refused else b"{}"


def refusal(error: Refused, method: str) -> bytes | None:
    """The reply to a message refused as a whole; None when the device wants no reply."""
    if not isinstance(error, MessageRefused):
        return reply(NO_ID, method, code_of(error), message=str(error))
    return reply(error.id, method, code_of(error), message=str(error)) if error.wants_reply else None


@dataclass(slots=True)
class Dialogue:
    """One device's side of the conversation; holds no state but what it was made from."""

    product_key: str
    device_name: str
    model: ThingModel

    def handle(self, topic: str, payload: bytes, now_ms: int) -> Outcome:
        """Never raises `Refused`: a refusal is part of the outcome."""
        try:
            route = _route(topic)
            if (route.topic.product_key, route.topic.device_name) != (self.product_key, self.device_name):
                raise Refused(Reason.FOREIGN_TOPIC, f"{topic[:128]} belongs to another device")
        except Refused as error:
            return Outcome(refused=error)
        try:
            return route.handler(self.model, route, payload, now_ms)
        except Refused as error:
            answer = refusal(error, route.method) if route.answer_topic else None
            return Outcome(answer_topic=route.answer_topic if answer else None, answer=answer, refused=error)


@dataclass(frozen=True, slots=True)
class _Route:
    """What is worth knowing about a topic before its payload is read."""

    topic: Topic
    handler: "Handler"
    method: str
    answer_topic: str | None


@lru_cache(maxsize=4096)
def _route(text: str) -> _Route:
    topic = Topic.parse(text)
    handler = _HANDLERS.get(topic.kind)
    if handler is None:
        raise Refused(Reason.UNKNOWN_TOPIC, f"a device does not publish on {text[:128]}")
    return _Route(topic, handler, topic.method, None if topic.reply is None else str(topic.reply))


def _on_property_post(model: ThingModel, route: _Route, payload: bytes, now_ms: int) -> Outcome:
    post = check_times(post_decoder(model).decode(payload), now_ms)
    if not post.wants_reply:
        return Outcome(post=post)
    return Outcome(post=post, answer_topic=route.answer_topic, answer=reply(post.id, route.method, data=refused_data(post.refused)))


def _on_event_post(model: ThingModel, route: _Route, payload: bytes, now_ms: int) -> Outcome:
    event = decode_event(model, route.topic.name, payload, now_ms)
    if not event.wants_reply:
        return Outcome(event=event)
    return Outcome(event=event, answer_topic=route.answer_topic, answer=reply(event.id, route.method, data=refused_data(event.refused)))


def _on_property_set_reply(model: ThingModel, route: _Route, payload: bytes, now_ms: int) -> Outcome:
    return Outcome(set_reply=decode_reply(payload))


def _on_custom(model: ThingModel, route: _Route, payload: bytes, now_ms: int) -> Outcome:
    return Outcome(custom=payload)


Handler = Callable[[ThingModel, _Route, bytes, int], Outcome]
_HANDLERS: dict[Kind, Handler] = {  # a new method of a device is a new row
    Kind.PROPERTY_POST: _on_property_post,
    Kind.EVENT_POST: _on_event_post,
    Kind.PROPERTY_SET_REPLY: _on_property_set_reply,
    Kind.CUSTOM: _on_custom,
}

__all__ = ["Code", "Dialogue", "Outcome", "refusal", "refused_data"]
