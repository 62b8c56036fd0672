"""All that is true of Claude Code alone: command line, environment, session files, tool names.

May import: root modules.
"""
