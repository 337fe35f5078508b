"""The configuration: what it means, and that every mistake is answered with the key and what is allowed."""

from pathlib import Path

import pytest

from edge_agent.domain.quotas import Overflow
from edge_agent.settings import load
from edge_agent.southbound.plan import ModbusPlan, SerialPlan, SerialTag
from protocols.edgelink.lanes import Lane
from protocols.errors import Reason, Refused
from protocols.field.modbus import NumberType, Table
from protocols.field.serial_line import TagType

TEXT = """
data_dir = "data"
[gateway]
product_key = "gateway"
device_name = "gw1"
[uplink]
host = "cloud.example"
[front_door]
[[device]]
product_key = "pk"
device_name = "meter"
thing_model = "power_meter"
[[connector]]
name = "line"
kind = "modbus-tcp"
device = "meter"
host = "10.0.0.2"
sample_on = "counter"
[[connector.point]]
name = "counter"
table = "holding"
address = 0
type = "uint32"
[[connector.point]]
name = "volts"
property = "VoltageL1"
table = "input"
address = 10
type = "float32"
"""


def write(home: Path, text: str = TEXT, secret: str = "s3cret\n", appliances: str = "") -> Path:
    for name, content in (("edge.toml", text), ("gateway.secret", secret), ("appliances.toml", appliances)):
        (home / name).touch(mode=0o600)
        (home / name).write_text(content)
    return home / "edge.toml"


def test_a_whole_file_becomes_typed_settings(tmp_path: Path) -> None:
    settings = load(write(tmp_path, appliances='[pk]\nmeter = "m"\n'), {})
    assert settings.data_dir == tmp_path / "data"
    assert settings.gateway.secret == "s3cret"
    assert (settings.uplink.port, settings.uplink.keepalive_s, settings.uplink.window) == (1883, 30, 16)
    assert settings.front_door is not None
    assert settings.front_door.secrets == {("pk", "meter"): "m"}
    (connector,) = settings.connectors
    assert isinstance(connector, ModbusPlan)
    point = connector.point("volts")
    assert (point.property, point.point.table, point.point.type) == ("VoltageL1", Table.INPUT, NumberType.FLOAT32)


@pytest.mark.parametrize(
    ("old", "new", "key", "says"),
    [
        ('host = "cloud.example"', "", "uplink.host", "is missing"),
        ('host = "cloud.example"', 'host = "x"\nport = 0', "uplink.port", "from 1 to 65535"),
        (
            'host = "cloud.example"',
            'host = "x"\nprot = 1',
            "uplink.prot",
            "allowed: bandwidth_kbit_s, bulk_from, bulk_to, ca_file, certificate_file, certificate_key_file, host, keepalive_s, port",
        ),
        ('host = "cloud.example"', 'host = "x"\ncertificate_file = "gw.pem"', "uplink.certificate_file", "together"),
        (
            'host = "cloud.example"',
            'host = "x"\ncertificate_file = "gw.pem"\ncertificate_key_file = "gw.key"',
            "uplink.certificate_file",
            "give ca_file or tls too",
        ),
        (
            'host = "cloud.example"',
            'host = "x"\ntls = true\ncertificate_file = "gw.pem"\ncertificate_key_file = "gw.key"',
            "uplink.certificate_file",
            "cannot be used",
        ),
        ('device_name = "gw1"', 'device_name = "a/b"', "gateway.device_name", "may hold no"),
        ('thing_model = "power_meter"', 'thing_model = "nope"', "device[0].thing_model", "power_meter"),
        ('device = "meter"\nhost', 'device = "other"\nhost', "connector[0].device", "(meter)"),
        ('kind = "modbus-tcp"', 'kind = "opcua"', "connector[0].kind", "modbus-tcp"),
        ('sample_on = "counter"', 'sample_on = "nope"', "connector[0].sample_on", "'nope'"),
        ('sample_on = "counter"', 'sample_on = "volts"', "connector[0].sample_on", "integer point"),
        ('table = "input"', 'table = "register"', "connector[0].point[1].table", "input, holding, coil, discrete"),
        ('type = "float32"', 'type = "float16"', "connector[0].point[1].type", "float64"),
        ("address = 10", "address = 65535", "connector[0].point[1].address", "65534"),
        ('property = "VoltageL1"', 'property = "Volts"', "connector[0].point[1].property", "VoltageL2"),
        ('name = "volts"', 'name = "counter"', "connector[0].point[].name", "twice"),
        ('data_dir = "data"', "data_dir = 3", "data_dir", "text"),
        ("[front_door]", "[front_door]\nport = true", "front_door.port", "whole number"),
        ("[uplink]", "[uplink", "edge.toml", "not TOML"),
    ],
)
@pytest.mark.refusal(Reason.BAD_CONFIGURATION)
def test_a_mistake_is_answered_with_its_key_and_what_is_allowed(tmp_path: Path, old: str, new: str, key: str, says: str) -> None:
    assert old in TEXT
    with pytest.raises(Refused) as caught:
        load(write(tmp_path, TEXT.replace(old, new, 1)), {})
    assert caught.value.reason is Reason.BAD_CONFIGURATION
    assert key in str(caught.value)
    assert says in str(caught.value)


