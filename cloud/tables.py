"""The cloud's tables. Health values are sealed (cloud/sealing.py); times are microseconds UTC.

``body`` columns hold the MessagePack bytes of a message of core.messages, sealed:
``decode(row.body, Estimate)`` gives it back.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, LargeBinary, MetaData, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from cloud.sealing import SealedBytes, SealedFloat

# SQLite numbers rows itself only in a column that says INTEGER; PostgreSQL's INTEGER has but 32 bits.
RowId: Final = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """Constraint names are fixed, so that later migrations can find them on every database."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


def _hub_column(primary_key: bool = False) -> Mapped[str]:
    return mapped_column(String(32), ForeignKey("hubs.hub_id"), primary_key=primary_key)


class MetaRow(Base):
    """Facts on the database itself; ``key_check`` tells a wrong key before anything is written."""

    __tablename__ = "meta"
    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    value: Mapped[bytes] = mapped_column(LargeBinary)


class HubRow(Base):
    """One hub and the person it lives with."""

    __tablename__ = "hubs"
    hub_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    person: Mapped[str] = mapped_column(String(80))
    last_seen_us: Mapped[int] = mapped_column(BigInteger, default=0)  # last uplink taken; 0: never
    last_number: Mapped[int] = mapped_column(BigInteger, default=0)  # uplink number taken last
    last_down: Mapped[int] = mapped_column(BigInteger, default=0)  # greatest downlink the hub confirmed
    status: Mapped[bytes | None] = mapped_column(SealedBytes("hubs.status"))  # newest HubStatus


class UplinkRow(Base):
    """An uplink message that was taken: the record that makes delivery exactly once."""

    __tablename__ = "uplinks"
    hub_id: Mapped[str] = _hub_column(primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    digest: Mapped[bytes] = mapped_column(LargeBinary(16))  # keyed; another digest is another message
    received_us: Mapped[int] = mapped_column(BigInteger)


class RejectedRow(Base):
    """An authentic message that this version cannot use: kept, so that nothing is lost."""

    __tablename__ = "rejected"
    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    hub_id: Mapped[str] = _hub_column()
    number: Mapped[int] = mapped_column(BigInteger)
    received_us: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str] = mapped_column(String(80))
    body: Mapped[bytes] = mapped_column(SealedBytes("rejected.body"))


class SampleRow(Base):
    """One reading or act. ``id`` rises in the order in which the hub stored the samples."""

    __tablename__ = "samples"
    __table_args__ = (
        UniqueConstraint("hub_id", "source", "kind", "seq"),
        Index(None, "hub_id", "kind", "time_us"),
    )
    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    hub_id: Mapped[str] = _hub_column()
    source: Mapped[str] = mapped_column(String(80))
    kind: Mapped[str] = mapped_column(String(40))
    seq: Mapped[int] = mapped_column(BigInteger)
    time_us: Mapped[int] = mapped_column(BigInteger)
    value: Mapped[float] = mapped_column(SealedFloat("samples.value"))
    quality: Mapped[int] = mapped_column(Integer, default=0)
    received_us: Mapped[int] = mapped_column(BigInteger, default=0)
    amends_source: Mapped[str | None] = mapped_column(String(80))
    amends_seq: Mapped[int | None] = mapped_column(BigInteger)
    deleted: Mapped[bool] = mapped_column(default=False)
    uplink_number: Mapped[int] = mapped_column(BigInteger, default=0)


class EstimateRow(Base):
    """The twin's state as the hub saw it (core.messages.Estimate)."""

    __tablename__ = "estimates"
    __table_args__ = (Index(None, "hub_id", "time_us"),)
    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    hub_id: Mapped[str] = _hub_column()
    time_us: Mapped[int] = mapped_column(BigInteger)
    body: Mapped[bytes] = mapped_column(SealedBytes("estimates.body"))


class ForecastRow(Base):
    """A forecast as the hub made it (core.messages.Forecast)."""

    __tablename__ = "forecasts"
    __table_args__ = (Index(None, "hub_id", "made_at_us"),)
    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    hub_id: Mapped[str] = _hub_column()
    made_at_us: Mapped[int] = mapped_column(BigInteger)
    body: Mapped[bytes] = mapped_column(SealedBytes("forecasts.body"))


