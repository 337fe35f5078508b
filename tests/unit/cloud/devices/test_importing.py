"""What a CSV file of devices has to look like, and which certificate is an authority's."""

import csv
import io

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from cloud.devices.authorities import read_authority
from cloud.devices.importing import MOST_ROWS, NewRow, read_rows
from protocols.errors import Reason, Refused
from tests.fakes.maker import Maker, pem

cells = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), max_size=20)


@given(st.lists(st.tuples(st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True), cells, cells), max_size=30), st.permutations([0, 1, 2]))
def test_rows_come_as_they_were_written_whatever_the_order_of_the_columns(rows: list[tuple[str, str, str]], order: list[int]) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    names = ("device_name", "device_secret", "site")
    writer.writerow(names[place] for place in order)
    writer.writerows([row[place] for place in order] for row in rows)
    assert read_rows(text.getvalue()) == [NewRow(n, *row) for n, row in enumerate(rows, 1)]


def test_columns_may_be_left_out_and_empty_lines_are_passed_over() -> None:
    assert read_rows("\ufeffdevice_name\r\na\r\n\r\n  b \r\n") == [NewRow(1, "a", "", ""), NewRow(2, "b", "", "")]
    assert read_rows("device_name,site\na\n") == [NewRow(1, "", "", "")], "a row with another number of cells names no device"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "first line has to name the columns"),
        ("name,secret\na,b\n", "first line has to name the columns"),
        ("device_name,colour\na,b\n", "first line has to name the columns"),
        ("device_name,device_name\na,b\n", "first line has to name the columns"),
        ('device_name\n"a\n', "line 2 is no CSV"),
        ("device_name\n" + "a\n" * (MOST_ROWS + 1), "at most 10,000 rows"),
    ],
)
def test_a_text_that_cannot_be_taken_as_a_whole_is_refused(text: str, told: str) -> None:
    with pytest.raises(Refused, match=told):
        read_rows(text)


def test_an_authority_is_taken_and_everything_else_is_named() -> None:
    maker = Maker.new("Maker CA")
    assert read_authority(maker.pem) == maker.certificate
    key = maker.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for text, told in (
        (pem(maker.issue("dn")[0]), "CA:FALSE"),
        (maker.pem + key.decode(), "private key"),
        (maker.pem + maker.pem, "holds 2 certificates"),
        (maker.pem.replace("BEGIN", "BEGIN TRUSTED"), "no certificate"),
        (Maker.new("Old CA", days=(-9, -1)).pem, "not valid now"),
        (Maker.new("Coming CA", days=(1, 9)).pem, "not valid now"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no certificate"),
        ("", "no certificate"),
        ("x" * 20_000, "longer than"),
    ):
        with pytest.raises(Refused, match=told) as refused:
            read_authority(text)
        assert refused.value.reason is Reason.BAD_CERTIFICATE
