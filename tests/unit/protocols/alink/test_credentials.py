import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.alink.credentials import answers_on_the_topic, parse_client_id, parse_username, sign, signature, signed_string, verify
from protocols.errors import Reason, Refused
from tests.fuzzing import fuzz

# The checked example of alink.md par. 2.1, as captured from an SDK.
CLIENT_ID = "a1TestPk001&dev1|securemode=3,signmethod=hmacsha1,ext=1,_ss=1,lan=Python,_v=1.2.13,sii=WiFi|ap1,timestamp=1795319980|"
USERNAME = "dev1&a1TestPk001"
SECRET = "secret-of-dev1-0123456789abcdef"
PASSWORD = b"79df42a7237908a5b3600b5078b6b79d2105f5da"

names = st.from_regex(r"[A-Za-z0-9_\-.@:]{1,20}", fullmatch=True)
secrets = st.text(min_size=1, max_size=40)
methods = st.sampled_from(["hmacmd5", "hmacsha1", "hmacsha256", "HmacSHA256"])


def test_the_captured_example_is_verified() -> None:
    assert verify(CLIENT_ID, USERNAME, PASSWORD, SECRET)
    assert verify(CLIENT_ID, USERNAME, PASSWORD.upper(), SECRET.encode())


def test_the_signed_string_of_the_captured_example() -> None:
    base = parse_client_id(CLIENT_ID).base
    assert signed_string(base, "a1TestPk001", "dev1", "1795319980") == (
        "clientIda1TestPk001&dev1deviceNamedev1productKeya1TestPk001timestamp1795319980"
    )


def test_an_option_may_hold_a_bar() -> None:
    parsed = parse_client_id(CLIENT_ID)
    assert parsed.options["sii"] == "WiFi|ap1"
    assert parsed.options["timestamp"] == "1795319980"
    assert parsed.sign_method == "hmacsha1"


@pytest.mark.parametrize(
    ("client_id", "username", "password", "secret"),
    [
        (CLIENT_ID, USERNAME, PASSWORD, "another secret"),
        (CLIENT_ID, USERNAME, PASSWORD, ""),
        (CLIENT_ID, USERNAME, PASSWORD[:-1], SECRET),
        (CLIENT_ID, USERNAME, b"", SECRET),
        (CLIENT_ID, USERNAME, None, SECRET),
        (CLIENT_ID, USERNAME, b"\xff" * 40, SECRET),
        (CLIENT_ID, "dev2&a1TestPk001", PASSWORD, SECRET),
        (CLIENT_ID, "dev1", PASSWORD, SECRET),
        (CLIENT_ID, None, PASSWORD, SECRET),
        (CLIENT_ID.replace("hmacsha1", "hmacsha256"), USERNAME, PASSWORD, SECRET),
        (CLIENT_ID.replace("hmacsha1", "none"), USERNAME, PASSWORD, SECRET),
        (CLIENT_ID.replace("1795319980", "1795319981"), USERNAME, PASSWORD, SECRET),
        ("x" + CLIENT_ID, USERNAME, PASSWORD, SECRET),
    ],
)
def test_anything_else_is_not(client_id: str, username: str | None, password: bytes | None, secret: str) -> None:
    assert not verify(client_id, username, password, secret)


def test_without_options_the_method_is_md5_and_no_timestamp_is_signed() -> None:
    password = signature("clientIdmac-01deviceNamed1productKeyp1", "s", "hmacmd5")
    assert password is not None
    assert verify("mac-01", "d1&p1", password.encode(), "s")
    assert verify("mac-01||", "d1&p1", password.encode(), "s")
    assert verify("mac-01|securemode=3,ext=0|", "d1&p1", password.encode(), "s")


def test_the_age_of_the_timestamp_does_not_matter() -> None:
    ancient = sign("p1", "d1", "s", timestamp=2524608000000)  # what the C SDKs always send
    assert verify(ancient.client_id, ancient.username, ancient.password, "s")


@given(names, names, secrets, methods, names | st.none(), st.none() | st.integers(0, 10**13))
def test_what_a_device_signs_is_verified_and_no_other_secret_is(
    product_key: str, device_name: str, secret: str, method: str, base: str | None, timestamp: int | None
) -> None:
    connection = sign(product_key, device_name, secret, method=method, base=base, timestamp=timestamp)
    assert verify(connection.client_id, connection.username, connection.password, secret)
    assert verify(connection.client_id, connection.username, connection.password.upper(), secret.encode())
    assert not verify(connection.client_id, connection.username, connection.password, secret + "x")


@fuzz
@given(st.text(max_size=60), st.text(max_size=20) | st.none(), st.binary(max_size=40) | st.none())
def test_any_connect_fields_are_verified_or_not_but_never_raise(client_id: str, username: str | None, password: bytes | None) -> None:
    assert not verify(client_id, username, password, SECRET)


def test_the_user_name_is_cut_at_the_last_ampersand() -> None:
    assert parse_username("a&b&p1") == ("p1", "a&b")
    for bad in (None, "", "&", "d&", "&p", "dp"):
        with pytest.raises(Refused) as refused:
            parse_username(bad)
        assert refused.value.reason is Reason.BAD_CREDENTIALS


def test_an_unknown_sign_method_is_refused_when_signing() -> None:
    with pytest.raises(Refused, match="hmacsha3"):
        sign("p1", "d1", "s", method="hmacsha3")


client_ids = st.lists(st.sampled_from(["d", "|", ",", "ext", "=", "1", "2", "ext=3", "sii=a", "1234567890", "\u0661"]), max_size=12).map(
    "".join
)


@given(client_ids)
def test_where_calls_are_taken_is_what_the_parsed_client_id_says(client_id: str) -> None:
    said = parse_client_id(client_id).options.get("ext", "0")
    digits = said.isascii() and said.isdigit() and len(said) < 10
    assert answers_on_the_topic(client_id) is (digits and int(said) % 2 == 1)


@pytest.mark.parametrize(("ext", "on_the_topic"), [(0, False), (1, True), (2, False), (3, True)])
def test_a_client_says_whether_it_takes_calls_on_their_own_topics(ext: int, on_the_topic: bool) -> None:
    fields = sign("pk", "dn", "s" * 32, ext=ext)
    assert answers_on_the_topic(fields.client_id) is on_the_topic
    assert verify(fields.client_id, fields.username, fields.password, "s" * 32)
