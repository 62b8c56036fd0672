"""Sizes and CPU counts: every spelling, one meaning."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsweep.units import format_size, parse_cpus, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("512MiB", 512 * 2**20),
        ("2GiB", 2**31),
        ("4g", 2**32),
        ("4G", 2**32),
        ("100m", 100 * 2**20),
        ("4GB", 4 * 10**9),
        ("1000000000B", 10**9),
        (" 1.5 GiB ", 3 * 2**29),
        ("64k", 65536),
    ],
)
def test_sizes(text, size_bytes):
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    [
        *("512", "", "MiB", "5 XiB", "-1GiB", "1e3MiB", "0.3KiB", 512, None),
        # Of 28 digits this would be a whole number, and of 100,000 it takes seconds.
        *("1.0000000000000000000000000001GB", f"{'1' * 100_000}B"),
    ],
)
def test_broken_sizes_are_refused(text):
    with pytest.raises(ValueError, match=r"size|unit|whole number"):
        parse_size(text)


@pytest.mark.parametrize("text", ["512MiB", "2GiB", "1536MiB", "1TiB", "3KiB"])
def test_canonical_sizes_come_back(text):
    assert format_size(parse_size(text)) == text


UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "KB": 10**3, "MB": 10**6,
         "GB": 10**9, "TB": 10**12, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}  # fmt: skip


@given(st.integers(0, 10**9), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " ", "  "]))
def test_every_unit_means_the_same_for_every_number(number, unit, space):
    size_bytes = parse_size(f"{number}{space}{unit}")
    assert size_bytes == number * UNITS[unit]
    assert parse_size(format_size(size_bytes)) == size_bytes


@given(st.one_of(st.integers(), st.floats(allow_nan=False), st.integers().map(str)))
def test_a_size_without_a_unit_is_never_taken(number):
    with pytest.raises(ValueError, match=r"is not a size; write a number and a unit, such as"):
        parse_size(number)


def test_the_seed_spelling_is_normalised():
    assert format_size(parse_size("4g")) == "4GiB"
    assert format_size(1000) == "1000B"


@pytest.mark.parametrize(
    ("given", "canonical"), [(0.5, "0.5"), ("1.0", "1"), (2, "2"), ("0.25", "0.25"), (10, "10")]
)
def test_cpus(given, canonical):
    assert parse_cpus(given) == canonical


@pytest.mark.parametrize("given", [0, -1, "x", "0.255", 5000, "nan", "inf", None, ""])
def test_broken_cpus_are_refused(given):
    with pytest.raises(ValueError, match=r"CPUs|decimals"):
        parse_cpus(given)
