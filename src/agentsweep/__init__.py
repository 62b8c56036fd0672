"""agentsweep: what memory and CPU limits do to coding agents, measured."""

__version__ = "0.1.0"
