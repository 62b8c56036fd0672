"""Every published number and figure, from the tables alone.

May import: tables, extraction, agents, runs (names of outcomes), host, root modules.
"""
