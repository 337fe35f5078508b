"""A thing model with every data type, and raw JSON for its properties, well formed and not."""

from hypothesis import strategies as st

from protocols.thing.model import ThingModel, parse_thing_model


def _entry(identifier: str, kind: str, specs: object = None) -> dict[str, object]:
    return {"identifier": identifier, "accessMode": "rw", "dataType": {"type": kind, "specs": {} if specs is None else specs}}


_NUMBER = {"type": "int", "specs": {}}

MODEL: ThingModel = parse_thing_model(
    {
        "profile": {"productKey": "a1"},
        "properties": [
            _entry("Power", "double"),
            _entry("Temp", "float", {"min": "-40", "max": "250.5"}),
            _entry("Count", "int"),
            _entry("Level", "int", {"min": "0", "max": "9"}),
            _entry("Switch", "bool"),
            _entry("Mode", "enum", {"0": "auto", "3": "boost"}),
            _entry("Note", "text", {"length": "5"}),
            _entry("Start", "date"),
            # Its own fields are `value` and `time`: only the thing model can tell it from a stamped value.
            _entry("Probe", "struct", [{"identifier": "value", "dataType": _NUMBER}, {"identifier": "time", "dataType": _NUMBER}]),
            _entry("Timer", "struct", [{"identifier": "Burner", "dataType": {"type": "bool"}}]),
            _entry("Curve", "array", {"size": "3", "item": {"type": "float"}}),
        ],
        "events": [
            {
                "identifier": "Alarm",
                "type": "alert",
                "outputData": [{"identifier": "code", "dataType": _NUMBER}, {"identifier": "text", "dataType": {"type": "text"}}],
            },
            {
                "identifier": "Probed",
                "type": "info",
                "outputData": [
                    {"identifier": "value", "dataType": {"type": "struct", "specs": [{"identifier": "code", "dataType": _NUMBER}]}},
                    {"identifier": "time", "dataType": _NUMBER},
                ],
            },
        ],
    }
)

scalars = st.one_of(
    st.integers(-3, 12).map(str),
    st.integers().map(str),
    st.sampled_from("0 1 3 -0 -0.0 3.0 3.5 1e1 1e999 -1e999 1E400 250.5 250.50001 9007199254740992 9007199254740993".split()),  # noqa: SIM905
    st.sampled_from(["NaN", "Infinity", "-Infinity", "01", "1.", "true", "false", "null", "9" * 400, "9" * 5000]),
    st.sampled_from(['""', '"1"', '"1524448722000"', '"集成灶"', '"123456"', '"\\u00e9\\n"', '"\\ud800"', '"\\q"', '"\x01"', "'a'"]),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
)
times = st.sampled_from(
    [
        "0",
        "1524448722000",
        "1524448722000.0",
        "1.5",
        "-1",
        "null",
        "true",
        '"1524448722000"',
        "253402300799999",
        "253402300800000",
        "9" * 30,
    ]
)


def _object(names: list[str], parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.lists(st.tuples(st.sampled_from(names), parts), max_size=3)
    return pairs.map(lambda found: "{" + ",".join(f'"{name}":{part}' for name, part in found) + "}")


composites = _object(["Burner", "value", "time", "x"], scalars) | st.lists(scalars, max_size=4).map(lambda items: f"[{','.join(items)}]")
bare = scalars | composites
stamped = st.tuples(bare, times).map(lambda pair: f'{{"value":{pair[0]},"time":{pair[1]}}}')
values = st.one_of(bare, stamped, bare.map(lambda part: f'{{"value":{part}}}'), _object(["value", "time", "x"], bare | times))

good = {
    "Power": "345.2", "Temp": "21", "Count": "-7", "Level": "3", "Switch": "true", "Mode": "3", "Note": '"ok"',
    "Start": '"1524448722000"', "Probe": '{"value":5,"time":6}', "Timer": '{"Burner":1}', "Curve": "[1,2.5]",
}  # fmt: skip
known = st.sampled_from(sorted(good))
names = known | st.sampled_from(["Unknown", "", "P\\u006fwer", "ключ", "x" * 100])
fitting = known.map(lambda name: (name, good[name]))
fitting_stamped = known.map(lambda name: (name, f'{{"value":{good[name]},"time":1524448722000}}'))

pairs = st.lists(fitting, max_size=5) | st.lists(fitting_stamped, max_size=5) | st.lists(st.tuples(names, values) | fitting, max_size=5)
params = pairs.map(lambda found: "{" + ",".join(f'"{name}":{part}' for name, part in found) + "}")
heads = st.sampled_from(
    ['"id":"12",'] * 8
    + ['"id":12,', '"id":"1|exp-topic|/sys/a1/d",', '"id":"a\\/b","sys":{"ack":0},', '"id":null,', "", '"sys":7,"id":1.5e3,', '"id":"é",']
    + ['"id":true,', '"id":{},', f'"id":"{"9" * 300}",', '"params":7,', '"id":1,"id":"2",', '"sys":{"ack":0,"x":[1]},"id":"3",']
)
tails = st.sampled_from(
    [""] * 6
    + [',"version":"1.0","method":"thing.event.property.post"', ',"method":7,"sys":{"ack":0}', ',"x":{"y":[1e999]}', ',"x":"\\q"']
    + [',"sys":null', ',"sys":{"ack":"0"},"id":"9"', ',"sys":{"ack":false}', ',"params":"{}"', ',"params":null', ',"params":[]']
)
payloads = st.builds(lambda head, body, tail: f'{{{head}"params":{body}{tail}}}'.encode(), heads, params, tails)
