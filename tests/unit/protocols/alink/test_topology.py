import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.alink.topology import read_signed, sign_identity

texts = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
methods = st.sampled_from(["hmacSha256", "hmacsha1", "HmacMD5"])


@given(texts, texts, texts, texts, st.integers(0, 2**45).map(str), methods, st.booleans())
def test_a_gateway_that_knows_the_secret_proves_it_and_no_other_does(
    product_key: str, device_name: str, secret: str, client_id: str, timestamp: str, method: str, upper: bool
) -> None:
    item = sign_identity(product_key, device_name, secret, client_id, timestamp, method)
    if upper:
        item["sign"] = item["sign"].upper()
    signed = read_signed(item)
    assert signed.key == (product_key, device_name)
    assert signed.proves(secret)
    assert not signed.proves(secret + "x")
    assert not signed.proves("")
    assert not read_signed({**item, "clientId": client_id + "x"}).proves(secret)


def test_the_python_sdks_client_id_is_signed_with_its_bars() -> None:
    client_id = "a1.sub1|lan=Python,_v=2.2.1,_ss=1|"
    item = sign_identity("a1", "sub1", "s", client_id, "1")
    assert read_signed(item).client_id == client_id


@pytest.mark.parametrize("spelling", ["signMethod", "signmethod", "SIGNMETHOD"])
def test_keys_are_read_without_regard_to_case(spelling: str) -> None:
    item = sign_identity("a1", "s", "secret", "c", "1", "hmacsha1")
    item[spelling] = item.pop("signMethod")
    assert read_signed(item).proves("secret")


def test_the_batchs_method_is_that_of_each_that_names_none() -> None:
    item = sign_identity("a1", "s", "secret", "c", "1", "hmacSha256")
    del item["signMethod"]
    assert read_signed(item, "hmacSha256").proves("secret")
    assert not read_signed(item).proves("secret")


@pytest.mark.parametrize("missing", ["productKey", "deviceName", "clientId", "sign"])
def test_what_is_missing_is_named(missing: str) -> None:
    item: dict[str, object] = {**sign_identity("a1", "s", "secret", "c", "1")}
    for broken in ({key: value for key, value in item.items() if key != missing}, {**item, missing: 7}, {**item, missing: ""}):
        with pytest.raises(ValueError, match=missing):
            read_signed(broken)


def test_a_method_that_we_do_not_know_proves_nothing() -> None:
    item = {**sign_identity("a1", "s", "secret", "c", "1"), "signMethod": "rsa"}
    assert not read_signed(item).proves("secret")
