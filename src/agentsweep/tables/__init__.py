"""The tables: columns, writing, reading, a data set on disk.

May import: root modules.
"""
