"""A row of a table, as who reads it takes it: values by column; None is what nobody knows."""

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]
# One in the making, as who writes it builds it up.
NewRow = dict[str, Any]
