"""The counters of one container, under the names that every table uses for them."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Counters:
    """One reading of a container's kernel counters; None where the kernel does not give one.

    All are raw cumulative integers or momentary levels, never rates.
    """

    memory_current_bytes: int | None = None
    memory_anon_bytes: int | None = None
    memory_file_bytes: int | None = None
    memory_kernel_bytes: int | None = None
    memory_slab_bytes: int | None = None
    memory_shmem_bytes: int | None = None
    memory_inactive_file_bytes: int | None = None
    memory_swap_bytes: int | None = None
    memory_oom_kill: int | None = None
    memory_failcnt: int | None = None
    cpu_usage_usec: int | None = None
    cpu_user_usec: int | None = None
    cpu_system_usec: int | None = None
    cpu_nr_periods: int | None = None
    cpu_nr_throttled: int | None = None
    cpu_throttled_usec: int | None = None
    pids_current: int | None = None
    io_read_bytes: int | None = None
    io_write_bytes: int | None = None
    cpu_pressure_some_usec: int | None = None
    memory_pressure_some_usec: int | None = None
    memory_pressure_full_usec: int | None = None
    io_pressure_some_usec: int | None = None
    io_pressure_full_usec: int | None = None

    def as_dict(self) -> dict[str, int | None]:
        """Column name to value."""
        return {name: getattr(self, name) for name in COLUMNS}


COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(Counters))
