"""Products of tenants. The built-in product `gateway` is the same for all tenants and has no row."""

from sqlalchemy import BigInteger, ForeignKey, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from cloud.foundation.db import Id, Model, TenantOwned


class ProductRow(TenantOwned, Model):
    __tablename__ = "product"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    product_key: Mapped[str] = mapped_column(String(32), unique=True)
    name: Mapped[str] = mapped_column(String(128))
    tsl: Mapped[str] = mapped_column(Text)
    created_ms: Mapped[int] = mapped_column(BigInteger)


class ProductRegistrationRow(TenantOwned, Model):
    """How devices of a product come by their secrets; no row: they do not. `sealed_secret` opens in the context `product:KEY`."""

    __tablename__ = "product_registration"

    product_key: Mapped[str] = mapped_column(String(32), ForeignKey("product.product_key"), primary_key=True)
    mode: Mapped[str] = mapped_column(String(16))
    sealed_secret: Mapped[bytes | None] = mapped_column(LargeBinary)
    changed_ms: Mapped[int] = mapped_column(BigInteger)
