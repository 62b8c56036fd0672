"""How large a machine is, and how much of it runs may reserve together."""

from collections.abc import Mapping
from dataclasses import dataclass

from agentsweep import host
from agentsweep.units import parse_size

# Share of the machine's memory that runs may reserve; profiles/default has the same.
HOST_SHARE = 0.9


@dataclass(frozen=True)
class Machine:
    """Bytes of memory and CPUs: all that this process may use, or all that runs may reserve."""

    memory_bytes: int
    cpus: int

    @classmethod
    def here(cls) -> "Machine":
        """This one."""
        return cls(host.memory_bytes(), host.usable_cpus())

    def offered(self, settings: Mapping) -> "Machine":
        """What runs may reserve together under the section `machine` of a configuration."""
        memory, cpus = settings["memory"], settings["cpus"]
        return Machine(
            int(self.memory_bytes * HOST_SHARE) if memory is None else parse_size(memory),
            self.cpus if cpus is None else cpus,
        )
