import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.alink.ota import Image, Progress, SignMethod, matches, upgrade_push

NEEDED = {"url", "version", "size", "signMethod", "sign"}  # the Python SDK ignores an offer that lacks one


def image(data: bytes, method: SignMethod) -> Image:
    return Image("2.0.0", "default", len(data), "http://x/y", hashlib.md5(data).hexdigest(), hashlib.sha256(data).hexdigest(), method)


@given(st.binary(max_size=200), st.sampled_from(SignMethod))
def test_an_offer_has_what_every_sdk_looks_at(data: bytes, method: SignMethod) -> None:
    push = json.loads(upgrade_push(7, image(data, method)))
    offer = push["data"]
    assert (push["code"], push["id"]) == ("1000", 7)
    assert offer.keys() >= NEEDED | {"md5", "module", "isDiff"}
    assert offer["signMethod"] in ("Md5", "SHA256")
    assert offer["md5"] == hashlib.md5(data).hexdigest()
    assert matches(data, offer["sign"], offer["signMethod"])
    assert not matches(data + b"x", offer["sign"], offer["signMethod"])
    assert not matches(data, offer["sign"], "crc32")


@pytest.mark.parametrize(("step", "percent"), [("-1", -1), ("100", 100), (50, 50), (3.0, 3), ("", None), ("many", None), ("1e999", None)])
def test_a_step_is_a_number_however_it_is_written(step: str, percent: int | None) -> None:
    assert Progress(step).percent == percent
