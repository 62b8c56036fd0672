"""How large a machine is, and how much of it runs may reserve together."""

from dataclasses import dataclass

from agentsweep.host import machine_facts
from agentsweep.units import parse_size

# Share of the machine's memory that runs may reserve; profiles/default has the same.
HOST_SHARE = 0.9


@dataclass(frozen=True)
class MachineSettings:
    """The section `machine` of a configuration.

    memory (as a size: `8GiB`), cpus: what runs may reserve together, None for what there is.
    wait_s: how long one waits in line. ledger: the line's directory, None for the user's own.
    """

    memory: str | None = None
    cpus: int | None = None
    wait_s: float = 0
    ledger: str | None = None


@dataclass(frozen=True)
class Machine:
    """Bytes of memory and CPUs: all that this process may use, or all that runs may reserve."""

    memory_bytes: int
    cpus: int

    @classmethod
    def here(cls) -> "Machine":
        """This one."""
        return cls(machine_facts.memory_bytes(), machine_facts.usable_cpus())

    def offered(self, settings: MachineSettings) -> "Machine":
        """What runs may reserve together under the section `machine` of a configuration."""
        memory, cpus = settings.memory, settings.cpus
        return Machine(
            int(self.memory_bytes * HOST_SHARE) if memory is None else parse_size(memory),
            self.cpus if cpus is None else cpus,
        )

    def misfit(
        self, memory_bytes: int, cores: int, settings: MachineSettings, memory: str = ""
    ) -> str | None:
        """Why what needs so much can never be started here, or None where it can.

        The section `machine` may offer to several together what no single one can have. `memory`
        says what the need is the sum of.
        """
        offered = self.offered(settings)
        most_bytes = min(offered.memory_bytes, self.memory_bytes)
        if memory_bytes > most_bytes:
            if settings.memory is None:
                gives = f"gives {most_bytes // 10**6} MB ({HOST_SHARE:.0%} of it)"
            elif most_bytes < self.memory_bytes:
                gives = f"gives {most_bytes // 10**6} MB (machine.memory)"
            else:
                gives = f"has {most_bytes // 10**6} MB"
            needed = f"{memory}{decimal_mb(memory_bytes)} MB"
            return f"needs {needed} of memory, and this machine {gives}"
        most = min(offered.cpus, self.cpus)
        if cores > most:
            gives = f"gives {most} (machine.cpus)" if most < self.cpus else f"has {most}"
            return f"needs {cores} core{'' if cores == 1 else 's'}, and this machine {gives}"
        return None


def decimal_mb(size_bytes: int) -> int:
    """Decimal megabytes, rounded up, in which Snakemake and Slurm count."""
    return -(-size_bytes // 10**6)
