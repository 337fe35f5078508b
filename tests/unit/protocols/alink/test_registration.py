"""Registration by one secret per product: what a device sends, and what it is given."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.alink.codes import Code
from protocols.alink.credentials import signature, verify
from protocols.alink.registration import (
    AuthType,
    Claim,
    Grant,
    RegistrationRefused,
    ask,
    auth_type,
    bootstrap_answer,
    check_claim,
    claim_of_connect,
    claim_of_form,
    refusal,
    show_token,
    signed_text,
    verify_token,
)
from protocols.errors import Refused
from tests.fuzzing import fuzz

SECRET = b"product-secret-0123456789abcdef"
names = st.from_regex(r"[A-Za-z0-9_\-.@:]{1,20}", fullmatch=True)
methods = st.sampled_from(["hmacmd5", "hmacsha1", "hmacsha256", "HmacSHA256"])
randoms = st.from_regex(r"[0-9a-zA-Z]{1,32}", fullmatch=True)


def code_of(claim: Claim, secret: bytes = SECRET) -> Code | None:
    try:
        check_claim(claim, secret)
    except RegistrationRefused as refused:
        return refused.code
    return None


def test_the_signed_text_is_that_of_the_protocol() -> None:
    assert signed_text("a1TestPk001", "dev1", "42") == "deviceNamedev1productKeya1TestPk001random42"


@given(names, names, st.binary(min_size=1, max_size=40), methods, randoms, st.booleans())
def test_what_a_device_signs_is_taken_in_either_case_and_no_other_secret_is(
    product_key: str, device_name: str, secret: bytes, method: str, random: str, token: bool
) -> None:
    fields = ask(product_key, device_name, secret, random=random, token=token, method=method)
    claim = claim_of_connect(fields.client_id, fields.username, fields.password)
    assert claim == Claim(product_key, device_name, random, fields.password, method.lower(), token)
    assert claim is not None
    assert code_of(claim, secret) is None
    assert code_of(_with(claim, fields.password.upper()), secret) is None
    assert code_of(claim, secret + b"x") is Code.SIGNATURE_WRONG


def _with(claim: Claim, sign: bytes) -> Claim:
    return Claim(claim.product_key, claim.device_name, claim.random, sign, claim.method, claim.token)


@given(names, names, methods, randoms)
def test_a_form_makes_the_claim_that_a_connect_makes(product_key: str, device_name: str, method: str, random: str) -> None:
    sign = signature(signed_text(product_key, device_name, random), SECRET, method)
    assert sign is not None
    form = {"productKey": product_key, "deviceName": device_name, "random": random, "sign": sign, "signMethod": method, "version": "1"}
    fields = ask(product_key, device_name, SECRET, random=random, method=method)
    assert claim_of_form(form) == claim_of_connect(fields.client_id, fields.username, fields.password)
    assert code_of(claim_of_form(form)) is None


@pytest.mark.parametrize("missing", ["productKey", "deviceName", "random", "sign", "signMethod"])
def test_a_form_that_lacks_a_field_is_answered_460(missing: str) -> None:
    form = {"productKey": "pk", "deviceName": "dn", "random": "1", "sign": "00", "signMethod": "hmacsha1"}
    for broken in (
        {**form, missing: ""},
        {name: value for name, value in form.items() if name != missing},
        {**form, missing: "x" * 300},
        {**form, "deviceName": "a\0b"},
    ):
        with pytest.raises(RegistrationRefused) as refused:
            claim_of_form(broken)
        assert refused.value.code is Code.BAD_PARAMS


@pytest.mark.parametrize(
    ("client_id", "username", "password"),
    [
        ("dn.pk|random=1,authType=register,signmethod=hmacsha256|", "dn", b"00"),
        ("dn.pk|random=1,authType=register,signmethod=hmacsha256|", None, b"00"),
        ("dn.pk|authType=register,signmethod=hmacsha256|", "dn&pk", b"00"),
        ("dn.pk|random=1,authType=regnwl,signmethod=hmacsha256|", "dn&pk", None),
    ],
)
def test_a_connect_that_lacks_a_field_is_refused(client_id: str, username: str | None, password: bytes | None) -> None:
    with pytest.raises(RegistrationRefused) as refused:
        claim_of_connect(client_id, username, password)
    assert refused.value.code is Code.BAD_PARAMS


def test_an_unknown_method_is_6292_and_a_wrong_signature_6600() -> None:
    claim = claim_of_connect("dn.pk|random=1,authType=register,signmethod=sm3|", "dn&pk", b"00")
    assert claim is not None
    assert code_of(claim) is Code.SIGN_METHOD_UNKNOWN
    claim = claim_of_connect("dn.pk|random=1,authType=register,signmethod=hmacsha1|", "dn&pk", b"00")
    assert claim is not None
    assert code_of(claim) is Code.SIGNATURE_WRONG
    assert code_of(_with(claim, b"\xff" * 40)) is Code.SIGNATURE_WRONG
    proof = signature(signed_text("pk", "dn", "1"), b"", "hmacsha1")
    assert proof is not None
    assert code_of(_with(claim, proof.encode()), b"") is Code.SIGNATURE_WRONG, "no secret proves nothing"


def test_any_other_connect_asks_for_no_registration() -> None:
    for client_id in ("base", "base|securemode=3|", "base|authType=connwl|", "base|authType=|", "base|authType=other|"):
        assert claim_of_connect(client_id, "dn&pk", b"x") is None
    assert auth_type("x|authType=CONNWL|") is AuthType.CONNWL


def test_answers_have_the_shape_that_small_devices_expect() -> None:
    secret, token = Grant("pk", "dn", "s3"), Grant("pk", "dn", client_id="c1", device_token="t1")
    assert (secret.topic, secret.to_bytes()) == ("/ext/register", b'{"productKey":"pk","deviceName":"dn","deviceSecret":"s3"}')
    assert (token.topic, token.to_bytes()) == (
        "/ext/regnwl",
        b'{"productKey":"pk","deviceName":"dn","clientId":"c1","deviceToken":"t1"}',
    )
    assert secret.answer() == b'{"code":200,"data":{"productKey":"pk","deviceName":"dn","deviceSecret":"s3"},"message":"success"}'
    assert bootstrap_answer("cloud.example", 1883) == (
        b'{"code":200,"data":{"resources":{"mqtt":{"host":"cloud.example","port":1883}}},"message":"success"}'
    )
    for code in (460, 6250, 6288, 6289, 6292, 6600, 500, 6100, 6204, 429):
        answer = refusal(Code(code))
        assert msgspec.json.decode(answer)["code"] == code
        assert len(answer) < 80


@given(st.text("0123456789abcdef", min_size=1, max_size=24), st.text("0123456789abcdef", min_size=1, max_size=32))
def test_a_token_is_shown_verbatim_under_its_client_id(client_id: str, token: str) -> None:
    fields = show_token(Grant("pk", "dn", client_id=client_id, device_token=token))
    assert verify_token(fields.client_id, fields.password, client_id, token.encode())
    assert not verify_token(fields.client_id, fields.password, client_id + "x", token.encode())
    assert not verify_token(fields.client_id, fields.password + b"x", client_id, token.encode())
    assert not verify_token(fields.client_id, None, client_id, token.encode())
    assert not verify_token(fields.client_id, b"", client_id, b"")
    assert not verify(fields.client_id, fields.username, fields.password, token)


@fuzz
@given(st.text(max_size=80), st.text(max_size=20) | st.none(), st.binary(max_size=40) | st.none())
def test_any_connect_is_a_claim_or_not_or_refused(client_id: str, username: str | None, password: bytes | None) -> None:
    try:
        claim = claim_of_connect(client_id, username, password)
    except Refused:
        return
    assert claim is None or code_of(claim) is not None
    assert not verify_token(client_id, password, "id", b"token-nobody-guesses")
