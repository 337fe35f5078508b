"""What ingest knows of devices and products, looked up before a message is evaluated so that evaluation asks nobody."""

from collections.abc import Iterable, Mapping
from typing import Final

from cloud.devices.model import DeviceFacts, RegistryChange
from cloud.devices.service import device_facts
from cloud.foundation.db import Database
from cloud.products.service import thing_models
from protocols.thing.model import ThingModel

DeviceKey = tuple[str, str]
FRESH_S: Final = 30.0  # a lost `registry.changed` is healed after this


class Registry:
    """A cache over the registry; what does not exist is never remembered. `load` blocks, everything else is immediate."""

    def __init__(self) -> None:
        self.models: dict[str, ThingModel] = {}
        self.facts: dict[DeviceKey, DeviceFacts] = {}
        self._loaded_at = 0.0

    def missing(self, products: Iterable[str], devices: Iterable[DeviceKey]) -> tuple[set[str], set[DeviceKey]]:
        """What of these has to be loaded first."""
        return {key for key in products if key not in self.models}, {key for key in devices if key not in self.facts}

    @staticmethod
    def load(
        database: Database, products: Iterable[str], devices: Iterable[DeviceKey]
    ) -> tuple[Mapping[str, ThingModel], Mapping[DeviceKey, DeviceFacts]]:
        """Look up; for a thread. Raises DatabaseAway."""
        wanted = list(devices)
        facts = device_facts(database, wanted) if wanted else {}
        return thing_models(database, {*products, *(fact.product_key for fact in facts.values())}), facts

    def learn(self, models: Mapping[str, ThingModel], facts: Mapping[DeviceKey, DeviceFacts]) -> None:
        self.models.update(models)
        self.facts.update(facts)

    def forget(self, change: RegistryChange) -> None:
        """A device, or all of a product, changed."""
        self.models.pop(change.product_key, None)
        for key in [key for key in self.facts if key[0] == change.product_key and change.device_name in (None, key[1])]:
            del self.facts[key]

    def refresh(self, now: float) -> bool:
        """Forget everything once in a while; True when it did. `now` is monotonic."""
        if now - self._loaded_at < FRESH_S:
            return False
        self._loaded_at = now
        self.models.clear()
        self.facts.clear()
        return True
