"""What runs left behind, ours and others', read as far as it is readable, as rows of the tables.

May import: agents, tables, host, root modules.
"""
