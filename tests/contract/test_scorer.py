"""What every scorer promises: run on the fake and on the worker process, so that tests may trust the fake."""

import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cloud.models.anomaly import fit
from cloud.models.onnx_file import to_onnx
from cloud.models.readings import Readings
from edge_agent.domain.scoring import Rows
from edge_agent.inference.process import WorkerProcess
from edge_agent.ports import Scorer, ScorerDied
from protocols.inference.onnx_card import card_of
from tests.fakes.scorer import FakeScorer

WINDOW, MACHINES = 4, 3


@dataclass
class Bench:
    scorer: Scorer
    kill: object

    def die(self) -> None:
        self.kill()  # type: ignore[operator]


def model() -> bytes:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(400, 2)) @ np.array([[1.0, 0.5], [0.2, 1.0]])
    return to_onnx(fit(Readings(("A", "B"), np.arange(400) * 100, values, "0"), name="m", made_by="a test", window_rows=WINDOW))


@pytest.fixture(params=["fake", "worker"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    data = model()
    if request.param == "fake":
        fake = FakeScorer([(card_of(data), MACHINES)])
        made = Bench(fake, lambda: setattr(fake, "up", False))
    else:
        path = tmp_path / "model.onnx"
        path.write_bytes(data)
        worker = WorkerProcess([(path, MACHINES)], deadline_s=5, memory_mib=256)
        made = Bench(worker, lambda: os.kill(worker.pid or 0, signal.SIGKILL))
    yield made
    await made.scorer.stop()


def rows(machines: list[int], times: list[int], *, model: int = 0) -> Rows:
    values = np.column_stack([np.sin(np.array(times)), np.cos(np.array(times))])
    return Rows(model, np.array(machines, np.int32), np.array(times, np.int64), values)


async def test_a_row_has_a_score_once_its_window_is_full(bench: Bench) -> None:
    assert list(await bench.scorer.start()) == [""]
    scores = await bench.scorer.score(rows([0] * 6, [100 * n for n in range(6)]))
    assert np.isnan(scores.score).tolist() == [True] * 3 + [False] * 3
    assert (scores.score[3:] >= 0).all()
    assert set(scores.signal.tolist()) <= {0, 1}


async def test_machines_have_windows_of_their_own_and_may_come_mixed(bench: Bench) -> None:
    await bench.scorer.start()
    machines, times = [0, 1, 0, 1, 0, 0, 2, 1, 1], [100, 100, 200, 200, 300, 400, 100, 300, 400]
    scores = await bench.scorer.score(rows(machines, times))
    assert np.flatnonzero(~np.isnan(scores.score)).tolist() == [5, 8]
    alone = await bench.scorer.score(rows([2] * 3, [200, 300, 400]))
    assert np.isnan(alone.score).tolist() == [True, True, False]
    assert scores.score[8] == pytest.approx(alone.score[2], rel=1e-12)


async def test_rows_in_one_request_or_in_many_score_the_same(bench: Bench) -> None:
    await bench.scorer.start()
    times = [100 * n for n in range(8)]
    whole = await bench.scorer.score(rows([0] * 8, times))
    each = [float((await bench.scorer.score(rows([1], [at]))).score[0]) for at in times]
    np.testing.assert_allclose(whole.score, each, rtol=1e-12)


async def test_started_again_its_windows_are_empty(bench: Bench) -> None:
    await bench.scorer.start()
    await bench.scorer.score(rows([0] * 4, [100 * n for n in range(4)]))
    await bench.scorer.start()
    assert np.isnan((await bench.scorer.score(rows([0], [400]))).score).all()


async def test_one_that_died_says_so_until_it_is_started_again(bench: Bench) -> None:
    with pytest.raises(ScorerDied):
        await bench.scorer.score(rows([0], [0]))
    await bench.scorer.start()
    bench.die()
    for _ in range(2):
        with pytest.raises(ScorerDied):
            await bench.scorer.score(rows([0], [0]))
    await bench.scorer.start()
    assert len((await bench.scorer.score(rows([0], [0]))).score) == 1


async def test_stopping_twice_is_harmless(bench: Bench) -> None:
    await bench.scorer.start()
    await bench.scorer.stop()
    await bench.scorer.stop()
