"""What a device's message means and how it is answered: bytes in, effects out. Used by the cloud and by the edge's front door."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import msgspec

from protocols.alink.codes import Code, code_of, explain
from protocols.alink.envelope import NO_ID, MessageRefused
from protocols.alink.history import HistoryPost, read_history
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
from protocols.alink.requests import DeviceRequest, is_request, read_request
from protocols.alink.topics import Kind, Topic
from protocols.errors import Reason, Refused
from protocols.thing.model import ThingModel


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """The effects of one message: at most one of the first seven; an answer to send; a refusal to count.

    A `request` and a `history` are answered by whoever knows what they are about; `answer_topic` says where. `raw` is for a decoding table.
    """

    post: Post | None = None
    event: EventPost | None = None
    history: HistoryPost | None = None
    request: DeviceRequest | None = None
    reply: Reply | None = None
    raw: bytes | None = None
    custom: bytes | None = None
    answer_topic: str | None = None
    answer: bytes | None = None
    refused: Refused | None = None
    method: str = ""


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
    answer = topic.reply
    if (kind := _ANSWER_TOPICS.get(topic.kind)) is not None:
        answer = Topic(kind, topic.product_key, topic.device_name)
    return _Route(topic, handler, topic.method, None if answer is None else str(answer))


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


def _on_history(model: ThingModel, route: _Route, payload: bytes, now_ms: int) -> Outcome:
    post = read_history(route.topic.kind, payload)
    return Outcome(history=post, answer_topic=route.answer_topic if post.wants_reply else None, method=route.method)


def _on_request(model: ThingModel, route: _Route, payload: bytes, now_ms: int) -> Outcome:
    request = read_request(route.topic.kind, payload)
    return Outcome(request=request, answer_topic=route.answer_topic if request.wants_reply else None, method=route.method)


def _on_reply(model: ThingModel, route: _Route, payload: bytes, now_ms: int) -> Outcome:
    return Outcome(reply=decode_reply(payload))


def _on_told(model: ThingModel, route: _Route, payload: bytes, now_ms: int) -> Outcome:
    """What a device says to something that no command stands behind: for whoever knows what it was about."""
    told = decode_reply(payload)
    return Outcome(request=DeviceRequest(route.topic.kind, NO_ID, False, told), method=route.method)


def _on_call_reply(model: ThingModel, route: _Route, payload: bytes, now_ms: int) -> Outcome:
    """The answer to a call: whose it is says the topic, since SDKs put what they like into the id."""
    return Outcome(reply=msgspec.structs.replace(decode_reply(payload), id=route.topic.call))


def _on_free_reply(model: ThingModel, route: _Route, payload: bytes, now_ms: int) -> Outcome:
    """The answer to a call on a topic of the maker's own, in whatever form."""
    try:
        return Outcome(reply=msgspec.structs.replace(decode_reply(payload), id=route.topic.call))
    except MessageRefused:
        text = payload.decode(errors="replace").replace("\0", "")
        return Outcome(reply=Reply(route.topic.call, Code.DONE, text))


def _on_raw(model: ThingModel, route: _Route, payload: bytes, now_ms: int) -> Outcome:
    return Outcome(raw=payload, answer_topic=route.answer_topic)


def _on_custom(model: ThingModel, route: _Route, payload: bytes, now_ms: int) -> Outcome:
    return Outcome(custom=payload)


_ANSWER_TOPICS = {  # where an answer's topic follows no rule
    Kind.NTP_REQUEST: Kind.NTP_RESPONSE,
    Kind.SHADOW_UPDATE: Kind.SHADOW_GET,
    Kind.OTA_REQUEST: Kind.OTA_UPGRADE,
}

Handler = Callable[[ThingModel, _Route, bytes, int], Outcome]
_HANDLERS: dict[Kind, Handler] = {  # a new method of a device is a new row
    Kind.PROPERTY_POST: _on_property_post,
    Kind.EVENT_POST: _on_event_post,
    Kind.BATCH_POST: _on_history,
    Kind.HISTORY_POST: _on_history,
    Kind.PACK_POST: _on_history,
    Kind.RRPC_SERVICE: _on_call_reply,
    Kind.RRPC_RESPONSE: _on_free_reply,
    Kind.RRPC_CUSTOM: _on_free_reply,
    Kind.RAW_UP: _on_raw,
    Kind.RAW_DOWN_REPLY: _on_raw,
    Kind.CUSTOM: _on_custom,
    Kind.CONFIG_PUSH_REPLY: _on_told,
    **{kind: _on_request for kind in Kind if is_request(kind)},
    **dict.fromkeys(
        (
            Kind.PROPERTY_SET_REPLY,
            Kind.PROPERTY_GET_REPLY,
            Kind.SERVICE_REPLY,
            Kind.DISABLE_REPLY,
            Kind.ENABLE_REPLY,
            Kind.DELETE_REPLY,
            Kind.TOPO_ADD_NOTIFY_REPLY,
            Kind.TOPO_CHANGE_REPLY,
            Kind.GATEWAY_PERMIT_REPLY,
            Kind.BOOTSTRAP_NOTIFY_REPLY,
        ),
        _on_reply,
    ),
}

__all__ = ["Code", "Dialogue", "Outcome", "refusal", "refused_data"]
