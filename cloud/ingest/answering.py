"""Answers what devices ask, inside the transaction that commits their batch (ADR 25): what they posted before is seen, once is once."""

import time
import traceback
from collections.abc import Callable, Mapping, Sequence

from cloud.access.model import Downlink
from cloud.devices.conversation import Handler, Talk
from cloud.foundation.clock import now_ms
from cloud.foundation.db import UnitOfWork
from cloud.foundation.logs import get_logger
from cloud.foundation.vault import Vault
from cloud.ingest.model import MOST_DETAIL, UNEXPECTED, Answered, Asked, Quarantined
from protocols.alink.codes import Answer, Code
from protocols.alink.messages import reply
from protocols.alink.topics import Kind
from protocols.errors import TryAgain

NUMBERS_FROM = 1_000_000
"""Entries of the quarantine from here are of requests: far beyond what evaluation numbers in one message of the stream."""


class Answering:
    """`handlers` by the kind of request; what has no row is answered 6203."""

    def __init__(self, vault: Vault, handlers: Mapping[Kind, Handler], clock: Callable[[], int] = now_ms) -> None:
        self._vault, self._handlers, self._clock = vault, handlers, clock

    def __call__(self, work: UnitOfWork, requests: Sequence[Asked]) -> Answered:
        """Each in a savepoint of its own: one that trips over a bug of ours is answered 500 and put aside, and stops nobody."""
        downlinks: list[Downlink] = []
        changes = []
        quarantined: list[Quarantined] = []
        for asked in requests:
            who = asked.session
            key = (who.product_key, who.device_name)
            talk = Talk(
                work,
                self._vault,
                who.tenant_id,
                who.device_id,
                key,
                asked.model,
                asked.request.params,
                asked.received_ms,
                self._clock(),
            )
            began = time.perf_counter()
            try:
                with work.session.begin_nested():
                    answer = self._handle(asked.request.kind, talk)
            except TryAgain as error:
                get_logger().warning("request.unanswered", topic=asked.topic, error=str(error))
                answer = _later(talk)
            except Exception:  # noqa: BLE001 - as the docstring says
                detail = traceback.format_exc()
                get_logger().error("request.bug", topic=asked.topic, detail=detail)
                quarantined.append(_put_aside(asked, detail))
                answer = _later(talk)
            if answer is not None and asked.answer_topic is not None:
                payload = reply(asked.request.id, asked.method, answer.code, answer.data, answer.message)
                downlinks.append(Downlink(*key, asked.answer_topic, payload))
            downlinks += [Downlink(push.product_key, push.device_name, push.topic, push.payload, push.qos) for push in talk.pushes]
            changes += talk.changes
            if (took := time.perf_counter() - began) > 1.0:
                get_logger().warning("request.slow", topic=asked.topic, took_s=round(took, 3))
        return Answered(downlinks, changes, quarantined)

    def _handle(self, kind: Kind, talk: Talk) -> Answer | None:
        handler = self._handlers.get(kind)
        if handler is None:
            return Answer(Code.TOPIC_UNKNOWN, message="this is not offered here")
        return handler(talk)


def _later(talk: Talk) -> Answer:
    """Nothing of what it began happened."""
    talk.pushes.clear()
    talk.changes.clear()
    return Answer(Code.SERVER_ERROR, message="a fault of the platform: ask again later")


def _put_aside(asked: Asked, detail: str) -> Quarantined:
    who = asked.session
    return Quarantined(
        asked.sequence,
        NUMBERS_FROM + asked.number,
        who.tenant_id,
        who.product_key,
        who.device_name,
        asked.topic[:512],
        str(UNEXPECTED),
        detail[-MOST_DETAIL:],
        asked.received_ms,
        0,
        b"",
        replayable=False,
    )
