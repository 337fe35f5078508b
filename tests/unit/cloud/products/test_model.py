"""Product keys fit into topics and never meet the built-in ones."""

from cloud.products.model import GATEWAY, new_product_key
from cloud.products.service import gateway_product


def test_product_keys_are_eleven_letters_and_digits_and_all_different() -> None:
    keys = {new_product_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(len(key) == 11 and key.isascii() and key.isalnum() for key in keys)


def test_the_gateway_is_built_in() -> None:
    product = gateway_product()
    assert (product.product_key, product.built_in) == (GATEWAY, True)
