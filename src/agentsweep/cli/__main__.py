"""The `agentsweep` command, as a program."""

import sys

from agentsweep.cli.main import main

sys.exit(main())
