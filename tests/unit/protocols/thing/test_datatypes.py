import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import Reason, Refused
from protocols.thing.datatypes import (
    ArrayType,
    BoolType,
    DataType,
    DateType,
    EnumType,
    FloatType,
    IntType,
    StructType,
    TextType,
    is_numeric,
    words,
)

RANGE = IntType(minimum=-5, maximum=5)
MODE = EnumType({0: "auto", 3: "boost"})
TIMER = StructType({"Burner": MODE, "Seconds": IntType(0, 60)})
TYPES: list[DataType] = [
    IntType(),
    RANGE,
    FloatType(),
    FloatType(minimum=-1.5, maximum=1e6),
    BoolType(),
    MODE,
    TextType(4),
    DateType(),
    TIMER,
    ArrayType(FloatType(), 3),
    ArrayType(TIMER, 2),
]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["Burner", "Seconds", "value", "x"]), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("data_type", "given_value", "kept"),
    [
        (IntType(), 7, 7),
        (IntType(), 7.0, 7),  # C devices print whole numbers so
        (IntType(), 2**53, 2**53),
        (FloatType(), 21, 21.0),
        (FloatType(), 2**60, float(2**60)),
        (BoolType(), True, 1),
        (BoolType(), False, 0),
        (BoolType(), 1, 1),
        (MODE, 3, 3),
        (TextType(4), "集成灶x", "集成灶x"),
        (DateType(), "1524448722000", 1524448722000),
        (DateType(), 1524448722000, 1524448722000),
        (TIMER, {"Burner": 0}, {"Burner": 0}),
        (ArrayType(FloatType(), 3), [1, 2.5], [1.0, 2.5]),
    ],
)
def test_a_value_of_the_type_is_kept_in_one_form(data_type: DataType, given_value: object, kept: object) -> None:
    coerced = data_type.coerce(given_value)
    assert coerced == kept
    assert type(coerced) is type(kept)


@pytest.mark.parametrize(
    ("data_type", "given_value", "reason"),
    [
        (IntType(), 3.5, Reason.WRONG_TYPE),
        (IntType(), "3", Reason.WRONG_TYPE),
        (IntType(), True, Reason.WRONG_TYPE),
        (IntType(), None, Reason.WRONG_TYPE),
        (IntType(), 2**53 + 1, Reason.INTEGER_TOO_LARGE),
        (IntType(), -(2**53) - 1, Reason.INTEGER_TOO_LARGE),
        pytest.param(IntType(), 1 << 20_000, Reason.INTEGER_TOO_LARGE, id="more digits than python prints"),
        (RANGE, 6, Reason.OUT_OF_RANGE),
        (FloatType(), math.nan, Reason.OUT_OF_RANGE),
        (FloatType(), -math.inf, Reason.OUT_OF_RANGE),
        (FloatType(), 1 << 2_000, Reason.OUT_OF_RANGE),
        (FloatType(), True, Reason.WRONG_TYPE),
        (FloatType(maximum=3.0), 3.01, Reason.OUT_OF_RANGE),
        (BoolType(), 2, Reason.WRONG_TYPE),
        (BoolType(), "true", Reason.WRONG_TYPE),
        (MODE, 1, Reason.OUT_OF_RANGE),
        (TextType(4), "12345", Reason.OUT_OF_RANGE),
        (TextType(4), 5, Reason.WRONG_TYPE),
        (DateType(), "yesterday", Reason.WRONG_TYPE),
        (DateType(), -1, Reason.OUT_OF_RANGE),
        (DateType(), "9" * 18, Reason.INTEGER_TOO_LARGE),
        (TIMER, {"Other": 1}, Reason.WRONG_TYPE),
        (TIMER, {"Seconds": 61}, Reason.OUT_OF_RANGE),
        (TIMER, [1], Reason.WRONG_TYPE),
        (ArrayType(FloatType(), 1), [1, 2], Reason.OUT_OF_RANGE),
        (ArrayType(FloatType(), 1), {}, Reason.WRONG_TYPE),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_reason(data_type: DataType, given_value: object, reason: Reason) -> None:
    with pytest.raises(Refused) as refused:
        data_type.coerce(given_value, "Level")
    assert refused.value.reason is reason
    assert str(refused.value).startswith("Level")


def test_the_message_names_the_field_and_the_item() -> None:
    with pytest.raises(Refused, match=r"^Timers\[1\]\.Seconds: 99 is outside \[0, 60\]$"):
        ArrayType(TIMER, 3).coerce([{"Seconds": 1}, {"Seconds": 99}], "Timers")


@given(st.sampled_from(TYPES), json_values)
def test_any_value_is_coerced_or_refused_and_coercing_twice_changes_nothing(data_type: DataType, value: object) -> None:
    try:
        once = data_type.coerce(value)
    except Refused:
        return
    assert data_type.coerce(once) == once
    if is_numeric(data_type):
        assert isinstance(once, int | float)
        assert math.isfinite(once)
        assert float(once) == once


def test_text_struct_and_array_are_stored_as_json_everything_else_as_a_number() -> None:
    assert {data_type.kind for data_type in TYPES if not is_numeric(data_type)} == {"text", "struct", "array"}


def test_words_are_of_the_language_or_else_of_the_model_and_only_enums_and_bools_have_some() -> None:
    mode = EnumType({0: "auto", 3: "boost"}, names={0: {"en": "automatic", "zh": "自动"}, 3: {"en": "boost", "zh": ""}})
    assert words(mode, "zh") == {0: "自动", 3: "boost"}
    assert words(mode, "en") == {0: "automatic", 3: "boost"}
    assert words(BoolType(("off", "on"), names={1: {"zh": "开"}}), "zh") == {0: "off", 1: "开"}
    assert words(BoolType(), "zh") == {}
    assert [words(data_type, "zh") for data_type in (None, IntType(), TIMER)] == [{}, {}, {}]
