"""The configuration: read, checked, and turned into cells, specs and jobs.

Starts nothing and needs no network. May import: runs, tasks, gateway, containers, and what is
below them; not analysis.
"""
