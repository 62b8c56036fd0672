"""What the workflow's rules call: the sweep as Snakemake sees it, command line, last lines.

May import: everything.
"""
