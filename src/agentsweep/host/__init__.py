"""This machine: size, CPUs, processes, scratch directories, counters of its control groups.

May import: root modules.
"""
