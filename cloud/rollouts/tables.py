"""Firmware, whom it is offered to, and what devices say they run."""

from sqlalchemy import BigInteger, Boolean, ForeignKey, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from cloud.foundation.db import Id, Model, TenantOwned


class FirmwareRow(TenantOwned, Model):
    """An image for a module of a product's devices; what of its artefact devices are told stands here too."""

    __tablename__ = "firmware"
    __table_args__ = (UniqueConstraint("product_key", "module", "version"),)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    product_key: Mapped[str] = mapped_column(String(32))
    module: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(64))
    artefact_id: Mapped[int] = mapped_column(Id, ForeignKey("artefact.id"))
    sha256: Mapped[str] = mapped_column(String(64))
    md5: Mapped[str] = mapped_column(String(32))
    size: Mapped[int] = mapped_column(BigInteger)
    sign_method: Mapped[str] = mapped_column(String(8))
    is_diff: Mapped[bool] = mapped_column(Boolean)
    note: Mapped[str] = mapped_column(Text)
    created_ms: Mapped[int] = mapped_column(BigInteger)


class OfferRow(TenantOwned, Model):
    """A firmware offered to one device. `token` is the secret part of the address that it downloads from."""

    __tablename__ = "firmware_offer"
    __table_args__ = (
        UniqueConstraint("firmware_id", "device_id"),
        Index("ix_firmware_offer_device_id_state", "device_id", "state"),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    firmware_id: Mapped[int] = mapped_column(Id, ForeignKey("firmware.id"))
    device_id: Mapped[int] = mapped_column(Id, ForeignKey("device.id"))
    token: Mapped[str] = mapped_column(String(64), unique=True)
    state: Mapped[str] = mapped_column(String(16))
    step: Mapped[int] = mapped_column(Integer)
    detail: Mapped[str] = mapped_column(String(512))
    created_ms: Mapped[int] = mapped_column(BigInteger)
    updated_ms: Mapped[int] = mapped_column(BigInteger)
    tries: Mapped[int] = mapped_column(Integer)


class ModuleRow(Model):
    """Which version a module of a device runs, in the device's own words."""

    __tablename__ = "device_module"

    device_id: Mapped[int] = mapped_column(Id, ForeignKey("device.id"), primary_key=True, autoincrement=False)
    module: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[str] = mapped_column(String(64))
    time_ms: Mapped[int] = mapped_column(BigInteger)


class ConfigurationRow(TenantOwned, Model):
    """The file of a product. `token` is the secret part of the address that devices download it from; a new file has a new one."""

    __tablename__ = "configuration"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    product_key: Mapped[str] = mapped_column(String(32), unique=True)
    artefact_id: Mapped[int] = mapped_column(Id, ForeignKey("artefact.id"))
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)
    token: Mapped[str] = mapped_column(String(64), unique=True)
    enabled: Mapped[bool] = mapped_column(Boolean)
    revision: Mapped[int] = mapped_column(Integer)
    updated_ms: Mapped[int] = mapped_column(BigInteger)


class JobRow(TenantOwned, Model):
    """Work for some devices of a product; `document` is JSON text."""

    __tablename__ = "job"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(128))
    product_key: Mapped[str] = mapped_column(String(32))
    document: Mapped[str] = mapped_column(Text)
    timeout_s: Mapped[int] = mapped_column(Integer)
    created_ms: Mapped[int] = mapped_column(BigInteger)
    created_by: Mapped[str] = mapped_column(String(64))


class JobTaskRow(Model):
    """A job for one device. Its id is the `taskId` that the device is told; past `due_ms` an open one has timed out."""

    __tablename__ = "job_task"
    __table_args__ = (UniqueConstraint("job_id", "device_id"), Index("ix_job_task_device_id_status", "device_id", "status"))

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    job_id: Mapped[int] = mapped_column(Id, ForeignKey("job.id"))
    device_id: Mapped[int] = mapped_column(Id, ForeignKey("device.id"))
    status: Mapped[str] = mapped_column(String(16))
    progress: Mapped[int] = mapped_column(Integer)
    details: Mapped[str] = mapped_column(Text)
    due_ms: Mapped[int] = mapped_column(BigInteger)
    updated_ms: Mapped[int] = mapped_column(BigInteger)
