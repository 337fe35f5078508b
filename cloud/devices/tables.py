"""Sites, devices, and what is known about each device now."""

from sqlalchemy import BigInteger, Boolean, ForeignKey, Index, Integer, LargeBinary, String, Text, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column

from cloud.foundation.db import Id, Model, TenantOwned


class SiteRow(TenantOwned, Model):
    __tablename__ = "site"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(128))
    created_ms: Mapped[int] = mapped_column(BigInteger)


class DeviceRow(TenantOwned, Model):
    """`sealed_secret` opens with the vault in the context `product_key/device_name`."""

    __tablename__ = "device"
    # (product_key, device_name) is the identity on the wire, where no tenant is named: unique over all tenants.
    __table_args__ = (UniqueConstraint("product_key", "device_name"),)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    product_key: Mapped[str] = mapped_column(String(32))
    device_name: Mapped[str] = mapped_column(String(64))
    site_id: Mapped[int | None] = mapped_column(Id, ForeignKey("site.id"), index=True)
    sealed_secret: Mapped[bytes] = mapped_column(LargeBinary)
    enabled: Mapped[bool] = mapped_column(Boolean)
    created_ms: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(16), server_default="manufactured")
    state_before: Mapped[str | None] = mapped_column(String(16))
    activated_ms: Mapped[int | None] = mapped_column(BigInteger)
    nickname: Mapped[str | None] = mapped_column(String(128))


class PresenceRow(Model):
    """Whether and through whom a device is connected. `via` is 0 for its own session, else the id of its gateway."""

    __tablename__ = "presence"

    device_id: Mapped[int] = mapped_column(Id, ForeignKey("device.id"), primary_key=True, autoincrement=False)
    online: Mapped[bool] = mapped_column(Boolean)
    since_ms: Mapped[int] = mapped_column(BigInteger)
    epoch: Mapped[int] = mapped_column(BigInteger)
    via: Mapped[int] = mapped_column(Id)


class ReportedRow(Model):
    """The newest value of one property; `value` is JSON text, `time_ms` its event time."""

    __tablename__ = "reported"
    __table_args__ = ({"sqlite_with_rowid": False},)

    device_id: Mapped[int] = mapped_column(Id, ForeignKey("device.id"), primary_key=True, autoincrement=False)
    identifier: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(Text)
    time_ms: Mapped[int] = mapped_column(BigInteger)


class CommandRow(TenantOwned, Model):
    """A request to a device. Its id, in decimal digits, is the id of the Alink message, hence never used twice."""

    __tablename__ = "command"
    __table_args__ = (
        Index("ix_command_device_id_id", "device_id", "id"),
        Index("ix_command_state_id", "state", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    device_id: Mapped[int] = mapped_column(Id, ForeignKey("device.id"))
    via: Mapped[int] = mapped_column(Id)
    method: Mapped[str] = mapped_column(String(128))
    params: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16))
    created_ms: Mapped[int] = mapped_column(BigInteger)
    expires_ms: Mapped[int] = mapped_column(BigInteger)
    finished_ms: Mapped[int | None] = mapped_column(BigInteger)
    code: Mapped[int | None] = mapped_column(Integer)
    reply: Mapped[str | None] = mapped_column(Text)
    is_call: Mapped[bool] = mapped_column(Boolean, server_default=false())
    requested_by: Mapped[str] = mapped_column(String(64), server_default="")
    sent_ms: Mapped[int | None] = mapped_column(BigInteger)
    raw: Mapped[bytes | None] = mapped_column(LargeBinary)


class ShadowRow(Model):
    """The version of a device's shadow; `spoken` says that the device has used the shadow's own topics."""

    __tablename__ = "shadow"

    device_id: Mapped[int] = mapped_column(Id, ForeignKey("device.id"), primary_key=True, autoincrement=False)
    version: Mapped[int] = mapped_column(BigInteger)
    spoken: Mapped[bool] = mapped_column(Boolean)
    updated_ms: Mapped[int] = mapped_column(BigInteger)


class DesiredRow(Model):
    """What one property should be; `value` is JSON text, `version` counts its changes."""

    __tablename__ = "desired"

    device_id: Mapped[int] = mapped_column(Id, ForeignKey("device.id"), primary_key=True, autoincrement=False)
    identifier: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(Text)
    version: Mapped[int] = mapped_column(BigInteger)
    time_ms: Mapped[int] = mapped_column(BigInteger)


