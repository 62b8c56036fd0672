"""Print this machine's topology files, and what lscpu makes of them, as JSON.

`smt` is the emulated machine of tools/test-vm.sh (Linux 6.1) with
VM_SMP=4,sockets=1,cores=2,threads=2 and VM_CPU=max,-cx16,vendor=GenuineIntel, because QEMU 7.2
tells of threads to Intel's processors only. `plain` is a virtual machine with two
CPUs (Linux 6.18).
"""

import json
import subprocess
from pathlib import Path

SYSFS = Path("/sys/devices/system")
files = sorted([*SYSFS.glob("cpu/cpu[0-9]*/topology/*_list"), *SYSFS.glob("node/node*/cpulist")])
said = subprocess.run(
    ["lscpu", "-p=CPU,CORE,NODE"], capture_output=True, text=True, check=True, encoding="utf-8"
)
rows = [line.split(",") for line in said.stdout.splitlines() if not line.startswith("#")]
recording = {
    "files": {str(path.relative_to(SYSFS)): path.read_text(encoding="utf-8") for path in files},
    "lscpu": [{"cpu": int(cpu), "core": int(core), "node": int(node)} for cpu, core, node in rows],
}
print(json.dumps(recording, indent=1))
