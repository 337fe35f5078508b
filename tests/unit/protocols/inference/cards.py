"""A card for tests."""

from protocols.inference.card import ModelCard


def card(signals: tuple[str, ...] = ("A", "B"), window_rows: int = 4, max_gap_ms: int = 1_000) -> ModelCard:
    return ModelCard(
        name="test",
        signals=signals,
        window_rows=window_rows,
        row_ms=100,
        max_gap_ms=max_gap_ms,
        false_alarm_rate=0.01,
        held_out_false_alarm_rate=0.01,
        components=1,
        explained_variance=0.9,
        q_limit=1.0,
        t2_limit=1.0,
        fitted_rows=10,
        fitted_windows=7,
        held_out_windows=3,
        fitted_from_ms=0,
        fitted_to_ms=900,
        data_sha256="0" * 64,
        made_by="a test",
    )
