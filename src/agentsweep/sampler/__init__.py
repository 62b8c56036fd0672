"""One container's counters over time and the memory peak of each call, a process of its own.

`python -m agentsweep.sampler`. May import: host, root modules.
"""
