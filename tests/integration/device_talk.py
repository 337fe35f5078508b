"""A device's side of a conversation with the platform's metadata: what it sends, evaluated and answered as ingest does."""

from dataclasses import dataclass
from typing import Any

import msgspec

from cloud.access.model import Downlink, SessionRow, encode_batch
from cloud.devices.answers import ANSWERS
from cloud.devices.service import device_facts
from cloud.foundation.clock import now_ms
from cloud.foundation.db import Database
from cloud.foundation.vault import Vault
from cloud.ingest.answering import Answering
from cloud.ingest.evaluation import Evaluator, open_message
from cloud.ingest.model import Answered, SeriesBook
from cloud.ingest.registry import Registry
from cloud.ingest.service import commit
from cloud.rollouts.answers import answers
from cloud.telemetry.model import Position
from tests.integration.api_rig import Rig

BASE_URL = "http://device.test"


@dataclass(slots=True)
class Talker:
    """One device; each message is a batch of its own."""

    database: Database
    product_key: str
    device_name: str
    sequence: int = 0

    @classmethod
    def of(cls, rig: Rig, product_key: str, device_name: str) -> "Talker":
        return cls(rig.database, product_key, device_name)

    def ask(self, path: str, params: object = None, message_id: str = "7") -> dict[str, Any]:
        """A request on `/sys/pk/dn/{path}`, and its answer."""
        topic = f"/sys/{self.product_key}/{self.device_name}/{path}"
        downlinks = self.send(topic, {"id": message_id, "version": "1.0", "params": params})
        (answer,) = [one for one in downlinks if one.topic == topic + "_reply"]
        found: dict[str, Any] = msgspec.json.decode(answer.payload)
        assert found["id"] == message_id
        return found

    def send(self, topic: str, message: object) -> list[Downlink]:
        """A message on any topic; everything that leaves because of it."""
        return [*self.answered(topic, msgspec.json.encode(message)).downlinks]

    def answered(self, topic: str, payload: bytes) -> Answered:
        key = (self.product_key, self.device_name)
        facts = device_facts(self.database, [key])[key]
        session = SessionRow(facts.tenant_id, facts.device_id, *key, 1)
        self.sequence += 1
        stream = f"of {self.product_key}/{self.device_name}"
        evaluator = Evaluator(Position(stream, self.sequence - 1), SeriesBook(()), {}, registry := Registry())
        opened = open_message(self.sequence, encode_batch([(session, topic, now_ms(), [payload])]))
        registry.learn(*Registry.load(self.database, opened.products, opened.devices))
        evaluator.evaluate(opened)
        effects = evaluator.cut()
        respond = Answering(Vault(bytes(32)), {**ANSWERS, **answers(lambda: BASE_URL)})
        found = commit(self.database, 0, effects, respond)
        return Answered([*effects.downlinks, *found.downlinks], found.changes, found.quarantined)
