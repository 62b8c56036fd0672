"""The `agentsweep` command: arguments, and calls to the rest, loaded on demand.

May import: all but workflow.
"""