class AlarmRow(Base):
    """An alarm raised or cleared (core.messages.Alarm); told again once a wearable confirmed it."""

    __tablename__ = "alarms"
    __table_args__ = (Index(None, "hub_id", "time_us"),)
    hub_id: Mapped[str] = _hub_column(primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    time_us: Mapped[int] = mapped_column(BigInteger)
    body: Mapped[bytes] = mapped_column(SealedBytes("alarms.body"))


class ContributionRow(Base):
    """What one hub's data added to its prior (core.messages.Contribution). Additive: never twice."""

    __tablename__ = "contributions"
    __table_args__ = (UniqueConstraint("hub_id", "time_us", "model"),)
    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    hub_id: Mapped[str] = _hub_column()
    time_us: Mapped[int] = mapped_column(BigInteger)
    model: Mapped[str] = mapped_column(String(40))
    prior_version: Mapped[int] = mapped_column(BigInteger)
    body: Mapped[bytes] = mapped_column(SealedBytes("contributions.body"))


class CorrectionRow(Base):
    """What one hub's data moved in its learned correction (core.correction_pool): the newest only."""

    __tablename__ = "corrections"
    hub_id: Mapped[str] = _hub_column(primary_key=True)
    time_us: Mapped[int] = mapped_column(BigInteger)
    body: Mapped[bytes] = mapped_column(SealedBytes("corrections.body"))


class PriorRow(Base):
    """A prior that was sent to a hub (core.messages.Prior)."""

    __tablename__ = "priors"
    hub_id: Mapped[str] = _hub_column(primary_key=True)
    version: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    created_us: Mapped[int] = mapped_column(BigInteger, default=0)
    body: Mapped[bytes] = mapped_column(SealedBytes("priors.body"))


class AdviceRow(Base):
    """Dosing advice and what a person decided on it (core.messages.DoseAdvice)."""

    __tablename__ = "advice"
    __table_args__ = (Index(None, "hub_id", "created_us"),)
    advice_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    hub_id: Mapped[str] = _hub_column()
    created_us: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(16))  # proposed | approved | rejected | sent | alone
    body: Mapped[bytes] = mapped_column(SealedBytes("advice.body"))
    decided_by: Mapped[str | None] = mapped_column(String(80))
    decided_us: Mapped[int | None] = mapped_column(BigInteger)
    note: Mapped[str | None] = mapped_column(String(2000))
    confirmed_us: Mapped[int | None] = mapped_column(BigInteger)  # when the person said what was done
    took_u: Mapped[float | None] = mapped_column(SealedFloat("advice.took_u"))
    outcome: Mapped[bytes | None] = mapped_column(SealedBytes("advice.outcome"))  # cloud.outcomes.Outcome
    set_aside: Mapped[str | None] = mapped_column(String(80))  # why the hub lets nobody use it, in its word


class PolicyRow(Base):
    """A standing policy that a clinician approved (core.messages.StandingPolicy)."""

    __tablename__ = "policies"
    policy_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    hub_id: Mapped[str] = _hub_column()
    approved_us: Mapped[int] = mapped_column(BigInteger)
    expires_us: Mapped[int] = mapped_column(BigInteger)
    sent: Mapped[bool] = mapped_column(default=False)
    body: Mapped[bytes] = mapped_column(SealedBytes("policies.body"))


class DownlinkRow(Base):
    """A numbered message to a hub (core.messages.Downlink), kept until confirmed or expired."""

    __tablename__ = "downlinks"
    hub_id: Mapped[str] = _hub_column(primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    body: Mapped[bytes] = mapped_column(SealedBytes("downlinks.body"))
    issued_us: Mapped[int] = mapped_column(BigInteger)
    expires_us: Mapped[int] = mapped_column(BigInteger)
    acked: Mapped[bool] = mapped_column(default=False)


class AuditRow(Base):
    """Who did what, when, on which evidence. Never a reading or a dose. Only cloud/audit.py writes it."""

    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    time_us: Mapped[int] = mapped_column(BigInteger)
    who: Mapped[str] = mapped_column(String(80))
    what: Mapped[str] = mapped_column(String(400))
    evidence: Mapped[str | None] = mapped_column(String(400))
    chain: Mapped[bytes | None] = mapped_column(LargeBinary)
