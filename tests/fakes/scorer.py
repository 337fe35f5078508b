"""Models without a runtime: a score is the mean of the newest row, once a window is full. Dies when told to."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from edge_agent.domain.scoring import Rows, Scores
from edge_agent.ports import ScorerDied
from protocols.inference.card import ModelCard
from protocols.inference.window import Windows


@dataclass(slots=True)
class FakeScorer:
    """`models` are cards and how many machines each watches; `deaths` are calls of `score`, counted from 1, that kill it."""

    models: Sequence[tuple[ModelCard, int]]
    faults: Sequence[str] = ()
    deaths: set[int] = field(default_factory=set)
    refuses_to_start: int = 0
    starts: int = 0
    calls: int = 0
    windows: list[Windows] = field(default_factory=list)
    up: bool = False

    async def start(self) -> Sequence[str]:
        self.starts += 1
        if self.refuses_to_start:
            self.refuses_to_start -= 1
            raise ScorerDied("told so")
        self.windows = [Windows.of(card, machines) for card, machines in self.models]
        self.up = True
        return self.faults or [""] * len(self.models)

    async def score(self, rows: Rows) -> Scores:
        self.calls += 1
        if not self.up or self.calls in self.deaths:
            self.up = False
            raise ScorerDied("told so")
        scores = Scores(np.full(len(rows.machines), np.nan), np.zeros(len(rows.machines), np.int32))
        for n, (machine, time_ms, values) in enumerate(zip(rows.machines, rows.times, rows.values, strict=True)):
            full = self.windows[rows.model].push(np.array([machine], np.int64), np.array([time_ms]), values[None])
            if len(full):
                scores.score[n] = abs(values.mean())
                scores.signal[n] = int(np.abs(values).argmax())
        return scores

    async def stop(self) -> None:
        self.up = False
