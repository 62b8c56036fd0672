"""One run from preflight to sealed attempt, and the store of attempts.

May import: gateway, containers, sampler, extraction, agents, host, root modules.
"""
