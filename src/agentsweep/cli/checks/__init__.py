"""What `agentsweep doctor` looks at, a module for each thing that has to be right.

May import: config, runs, containers, agents, host, and the root modules.
"""