def test_a_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "gateway.secret").chmod(0o644)
    with pytest.raises(Refused, match=r"gateway\.secret_file.*chmod 600"):
        load(path, {})


def test_an_appliance_without_a_device_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"pk\.stranger has no \[\[device\]\]"):
        load(write(tmp_path, appliances='[pk]\nstranger = "m"\n'), {})


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="edgectl init"):
        load(tmp_path / "nothing.toml", {})


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    environ = {"HEARTHLINE_EDGE_UPLINK_PORT": "2883", "HEARTHLINE_EDGE_DATA_DIR": "elsewhere", "HEARTHLINE_CRASH_DIR": "/crash"}
    settings = load(write(tmp_path), environ)
    assert settings.uplink.port == 2883
    assert settings.data_dir == tmp_path / "elsewhere"
    assert settings.crash_dir == Path("/crash")
    with pytest.raises(Refused, match=r"uplink\.port"):
        load(write(tmp_path), {"HEARTHLINE_EDGE_UPLINK_PORT": "many"})


SERIAL = """
[[device]]
product_key = "pk"
device_name = "oven"
thing_model = "power_meter"
[[connector]]
name = "board"
kind = "serial-line"
device = "oven"
path = "/dev/ttyS1"
[[connector.tag]]
tag = 1
type = "int16"
scale = 0.1
property = "VoltageL1"
"""


def test_a_serial_line_becomes_a_plan(tmp_path: Path) -> None:
    plan = load(write(tmp_path, TEXT + SERIAL), {}).connectors[1]
    assert isinstance(plan, SerialPlan)
    assert (plan.path, plan.baud, plan.own_time, plan.silence_ms) == ("/dev/ttyS1", 115_200, False, 5_000)
    assert plan.tags == (SerialTag(tag=1, type=TagType.INT16, scale=0.1, property="VoltageL1"),)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("tag = 1", "tag = 254", r"tag\[0\]\.tag: must be a whole number from 1 to 253"),
        ('property = "VoltageL1"', 'property = "Smoke"', r"numeric property of oven's thing model, not 'Smoke'"),
        ("scale = 0.1", "scale = 0", "scale: must not be 0"),
        ('type = "int16"', 'type = "int17"', "bool, uint8"),
        ('path = "/dev/ttyS1"', "", "path: is missing"),
        ("[[connector.tag]]", "baud = 1\n[[connector.tag]]", "baud: must be a whole number from 300"),
    ],
)
def test_a_wrong_serial_line_says_what_is_wrong(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(Refused, match=says):
        load(write(tmp_path, TEXT + SERIAL.replace(old, new)), {})


def test_an_outage_s_lane_takes_what_is_said_of_live_unless_it_says_otherwise(tmp_path: Path) -> None:
    said = "[buffer]\nquota_bytes = 100000000\n"
    said += '[buffer.live]\noverflow = "block"\nquota_bytes = 50000000\nreserve_bytes = 70000\nmax_age_s = 60\n'
    quotas = load(write(tmp_path, TEXT + said), {}).buffer.quotas
    live, bulk = quotas.lanes[Lane.LIVE], quotas.lanes[Lane.BULK]
    assert (live.overflow, live.quota_bytes, live.max_age_s) == (Overflow.BLOCK, 50_000_000, 60)
    assert (bulk.overflow, bulk.quota_bytes, bulk.max_age_s) == (Overflow.BLOCK, 50_000_000, 60)
    assert (live.reserve_bytes, bulk.reserve_bytes) == (70_000, 0), "a reserve is not kept twice"
    own = said + '[buffer.bulk]\noverflow = "thin"\nmax_age_s = 0\n'
    bulk = load(write(tmp_path, TEXT + own), {}).buffer.quotas.lanes[Lane.BULK]
    assert (bulk.overflow, bulk.quota_bytes, bulk.max_age_s) == (Overflow.THIN, 50_000_000, None)
