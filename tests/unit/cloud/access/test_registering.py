"""A device that registers at the MQTT door: handed what it asked for, and never a session of the device."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from cloud.access.admission import Admission, Denied, Verdict
from cloud.access.server import REGISTERED_S
from cloud.devices.model import Credentials, Identity
from protocols.alink.codes import Code
from protocols.alink.credentials import sign
from protocols.alink.registration import Claim, Grant, RegistrationRefused, ask
from protocols.errors import Reason, Refused, TryAgain
from protocols.mqtt.codec import ConnAck, Connect, Disconnect, PublishRun, SubAck, Subscribe, Will, encode, encode_publish
from protocols.mqtt.pace import BURST
from protocols.mqtt.packets import ConnectCode
from tests.unit.cloud.access.test_group import until
from tests.unit.cloud.access.test_server import POST, Rig, credentials, read, rig

__all__ = ["rig"]  # the fixture

GRANT = Grant("pk", "dn", "the-secret")
CONNECT = Connect("id", "dn&pk", b"x")


class Office:
    """A registrar that gives, refuses or is away."""

    def __init__(self) -> None:
        self.claims: list[Claim] = []
        self.confirmed: list[int] = []
        self.answer: Refused | TryAgain | None = None

    def register(self, claims: Sequence[Claim]) -> list[Grant | Refused | TryAgain]:
        self.claims += claims
        if isinstance(self.answer, TryAgain):
            raise self.answer
        return [GRANT if self.answer is None else self.answer for _ in claims]

    def confirm(self, device_ids: Sequence[int]) -> None:
        if self.answer is not None:
            raise self.answer
        self.confirmed += device_ids


FRESH = Credentials(1, 7, "pk", "fresh", None, False, True, b"s", Identity(unconfirmed=True))


async def decide(office: Office | None, *connects: Connect) -> list[Verdict]:
    verdicts: list[Verdict] = []
    known = {("pk", "fresh"): FRESH}
    admission: Admission[int] = Admission(
        lambda keys: {key: known[key] for key in keys if key in known}, lambda _, __, verdict: verdicts.append(verdict), registrar=office
    )
    for n, connect in enumerate(connects):
        admission.ask(n, connect)
    task = asyncio.create_task(admission.run())
    await until(lambda: len(verdicts) == len(connects))
    task.cancel()
    return verdicts


def asking(**more: bool) -> Connect:
    fields = ask("pk", "dn", "product-secret", random="42", **more)  # type: ignore[arg-type]
    return Connect(fields.client_id, fields.username, fields.password)


async def test_a_claim_goes_to_the_registrar_and_its_grant_is_the_verdict() -> None:
    office = Office()
    assert await decide(office, asking(), asking(token=True)) == [GRANT, GRANT]
    assert [(claim.device_name, claim.random, claim.token) for claim in office.claims] == [("dn", "42", False), ("dn", "42", True)]


async def test_a_refused_claim_is_denied_with_its_code_in_the_detail() -> None:
    office = Office()
    office.answer = RegistrationRefused(Code.ALREADY_ACTIVE, Reason.ALREADY_ACTIVE, "it was seen: reset it")
    malformed = Connect("dn.pk|authType=register|", "dn&pk", b"x")
    refused, without, unfit = [*await decide(office, asking()), *await decide(None, asking()), *await decide(office, malformed)]
    assert isinstance(refused, Denied)
    assert isinstance(without, Denied)
    assert isinstance(unfit, Denied)
    assert (refused.code, refused.reason) == (ConnectCode.BAD_CREDENTIALS, Reason.ALREADY_ACTIVE)
    assert refused.detail.startswith("registration refused (6289)")
    assert without.reason is Reason.REGISTRATION_CLOSED
    assert unfit.detail.startswith("registration refused (460)")


async def test_a_registrar_that_is_away_is_our_fault_and_nobody_is_refused() -> None:
    office = Office()
    office.answer = TryAgain("locked")
    proof = sign("pk", "fresh", b"s")
    verdicts = await decide(office, asking(), Connect(proof.client_id, proof.username, proof.password))
    assert verdicts == [Denied(ConnectCode.UNAVAILABLE)] * 2, "not let in before it is written that it cannot register again"


async def test_a_device_that_comes_with_what_it_was_given_is_confirmed_before_it_is_let_in() -> None:
    office, proof = Office(), sign("pk", "fresh", b"s")
    wrong = sign("pk", "fresh", b"another")
    verdicts = await decide(office, *(Connect(one.client_id, one.username, one.password) for one in (wrong, proof, proof)))
    assert [isinstance(one, Credentials) for one in verdicts] == [False, True, True]
    assert office.confirmed == [7]


async def test_the_secret_is_pushed_without_a_subscribe_and_the_connection_is_no_session(rig: Rig) -> None:
    older, _ = rig.open()
    connection, transport = rig.connection()
    connection.data_received(encode(CONNECT))
    rig.door.decided(connection, CONNECT, GRANT)
    acknowledged, run = read(transport)
    assert acknowledged == ConnAck()
    assert isinstance(run, PublishRun)
    assert (run.topic, run.payloads()) == ("/ext/register", [GRANT.to_bytes()])
    assert rig.door.sessions == {("pk", "dn"): older}
    assert rig.door.registered == 1
    connection.data_received(encode(Subscribe(1, (("/ext/register", 0), ("/sys/pk/dn/#", 0)))))
    assert read(transport)[-1] == SubAck(1, (0, 0x80))
    connection.data_received(encode(Disconnect()))
    assert transport.closed
    connection.connection_lost(None)
    assert rig.door.lobby.strangers == 0
    assert rig.door.refusals.totals == {}


async def test_a_device_that_stays_after_it_was_handed_its_secret_is_closed(rig: Rig) -> None:
    connection, transport = rig.connection()
    connection.data_received(encode(CONNECT))
    rig.door.decided(connection, CONNECT, GRANT)
    connection.tick(time.monotonic() + REGISTERED_S - 1)
    assert not transport.closed
    connection.tick(time.monotonic() + REGISTERED_S + 1)
    assert transport.closed


async def test_a_connection_that_registers_publishes_nothing_nor_does_its_will(rig: Rig) -> None:
    for version in (4, 5):
        connect = Connect("id", "dn&pk", b"x", version=version, will=Will(POST, b"last words"))
        connection, transport = rig.connection()
        connection.data_received(encode(connect, version) + encode_publish(POST, b"early", 1, 1, version=version))
        rig.door.decided(connection, connect, GRANT)
        assert any(isinstance(packet, PublishRun) for packet in read(transport, version))
        connection.data_received(encode_publish(POST, b"late", 1, 2, version=version))
        connection.connection_lost(None)
    await rig.door.commit.settled()
    assert rig.door.refusals.totals["not_authorised"] == 3  # 3.1.1 is closed at the first
    assert POST.encode() not in b"".join(data for _, data in rig.stream.stored)


async def test_who_registers_comes_after_devices_that_are_known() -> None:
    proof = sign("pk", "fresh", b"s")
    verdicts = await decide(Office(), asking(), Connect(proof.client_id, proof.username, proof.password))
    assert [type(one) for one in verdicts] == [Credentials, Grant]


@pytest.mark.parametrize(("until_ms", "closed"), [(None, False), (1, True), (1 << 50, False)])
async def test_a_session_ends_when_what_it_rests_on_runs_out(rig: Rig, until_ms: int | None, closed: bool) -> None:
    held = replace(credentials(), proof_until_ms=until_ms)
    connection, transport = rig.connection()
    connection.data_received(encode(CONNECT))
    rig.door.decided(connection, CONNECT, held)
    rig.door.recheck(("pk", "dn"), credentials())
    assert transport.closed is closed
    rig.door.recheck(("pk", "dn"), credentials(secret=b"rotated"))
    assert transport.closed


@pytest.mark.refusal(Reason.TOO_MANY_CONNECTS)
async def test_a_device_that_connects_again_and_again_waits_and_is_let_in(rig: Rig) -> None:
    for _ in range(BURST):
        rig.open()
    waiting = []
    for _ in range(3):
        connection, transport = rig.connection()
        connection.data_received(encode(CONNECT))
        rig.door.decided(connection, CONNECT, credentials())
        waiting.append((connection, transport))
    assert [read(transport) for _, transport in waiting] == [[ConnAck(reason=3)], [ConnAck(reason=3)], []], "the newest waits"
    assert rig.door.refusals.totals == {"too_many_connects": 3}
    assert rig.door.refusals.unnoted()[0].client.tenant_id == 1
    await rig.door.sweep(time.monotonic() + 20)
    assert read(waiting[-1][1]) == [ConnAck()]
    assert rig.door.sessions["pk", "dn"] is waiting[-1][0]


async def test_a_device_whose_secret_changes_while_it_waits_is_not_let_in(rig: Rig) -> None:
    for _ in range(BURST):
        rig.open()
    connection, transport = rig.connection()
    connection.data_received(encode(CONNECT))
    rig.door.decided(connection, CONNECT, credentials())
    rig.door.recheck(("pk", "dn"), credentials(secret=b"rotated"))
    assert read(transport) == [ConnAck(reason=3)]
    await rig.door.sweep(time.monotonic() + 20)
    assert rig.door.sessions.get(("pk", "dn")) is not connection
