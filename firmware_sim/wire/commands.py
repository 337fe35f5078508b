"""What is asked of a device, and its answer: property sets, gets and services, on all their topics (alink.md par. 5). No socket here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from protocols.alink.codes import Code, code_of
from protocols.alink.envelope import UNREADABLE, open_request
from protocols.alink.messages import SERVICE_PREFIX, reply
from protocols.alink.topics import Kind, Topic
from protocols.errors import Reason, Refused
from protocols.thing.datatypes import Value
from protocols.thing.model import ThingModel

KINDS = (Kind.PROPERTY_SET, Kind.PROPERTY_GET, Kind.SERVICE, Kind.RRPC_SERVICE, Kind.RRPC_REQUEST)
"""The topics on which something is asked."""

SET, GET = "thing.service.property.set", "thing.service.property.get"

Obey = Callable[[Mapping[str, Value]], None]
Serve = Callable[[str, Mapping[str, Value]], Mapping[str, Value] | None]
"""(service, input) to output; None: the appliance does not have this service."""


def answer_topic(topic: Topic) -> Topic:
    """Where the answer goes: a call at once is answered on its own topic, or on that of the response, anything else on `..._reply`.

    >>> str(answer_topic(Topic.parse("/ext/rrpc/7/sys/pk/dn/thing/service/Blink")))
    '/ext/rrpc/7/sys/pk/dn/thing/service/Blink'
    >>> str(answer_topic(Topic.parse("/sys/pk/dn/rrpc/request/7")))
    '/sys/pk/dn/rrpc/response/7'
    """
    if topic.kind is Kind.RRPC_SERVICE:
        return topic
    if topic.kind is Kind.RRPC_REQUEST:
        return Topic(Kind.RRPC_RESPONSE, topic.product_key, topic.device_name, call=topic.call)
    answer = topic.reply
    if answer is None:
        raise Refused(Reason.UNKNOWN_TOPIC, f"nothing is asked on {topic}")
    return answer


NO_SUCH_SERVICE = 5161  # alink.md par. 11: service lookup failed


class NoSuchService(Refused):
    """The appliance does not have the service that was called."""

    def __init__(self, service: str) -> None:
        super().__init__(Reason.UNKNOWN_IDENTIFIER, f"{service[:64]}: this appliance has no such service")


@dataclass(slots=True)
class Commands:
    """Checks what is asked against the thing model, has it done and makes the answer. `sets` and `calls` count what came."""

    model: ThingModel | None = None
    obey: Obey | None = None
    serve: Serve | None = None
    values: Callable[[], Mapping[str, object]] = dict
    sets: int = field(default=0, init=False)
    calls: int = field(default=0, init=False)

    def answer(self, topic: Topic, payload: bytes) -> tuple[str, bytes]:
        """(topic, payload) of the answer to what came; raises Refused when it cannot be read at all."""
        request = open_request(payload)
        code, text, data = int(Code.DONE), "success", b"{}"
        try:
            method = msgspec.json.decode(request.method or b'""') or topic.method
            data = msgspec.json.encode(self._do(str(method), msgspec.json.decode(request.params or b"{}")))
        except NoSuchService as error:
            code, text = NO_SUCH_SERVICE, str(error)
        except Refused as error:
            code, text = code_of(error), str(error)
        except UNREADABLE as error:
            raise request.refuse(Reason.BAD_JSON, f"not JSON: {error}") from error
        return str(answer_topic(topic)), reply(request.id, str(method), code, data, text)

    def _do(self, method: str, params: object) -> Mapping[str, object]:
        if method == GET:
            wanted = params if isinstance(params, list) else []
            return {name: value for name, value in self.values().items() if name in wanted}
        if not isinstance(params, dict):
            raise Refused(Reason.BAD_ENVELOPE, "params have to be an object")
        if method == SET:
            self.sets += 1
            self.set(params)
            return {}
        self.calls += 1
        return self._call(method.removeprefix(SERVICE_PREFIX), params)

    def set(self, params: Mapping[str, object]) -> None:
        """Take values; the new ones show in the next post. Raises Refused, and takes none of them, when one does not fit."""
        values: Mapping[str, Value] = {} if self.model is None else self.model.coerce_set(params)
        if self.obey is None:
            raise Refused(Reason.NOT_ALLOWED, "this device takes no commands")
        self.obey(values)

    def _call(self, service: str, params: Mapping[str, object]) -> Mapping[str, object]:
        if self.model is None or self.serve is None or service not in self.model.services:
            raise NoSuchService(service)
        output = self.serve(service, self.model.coerce_input(service, params))
        if output is None:
            raise NoSuchService(service)
        types = self.model.services[service].output
        return {name: types[name].coerce(value, f"{service}.{name}") for name, value in output.items()}
