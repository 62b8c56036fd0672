"""Finished runs in the formats of others: SWE-bench predictions, ATIF trajectories.

May import: config, runs, extraction, agents, and what is below them; not grading.
"""
