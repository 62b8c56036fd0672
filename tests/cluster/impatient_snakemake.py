"""`snakemake` that looks at its Slurm jobs each second.

The executor's own waits grow by ten seconds with each look, and no setting changes that.
"""

import sys

from snakemake.cli import main
from snakemake_executor_plugin_slurm import Executor

Executor.next_seconds_between_status_checks = property(lambda _: 1, lambda _, seconds: None)

sys.exit(main())
