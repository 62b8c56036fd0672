"""The model endpoint of one run, as a program."""

import sys

from agentsweep.gateway.gateway import main

sys.exit(main())
