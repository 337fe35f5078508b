"""A device's request while it is answered: who asks, in which transaction, and what else leaves once that has committed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.orm import Session

from cloud.devices.device_log import add_log
from cloud.devices.model import RegistryChange
from cloud.foundation.db import UnitOfWork
from cloud.foundation.vault import Vault
from protocols.alink.codes import Answer
from protocols.alink.deviceinfo import LogLine
from protocols.alink.topics import Kind, Topic
from protocols.thing.model import ThingModel

DeviceKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Push:
    """A message for a device, to be sent after commit; it may be lost, and the device asks again."""

    product_key: str
    device_name: str
    topic: str
    payload: bytes
    qos: int = 0


@dataclass(slots=True)
class Talk:
    """One request. A handler reads and writes through `work` (of the whole system: it names devices by id), and does not commit."""

    work: UnitOfWork
    vault: Vault
    tenant_id: int
    device_id: int
    key: DeviceKey
    model: ThingModel
    params: Any
    received_ms: int
    now_ms: int
    pushes: list[Push] = field(default_factory=list)
    changes: list[RegistryChange] = field(default_factory=list)

    @property
    def session(self) -> Session:
        return self.work.session

    def note(self, module: str, text: str) -> None:
        """A line in the device's log, in the platform's own words."""
        add_log(self.session, self.device_id, [LogLine(logLevel="INFO", module=module, logContent=text)], self.received_ms)

    def push(self, kind: Kind, payload: bytes, *, qos: int = 0, to: DeviceKey | None = None) -> None:
        """Send a message to the device itself, or to another one."""
        key = to or self.key
        self.pushes.append(Push(*key, str(Topic(kind, *key)), payload, qos))


Handler = Callable[[Talk], Answer | None]
"""Answers a request; None where the request has no answer of its own."""
