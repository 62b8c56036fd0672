"""The model endpoint of one run, as a program."""

import sys

from agentsweep.gateway.process import main

sys.exit(main())
