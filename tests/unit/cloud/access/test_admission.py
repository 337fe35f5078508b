"""Who gets in, and how CONNECTs that wait together are decided together."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest

from cloud.access.admission import SUSPECTS_TOGETHER, TOGETHER, Admission, Denied, Verdict, judge
from cloud.devices.model import Credentials
from protocols.alink.credentials import sign
from protocols.errors import Reason, TryAgain
from protocols.mqtt.codec import Connect, ConnectCode

SECRET = b"a-secret"


def known(name: str, *, enabled: bool = True) -> Credentials:
    return Credentials(
        tenant_id=1, device_id=2, product_key="pk", device_name=name, site_id=None, is_gateway=False, enabled=enabled, secret=SECRET
    )


def connect(name: str, secret: bytes = SECRET) -> Connect:
    proof = sign("pk", name, secret)
    return Connect(proof.client_id, proof.username, proof.password)


REGISTRY = {("pk", "on"): known("on"), ("pk", "off"): known("off", enabled=False)}


@pytest.mark.parametrize(
    ("asked", "code", "reason"),
    [
        (connect("on", b"another"), ConnectCode.BAD_CREDENTIALS, Reason.BAD_CREDENTIALS),
        (connect("off"), ConnectCode.NOT_AUTHORISED, Reason.NOT_AUTHORISED),
        (connect("off", b"another"), ConnectCode.BAD_CREDENTIALS, Reason.BAD_CREDENTIALS),  # a stranger learns nothing about the device
        (connect("absent"), ConnectCode.BAD_CREDENTIALS, Reason.UNKNOWN_DEVICE),  # nor whether there is one
        (Connect("id"), ConnectCode.BAD_CREDENTIALS, Reason.BAD_CREDENTIALS),
        (Connect("id", "on&pk"), ConnectCode.BAD_CREDENTIALS, Reason.BAD_CREDENTIALS),
        (Connect("id", "no-separator", b"x"), ConnectCode.BAD_CREDENTIALS, Reason.BAD_CREDENTIALS),
    ],
)
def test_a_connect_without_proof_is_denied_for_a_reason(asked: Connect, code: ConnectCode, reason: Reason) -> None:
    denied = judge(asked, REGISTRY)
    assert isinstance(denied, Denied)
    assert (denied.code, denied.reason) == (code, reason)
    assert denied.detail
    assert denied.words


def test_a_connect_is_let_in_by_its_proof() -> None:
    assert judge(connect("on"), REGISTRY) == REGISTRY["pk", "on"]


class Registry:
    """Counts its queries."""

    def __init__(self) -> None:
        self.queries: list[list[tuple[str, str]]] = []
        self.away = False

    def __call__(self, keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Credentials]:
        self.queries.append(list(keys))
        if self.away:
            raise TryAgain("locked")
        return {key: REGISTRY[key] for key in keys if key in REGISTRY}


@asynccontextmanager
async def deciding(registry: Registry, verdicts: dict[int, Verdict]) -> AsyncIterator[Admission[int]]:
    admission: Admission[int] = Admission(registry, lambda asker, _connect, verdict: verdicts.__setitem__(asker, verdict))
    task = asyncio.create_task(admission.run())
    yield admission
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until_decided(verdicts: dict[int, Verdict], count: int) -> None:
    async with asyncio.timeout(5):
        while len(verdicts) < count:
            await asyncio.sleep(0.001)


async def test_connects_that_wait_together_cost_few_queries_and_are_answered_in_order() -> None:
    registry, verdicts = Registry(), dict[int, Verdict]()
    async with deciding(registry, verdicts) as admission:
        for n in range(1200):
            admission.ask(n, connect("on" if n % 2 else "absent"))
        await until_decided(verdicts, 1200)
    assert list(verdicts) == list(range(1200))
    assert [verdict == REGISTRY["pk", "on"] for verdict in verdicts.values()] == [n % 2 == 1 for n in range(1200)]
    assert len(registry.queries) == 3


async def test_a_busy_registry_answers_unavailable_and_admission_goes_on() -> None:
    registry, verdicts = Registry(), dict[int, Verdict]()
    async with deciding(registry, verdicts) as admission:
        registry.away = True
        admission.ask(1, connect("on"))
        await until_decided(verdicts, 1)
        registry.away = False
        admission.ask(2, connect("on"))
        await until_decided(verdicts, 2)
    assert verdicts == {1: Denied(ConnectCode.UNAVAILABLE), 2: REGISTRY["pk", "on"]}


async def test_a_connect_that_trips_over_a_bug_keeps_nobody_else_out() -> None:
    class Tripping(Registry):
        def __call__(self, keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Credentials]:
            if ("pk", "poison") in keys:
                raise ValueError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
            return super().__call__(keys)

    verdicts = dict[int, Verdict]()
    async with deciding(Tripping(), verdicts) as admission:
        for n in range(20):
            admission.ask(n, connect("poison" if n == 7 else "on"))
        await until_decided(verdicts, 20)
    assert verdicts.pop(7) == Denied(ConnectCode.UNAVAILABLE)
    assert set(map(type, verdicts.values())) == {Credentials}
    assert len(verdicts) == 19


async def test_suspects_wait_for_the_others_and_not_for_ever() -> None:
    registry, verdicts = Registry(), dict[int, Verdict]()
    async with deciding(registry, verdicts) as admission:
        for n in range(1000):
            admission.ask(n, connect("on", b"guess"), suspect=True)
        for n in range(1000, 2000):
            admission.ask(n, connect("on"))
        await until_decided(verdicts, 2000)
    order = list(verdicts)
    first = order[:TOGETHER]
    assert sum(n >= 1000 for n in first) == TOGETHER - SUSPECTS_TOGETHER
    for line in (range(1000), range(1000, 2000)):
        assert [n for n in order if n in line] == list(line)


async def test_connects_that_name_nobody_cost_no_query() -> None:
    registry, verdicts = Registry(), dict[int, Verdict]()
    async with deciding(registry, verdicts) as admission:
        admission.ask(1, Connect("anonymous"))
        await until_decided(verdicts, 1)
    denied = verdicts[1]
    assert isinstance(denied, Denied)
    assert denied.code is ConnectCode.BAD_CREDENTIALS
    assert registry.queries == []
