"""API keys: found by their prefix, proven by their hash."""

from hypothesis import given
from hypothesis import strategies as st

from cloud.tenancy.model import digest, key_prefix, matches, new_api_key


def test_a_new_key_is_found_by_its_prefix_and_matches_only_itself() -> None:
    key, other = new_api_key(), new_api_key()
    prefix = key_prefix(key)
    assert prefix is not None
    assert key.startswith(prefix + "_")
    assert matches(key, digest(key))
    assert not matches(other, digest(key))


@given(st.text(max_size=100))
def test_any_text_has_a_prefix_or_none(text: str) -> None:
    prefix = key_prefix(text)
    assert prefix is None or text.startswith(prefix)
