"""How CPUs are limited: `sweep.cpu_modes`, and `cpu_mode` of a cell and of a run."""

# A share of the time of all CPUs (`--cpus`), or CPUs of a run's own (`--cpuset-cpus`).
QUOTA, CPUSET = CPU_MODES = ("quota", "cpuset")
