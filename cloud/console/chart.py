"""What a chart shows, as plain values: buckets, gaps and anomalies in, an ECharts option out. No widgets here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloud.console.texts import Language, gap_text, text
from cloud.telemetry.model import Buckets, Gap

BUCKETS: Final = 240
LINE, BAND, GAP, ANOMALY = "#3b82c4", "rgba(59,130,196,0.18)", "rgba(140,140,150,0.22)", "rgba(214,60,50,0.20)"
MUTED: Final = "#8a8f98"


@dataclass(frozen=True, slots=True)
class Range:
    """[start, end) in epoch ms, cut into buckets of `width` ms."""

    start: int
    end: int

    @property
    def width(self) -> int:
        return -(-(self.end - self.start) // BUCKETS)


def range_until(now_ms: int, seconds: int) -> Range:
    """The last `seconds`, on a grid of whole buckets: a second later the same bucket has the same bounds.

    >>> range_until(1_000_123, 900).end - range_until(1_000_123, 900).start
    900000
    """
    width = seconds * 1000 // BUCKETS
    end = (now_ms // width + 1) * width
    return Range(end - seconds * 1000, end)


@dataclass(frozen=True, slots=True)
class History:
    """One property over a range: buckets with something in them, gaps that overlap it, and stretches that are anomalous."""

    range: Range
    buckets: Buckets
    gaps: Sequence[Gap]
    anomalies: Sequence[tuple[int, int]] = ()


Point = tuple[int, float | None]


def points(history: History) -> tuple[list[Point], list[Point], list[Point]]:
    """(time, value) of average, lowest and highest: each at its bucket's start, null in every bucket without values that a gap touches.

    A bucket without values that no gap touches is left out: nothing was due there, and the line goes on to the next value.
    """
    found = history.buckets
    average: dict[int, float | None] = dict(zip(found.start.tolist(), found.average.tolist(), strict=True))
    lowest: dict[int, float | None] = dict(zip(found.start.tolist(), found.minimum.tolist(), strict=True))
    highest: dict[int, float | None] = dict(zip(found.start.tolist(), found.maximum.tolist(), strict=True))
    start, width = history.range.start, history.range.width
    for gap in history.gaps:
        first = max(gap.from_ms, start) - start
        last = min(gap.to_ms, history.range.end) - start - 1
        for place in range(first // width, last // width + 1):
            at = start + place * width
            if at not in average:
                average[at] = lowest[at] = highest[at] = None
    return sorted(average.items()), sorted(lowest.items()), sorted(highest.items())


def anomalous(scores: Buckets, width: int, threshold: float = 1.0) -> list[tuple[int, int]]:
    """Stretches of buckets whose highest score is above the threshold, those that touch joined."""
    stretches: list[tuple[int, int]] = []
    for start, highest in zip(scores.start.tolist(), scores.maximum.tolist(), strict=True):
        if highest <= threshold:
            continue
        if stretches and stretches[-1][1] == start:
            stretches[-1] = (stretches[-1][0], start + width)
        else:
            stretches.append((start, start + width))
    return stretches


def option(history: History, language: Language, unit: str) -> dict[str, Any]:
    """The ECharts option. `series[0]` is the average; the band is drawn as its lowest value with the difference on top of it."""
    average, lowest, highest = points(history)
    spread = [(at, None if low is None or high is None else high - low) for (at, low), (_, high) in zip(lowest, highest, strict=True)]
    areas = [
        [
            {"xAxis": max(gap.from_ms, history.range.start), "name": gap_text(language, gap.reason), "itemStyle": {"color": GAP}},
            {"xAxis": min(gap.to_ms, history.range.end)},
        ]
        for gap in history.gaps
    ]
    marks = [
        [{"xAxis": start, "name": text(language, "anomaly"), "itemStyle": {"color": ANOMALY}}, {"xAxis": end}]
        for start, end in history.anomalies
    ]
    band = {"type": "line", "stack": "band", "symbol": "none", "lineStyle": {"opacity": 0}, "silent": True, "tooltip": {"show": False}}
    return {
        "animation": False,
        "backgroundColor": "transparent",
        "grid": {"left": 56, "right": 12, "top": 14, "bottom": 24},
        "tooltip": {"trigger": "axis", "axisPointer": {"type": "line"}},
        "xAxis": {
            "type": "time",
            "min": history.range.start,
            "max": history.range.end,
            "axisLabel": {"color": MUTED, "hideOverlap": True},
            "axisLine": {"lineStyle": {"color": MUTED}},
        },
        "yAxis": {
            "type": "value",
            "scale": True,
            "axisLabel": {"color": MUTED},
            "splitLine": {"lineStyle": {"color": "rgba(140,140,150,0.18)"}},
        },
        "series": [
            {
                "name": f"{text(language, 'average')} {unit}".strip(),
                "type": "line",
                "data": [list(point) for point in average],
                "showSymbol": len(average) < 3,
                "connectNulls": False,
                "lineStyle": {"width": 1.6, "color": LINE},
                "itemStyle": {"color": LINE},
                "markArea": {"silent": False, "label": {"show": False}, "data": areas + marks},
            },
            {**band, "name": text(language, "band"), "data": [list(point) for point in lowest]},
            {**band, "name": text(language, "band"), "data": [list(point) for point in spread], "areaStyle": {"color": BAND}},
        ],
    }
