"""Rows become columns in the order they came, whatever their shapes."""

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.domain.batch import Batch, Shape
from protocols.thing.model import parse_thing_model

MODEL = parse_thing_model(
    {
        "properties": [
            {"identifier": name, "name": name, "accessMode": "r", "dataType": {"type": kind, "specs": specs}}
            for name, kind, specs in (
                ("A", "double", {}),
                ("B", "double", {}),
                ("C", "int", {}),
                ("Note", "text", {"length": "100"}),
            )
        ],
        "events": [],
        "services": [],
    }
)
SHAPES = [Shape("pk", device, MODEL, names) for device in ("d1", "d2") for names in (("A",), ("A", "B"), ("C", "Note", "A"), ("Note",))]


def flat(batch: Batch) -> list[tuple[str, str, object, int]]:
    columns = batch.columns()
    keys = columns.dictionary
    numbers = zip(columns.series.tolist(), columns.values.tolist(), columns.times.tolist(), strict=True)
    found: list[tuple[str, str, object, int]] = [(keys[at][1], keys[at][2], value, time) for at, value, time in numbers]
    return found + [(keys[at][1], keys[at][2], text, time) for at, time, text in columns.texts]


@given(st.lists(st.tuples(st.sampled_from(SHAPES), st.integers(0, 10**12), st.booleans()), max_size=30))
def test_every_value_keeps_its_device_name_and_time(rows: list[tuple[Shape, int, bool]]) -> None:
    batch = Batch()
    numbers: list[tuple[str, str, object, int]] = []
    texts: list[tuple[str, str, object, int]] = []
    for number, (shape, time_ms, each) in enumerate(rows):
        values = [f"n{number}" if key[2] == "Note" else float(number) for key in shape.keys]
        times = [time_ms + index for index in range(shape.width)] if each else time_ms
        batch.row(shape, values, times)
        for index, (key, value) in enumerate(zip(shape.keys, values, strict=True)):
            at = time_ms + index if each else time_ms
            text = f'"{value}"' if key[2] == "Note" else value
            (texts if key[2] == "Note" else numbers).append((key[1], key[2], text, at))
    assert flat(batch) == numbers + texts
    assert batch.readings == len(numbers) + len(texts)
    assert bool(batch) == bool(rows)


def test_many_rows_at_once_are_the_same_as_one_by_one() -> None:
    shape = SHAPES[1]
    one, many = Batch(), Batch()
    one.row(SHAPES[0], [1.0], 5)
    many.row(SHAPES[0], [1.0], 5)
    for number in range(3):
        one.row(shape, [float(number), 2.0], [10 + number, 20 + number])
    many.rows(shape, 3, [0.0, 2.0, 1.0, 2.0, 2.0, 2.0], [10, 20, 11, 21, 12, 22])
    assert flat(one) == flat(many)
    assert one.weight == many.weight
