"""The model endpoint of one run, a process of its own: scripted, replayed or live.

`python -m agentsweep.gateway`. May import: agents, extraction, host, root modules.
"""
