"""Who gets in, and how CONNECTs that wait together are decided together."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest

from cloud.access.admission import Admission, Verdict, judge
from cloud.devices.model import Credentials
from protocols.alink.credentials import sign
from protocols.errors import TryAgain
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
    ("asked", "verdict"),
    [
        (connect("on"), REGISTRY["pk", "on"]),
        (connect("on", b"another"), ConnectCode.BAD_CREDENTIALS),
        (connect("off"), ConnectCode.NOT_AUTHORISED),
        (connect("off", b"another"), ConnectCode.BAD_CREDENTIALS),  # a stranger learns nothing about the device
        (connect("absent"), ConnectCode.BAD_CREDENTIALS),
        (Connect("id"), ConnectCode.BAD_CREDENTIALS),
        (Connect("id", "on&pk"), ConnectCode.BAD_CREDENTIALS),
        (Connect("id", "no-separator", b"x"), ConnectCode.BAD_CREDENTIALS),
    ],
)
def test_a_connect_is_judged_by_its_proof(asked: Connect, verdict: Verdict) -> None:
    assert judge(asked, REGISTRY) == verdict


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
    admission: Admission[int] = Admission(registry, verdicts.__setitem__)
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
    assert verdicts == {1: ConnectCode.UNAVAILABLE, 2: REGISTRY["pk", "on"]}


async def test_connects_that_name_nobody_cost_no_query() -> None:
    registry, verdicts = Registry(), dict[int, Verdict]()
    async with deciding(registry, verdicts) as admission:
        admission.ask(1, Connect("anonymous"))
        await until_decided(verdicts, 1)
    assert verdicts == {1: ConnectCode.BAD_CREDENTIALS}
    assert registry.queries == []
