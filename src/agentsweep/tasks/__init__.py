"""What an agent is asked to do: task files, rows of benchmarks, sets of rows.

May import: containers (names and locks of images), gateway (scenarios), root modules.
"""
