"""What differs from one coding agent to another: a package an agent, with equal module names.

May import: root modules.
"""