class TagRow(Model):
    """One tag of a device; `source` says who set it last: `device` or `api`."""

    __tablename__ = "tag"
    __table_args__ = (Index("ix_tag_key_value", "key", "value"),)

    device_id: Mapped[int] = mapped_column(Id, ForeignKey("device.id"), primary_key=True, autoincrement=False)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(1024))
    source: Mapped[str] = mapped_column(String(8))
    time_ms: Mapped[int] = mapped_column(BigInteger)


class TopologyRow(Model):
    """Which gateway a sub-device belongs to: one at a time."""

    __tablename__ = "topology"

    device_id: Mapped[int] = mapped_column(Id, ForeignKey("device.id"), primary_key=True, autoincrement=False)
    gateway_id: Mapped[int] = mapped_column(Id, ForeignKey("device.id"), index=True)
    since_ms: Mapped[int] = mapped_column(BigInteger)


class DeviceLogRow(Model):
    """One line of a device's own log, as it came."""

    __tablename__ = "device_log"
    __table_args__ = (Index("ix_device_log_device_id_id", "device_id", "id"),)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    device_id: Mapped[int] = mapped_column(Id, ForeignKey("device.id"))
    received_ms: Mapped[int] = mapped_column(BigInteger)
    time: Mapped[str] = mapped_column(String(40))
    level: Mapped[str] = mapped_column(String(8))
    module: Mapped[str] = mapped_column(String(64))
    code: Mapped[str] = mapped_column(String(64))
    trace: Mapped[str] = mapped_column(String(128))
    content: Mapped[str] = mapped_column(Text)


class LogSwitchRow(Model):
    """Whether a device is to post its log; no row: it is not."""

    __tablename__ = "log_switch"

    device_id: Mapped[int] = mapped_column(Id, ForeignKey("device.id"), primary_key=True, autoincrement=False)
    mode: Mapped[int] = mapped_column(Integer)
    time_ms: Mapped[int] = mapped_column(BigInteger)


class ShownTokenRow(TenantOwned, Model):
    """The token that a device shows to whoever holds it, as SHA-256 in hex; the newest of each device."""

    __tablename__ = "shown_token"

    device_id: Mapped[int] = mapped_column(Id, ForeignKey("device.id"), primary_key=True, autoincrement=False)
    digest: Mapped[str] = mapped_column(String(64), index=True)
    time_ms: Mapped[int] = mapped_column(BigInteger)


class GroupRow(TenantOwned, Model):
    """A named set of devices."""

    __tablename__ = "device_group"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    created_ms: Mapped[int] = mapped_column(BigInteger)


class GroupMemberRow(Model):
    __tablename__ = "device_group_member"

    group_id: Mapped[int] = mapped_column(Id, ForeignKey("device_group.id"), primary_key=True, autoincrement=False)
    device_id: Mapped[int] = mapped_column(Id, ForeignKey("device.id"), primary_key=True, autoincrement=False, index=True)


class DeviceIdentityRow(TenantOwned, Model):
    """What else than its present secret proves a device, and how far its registration is; no row: nothing else does.

    `sealed_previous` opens in the context of the secret, `sealed_token` in `product_key/device_name/token`.
    """

    __tablename__ = "device_identity"

    device_id: Mapped[int] = mapped_column(Id, ForeignKey("device.id"), primary_key=True, autoincrement=False)
    accepts: Mapped[str] = mapped_column(String(16), default="both")
    sealed_previous: Mapped[bytes | None] = mapped_column(LargeBinary)
    previous_until_ms: Mapped[int | None] = mapped_column(BigInteger)
    registration: Mapped[str | None] = mapped_column(String(16))
    registered_ms: Mapped[int | None] = mapped_column(BigInteger)
    token_client_id: Mapped[str | None] = mapped_column(String(64))
    sealed_token: Mapped[bytes | None] = mapped_column(LargeBinary)


class TenantAuthorityRow(TenantOwned, Model):
    """A certificate authority whose certificates a tenant's devices may show, until it is retired."""

    __tablename__ = "tenant_authority"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64), unique=True)
    subject: Mapped[str] = mapped_column(String(512), unique=True)
    pem: Mapped[str] = mapped_column(Text)
    from_ms: Mapped[int] = mapped_column(BigInteger)
    to_ms: Mapped[int] = mapped_column(BigInteger)
    added_ms: Mapped[int] = mapped_column(BigInteger)
    retired_ms: Mapped[int | None] = mapped_column(BigInteger)
