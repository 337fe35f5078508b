"""Products of tenants. The built-in product `gateway` is the same for all tenants and has no row."""

from sqlalchemy import BigInteger, ForeignKey, Integer, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from cloud.foundation.db import Id, Model, TenantOwned


class ProductRow(TenantOwned, Model):
    """`tsl` is a copy of the thing model of version `version`, the one published last: readers need one row."""

    __tablename__ = "product"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    product_key: Mapped[str] = mapped_column(String(32), unique=True)
    name: Mapped[str] = mapped_column(String(128))
    tsl: Mapped[str] = mapped_column(Text)
    created_ms: Mapped[int] = mapped_column(BigInteger)
    node_type: Mapped[str] = mapped_column(String(16))
    description: Mapped[str] = mapped_column(String(1024))
    category: Mapped[str | None] = mapped_column(String(64))
    version: Mapped[int] = mapped_column(Integer)
    revision: Mapped[int] = mapped_column(Integer)
    updated_ms: Mapped[int] = mapped_column(BigInteger)


class ProductRegistrationRow(TenantOwned, Model):
    """How devices of a product come by their secrets; no row: they do not. `sealed_secret` opens in the context `product:KEY`."""

    __tablename__ = "product_registration"

    product_key: Mapped[str] = mapped_column(String(32), ForeignKey("product.product_key"), primary_key=True)
    mode: Mapped[str] = mapped_column(String(16))
    sealed_secret: Mapped[bytes | None] = mapped_column(LargeBinary)
    changed_ms: Mapped[int] = mapped_column(BigInteger)


class ThingModelVersionRow(TenantOwned, Model):
    """A version of a product's thing model. At most one is a draft: it has the highest number, which it keeps when it is published."""

    __tablename__ = "thing_model_version"
    __table_args__ = (UniqueConstraint("product_id", "number"),)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    product_id: Mapped[int] = mapped_column(Id, ForeignKey("product.id"))
    number: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String(16))
    tsl: Mapped[str] = mapped_column(Text)
    note: Mapped[str] = mapped_column(String(1024))
    revision: Mapped[int] = mapped_column(Integer)
    created_ms: Mapped[int] = mapped_column(BigInteger)
    created_by: Mapped[str] = mapped_column(String(64))
    published_ms: Mapped[int | None] = mapped_column(BigInteger)
    published_by: Mapped[str | None] = mapped_column(String(64))
