"""The sampler of one container, as a program."""

import sys

from agentsweep.sampler.sampler import main

sys.exit(main())
