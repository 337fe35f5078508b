"""What ingest remembers: its position, the watermarks of the gateways' lanes, and the quarantine."""

from sqlalchemy import BigInteger, Boolean, Index, LargeBinary, String, UniqueConstraint, true
from sqlalchemy.orm import Mapped, mapped_column

from cloud.foundation.db import Id, Model, TenantOwned


class IngestPosition(Model):
    """The last message of a partition's stream whose effects are committed; `received_ms` is when it came."""

    __tablename__ = "ingest_position"

    partition: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    stream_id: Mapped[str] = mapped_column(String(64))
    sequence: Mapped[int] = mapped_column(BigInteger)
    received_ms: Mapped[int] = mapped_column(BigInteger)


class Watermark(Model):
    """The last frame of a gateway's lane that is committed, and when it was made. A gateway with a new buffer file starts a new row.

    `readings` were in its frames so far; `in_gaps` were given up by the buffer, as gap records in its frames say.
    """

    __tablename__ = "watermark"

    gateway_id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=False)
    buffer_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    lane: Mapped[str] = mapped_column(String(16), primary_key=True)
    sequence: Mapped[int] = mapped_column(BigInteger)
    created_ms: Mapped[int] = mapped_column(BigInteger)
    readings: Mapped[int] = mapped_column(BigInteger, server_default="0")
    in_gaps: Mapped[int] = mapped_column(BigInteger, server_default="0")
    announced: Mapped[int] = mapped_column(BigInteger, server_default="0")


class AccountStretch(Model):
    """The account of a lane by stretches of time: of the readings whose frames the edge made in the ten minutes from `from_ms` on."""

    __tablename__ = "account_stretch"

    gateway_id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=False)
    buffer_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    lane: Mapped[str] = mapped_column(String(16), primary_key=True)
    from_ms: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    delivered: Mapped[int] = mapped_column(BigInteger)
    in_gaps: Mapped[int] = mapped_column(BigInteger)


class Quarantine(TenantOwned, Model):
    """A payload, or a value in one, that could not be taken, with what is needed to look at it and to replay it.

    An entry stands for `count` of them, from `received_ms` to `last_ms`; `replay_of` is the entry whose replay was refused again.
    (stream, sequence, number) is where it came from: computing a batch again finds its own rows instead of making new ones.
    """

    __tablename__ = "quarantine"
    __table_args__ = (
        UniqueConstraint("stream_id", "sequence", "number"),
        Index("ix_quarantine_tenant_state", "tenant_id", "state", "reason"),
        Index("ix_quarantine_device", "product_key", "device_name", "state"),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    stream_id: Mapped[str] = mapped_column(String(64))
    sequence: Mapped[int] = mapped_column(BigInteger)
    number: Mapped[int]
    product_key: Mapped[str] = mapped_column(String(64))
    device_name: Mapped[str] = mapped_column(String(64))
    topic: Mapped[str] = mapped_column(String(512))
    reason: Mapped[str] = mapped_column(String(64))
    detail: Mapped[str] = mapped_column(String(2048))
    received_ms: Mapped[int] = mapped_column(BigInteger)
    size: Mapped[int]
    payload: Mapped[bytes] = mapped_column(LargeBinary)
    count: Mapped[int] = mapped_column(BigInteger, default=1, server_default="1")
    last_ms: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    address: Mapped[str] = mapped_column(String(64), default="", server_default="")
    replayable: Mapped[bool] = mapped_column(Boolean, default=True, server_default=true())
    state: Mapped[str] = mapped_column(String(16), default="held", server_default="held")
    resolved_ms: Mapped[int | None] = mapped_column(BigInteger)
    resolved_by: Mapped[str | None] = mapped_column(String(64))
    replay_of: Mapped[int | None] = mapped_column(BigInteger)


class UnreadableMessage(Model):
    """A whole message of the stream that did not decode: a bug or corruption of ours, so it belongs to no tenant."""

    __tablename__ = "unreadable_message"

    stream_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    sequence: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    detail: Mapped[str] = mapped_column(String(2048))
    size: Mapped[int]
    payload: Mapped[bytes] = mapped_column(LargeBinary)
