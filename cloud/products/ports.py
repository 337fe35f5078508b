"""What `products` needs of the slices above it; filled in `app.py`."""

from collections.abc import Mapping
from typing import Protocol

from cloud.foundation.db import UnitOfWork


class ProductUse(Protocol):
    """How many things of one kind hang on a product, in a unit of work of its tenant."""

    def __call__(self, work: UnitOfWork, product_key: str) -> int: ...


class Changes(Protocol):
    """Tells the other roles to forget what they cached of a product's thing model."""

    async def registry_changed(self, product_key: str, device_name: str | None) -> None: ...


ProductUses = Mapping[str, ProductUse]  # by the word for what hangs on a product, such as "devices"
