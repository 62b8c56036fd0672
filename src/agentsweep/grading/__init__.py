"""Did a patch resolve its task: the container, what it leaves, the verdict.

May import: config, runs, tasks, containers, and what is below them; not exports.
"""
