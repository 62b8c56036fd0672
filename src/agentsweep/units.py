"""Sizes and CPU counts as people write them, in one canonical spelling."""

import re
from decimal import Context, Decimal, InvalidOperation

_BINARY = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_DECIMAL = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
# `format_size` writes it where no binary unit divides a size, as in 1GB.
_PLAIN = {"B": 1}
# Podman's and Docker's one-letter suffixes are binary.
_ENGINE = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
# Whole numbers of thousands of digits take more than linear time, and no machine has so many bytes.
_DIGITS = 30
# Of so many digits with any of the factors no product is rounded.
_EXACT = Context(prec=60)
_SIZE = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*$")


def parse_size(text: str) -> int:
    """Bytes in a size such as `512MiB`, `2GiB`, `4g` (binary, as Podman reads it) or `4GB`.

    Raises ValueError with one sentence when the unit is missing or unknown.
    """
    match = _SIZE.match(text) if isinstance(text, str) else None
    if not match:
        raise ValueError(f"{text!r} is not a size; write a number and a unit, such as 512MiB")
    number, unit = match.groups()
    factor = (_BINARY | _DECIMAL | _PLAIN).get(unit) or _ENGINE.get(unit.lower())
    if factor is None:
        allowed = ", ".join([*_BINARY, *_DECIMAL, *_PLAIN, *_ENGINE])
        raise ValueError(f"{text!r} has the unknown unit {unit!r}; allowed are {allowed}")
    if len(number) > _DIGITS:
        raise ValueError(f"{text[:_DIGITS]!r} goes on for more digits than a size has")
    size = _EXACT.multiply(Decimal(number), Decimal(factor))
    if size != size.to_integral_value():
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(size)


def format_size(size_bytes: int) -> str:
    """The canonical spelling: the largest binary unit that divides the size, else bytes as `B`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size_bytes and size_bytes % _BINARY[unit] == 0:
            return f"{size_bytes // _BINARY[unit]}{unit}"
    return f"{size_bytes}B"


def parse_cpus(text: str | int | float) -> str:
    """A CPU count in canonical spelling: `0.5`, `1`, `2`; ValueError unless 0.01 or more.

    The engines take two decimals at most, because the CFS quota is a whole number of
    microseconds in a period of 100 ms.
    """
    try:
        number = Decimal(str(text))
    except InvalidOperation:
        raise ValueError(f"{text!r} is not a number of CPUs; write 0.5, 1 or 2") from None
    if not number.is_finite() or number < Decimal("0.01") or number > 4096:
        raise ValueError(f"{text!r} is not a number of CPUs between 0.01 and 4096")
    if number != number.quantize(Decimal("0.01")):
        raise ValueError(f"{text!r} has more than two decimals; write 0.25, not 0.255")
    return format(number.normalize(), "f")
