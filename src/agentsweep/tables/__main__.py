"""Prints docs/data_dictionary.md."""

from agentsweep.tables.parquet import data_dictionary

print(data_dictionary(), end="")
