"""Container engines, and the images they run: lock, pull, fix, distribute, clean up.

May import: agents, host, root modules.
"""
