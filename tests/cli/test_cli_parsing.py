"""Values as people type them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stitchsafe.cli.parsing import (
    parse_bandwidth,
    parse_bytes,
    parse_choices,
    parse_numbers,
    parse_roi,
    parse_shape,
)
from stitchsafe.errors import InputError


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("8GB", 8_000_000_000),
        ("1.5GB", 1_500_000_000),
        ("500MiB", 500 * 2**20),
        ("2gib", 2**31),
        ("64 kB", 64_000),
        (".5TB", 500_000_000_000),
        ("123456", 123_456),
        ("123456B", 123_456),
    ],
)
def test_bytes_take_decimal_and_binary_units(text: str, count: int) -> None:
    assert parse_bytes(text, "--max-memory") == count


@pytest.mark.parametrize("text", ["", "GB", "8G", "8 apples", "-1GB", "0GB", "1e9", "0.1B"])
def test_bytes_refuse_the_rest_by_name(text: str) -> None:
    with pytest.raises(InputError, match=r"--max-memory") as caught:
        parse_bytes(text, "--max-memory")
    assert repr(text) in str(caught.value)


def test_a_bandwidth_is_a_number_or_auto() -> None:
    assert parse_bandwidth("auto", "--bandwidth") == "auto"
    assert parse_bandwidth("2.5e-1", "--bandwidth") == 0.25
    for text in ("", "automatic", "0", "-1", "nan", "inf", "1,2"):
        with pytest.raises(InputError, match=r"--bandwidth .*auto"):
            parse_bandwidth(text, "--bandwidth")


def test_shape() -> None:
    assert parse_shape("64,128,128", "--tile-shape") == (64, 128, 128)
    assert parse_shape(" 512, 0256", "--tile-shape") == (512, 256)


@pytest.mark.parametrize("text", ["64", "64,64,64,64", "64,0,64", "64,-8,64", "64,x,64", "64,,64"])
def test_shape_refuses_the_rest(text: str) -> None:
    with pytest.raises(InputError, match="--tile-shape"):
        parse_shape(text, "--tile-shape")


def test_numbers() -> None:
    assert parse_numbers("0.3,0.1,.1", "--thresholds", "0.5,0.9") == (0.3, 0.1, 0.1)


@pytest.mark.parametrize("text", ["", "a", "0.3,,0.1", "0,1,1", "-1,1,1", "nan,1,1", "inf,1,1"])
def test_numbers_refuse_the_rest(text: str) -> None:
    with pytest.raises(InputError, match=r"--thresholds.*such as 0.5,0.9"):
        parse_numbers(text, "--thresholds", "0.5,0.9")


def test_roi_leaves_out_what_the_volume_says() -> None:
    assert parse_roi("0:64,128:,:", "--roi") == (
        (0, 64),
        (128, None),
        (None, None),
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0:64", "two or three"),
        ("0:1,0:1,0:1,0:1", "two or three"),
        ("5:5,:,:", "empty"),
        (":0,:,:", "empty"),
        ("9:5,:,:", "empty"),
        ("-1:5,:,:", "begin:end"),
        ("0:5:2,:,:", "begin:end"),
        ("5,:,:", "begin:end"),
        ("", "begin:end"),
    ],
)
def test_roi_refuses_the_rest_and_says_why(text: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        parse_roi(text, "--roi")


def test_choices_are_kept_once_in_order() -> None:
    assert parse_choices("b, a,b", "--save", ("a", "b")) == ("b", "a")
    with pytest.raises(InputError, match=r"'c'.*a, b"):
        parse_choices("a,c", "--save", ("a", "b"))


@settings(deadline=None)
@given(st.text(max_size=20))
def test_whatever_is_typed_is_parsed_or_refused(text: str) -> None:
    for parse in (parse_bytes, parse_shape, parse_roi):
        with contextlib.suppress(InputError):
            assert parse(text, "--option")
