"""Prints docs/data_dictionary.md."""

from agentsweep.tables.data_dictionary import data_dictionary

print(data_dictionary(), end="")
