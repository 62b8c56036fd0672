"""The engine's own seccomp profile without user namespaces.

In a namespace of its own an agent has every capability, and with them more of the kernel to attack.
Docker's profile refuses that to whoever has no CAP_SYS_ADMIN, Podman's does not.
"""

import copy
import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any

from agentsweep.errors import LastingError

_CLONE_NEWUSER = 0x10000000
_EPERM, _ENOSYS = 1, 38
# Its flags lie in memory, which a filter cannot read. C libraries then call clone.
_FLAGS_IN_MEMORY = "clone3"


def without_user_namespaces(profile: dict[str, Any]) -> dict[str, Any]:
    """A profile in the engines' form that refuses to make a user namespace (EPERM).

    KeyError, TypeError or AttributeError for what has another form.
    """
    made = copy.deepcopy(profile)
    flags = {"clone": 1 if platform.machine().startswith("s390") else 0, "unshare": 0}
    for rule in made["syscalls"]:
        rule["names"] = [name for name in rule["names"] if name not in (*flags, _FLAGS_IN_MEMORY)]
    made["syscalls"] = [rule for rule in made["syscalls"] if rule["names"]]
    for name, index in flags.items():
        made["syscalls"] += [
            _rule(name, "SCMP_ACT_ALLOW", args=[_masked(index, 0)]),
            _rule(name, "SCMP_ACT_ERRNO", args=[_masked(index, _CLONE_NEWUSER)], errnoRet=_EPERM),
        ]
    made["syscalls"].append(_rule(_FLAGS_IN_MEMORY, "SCMP_ACT_ERRNO", args=[], errnoRet=_ENOSYS))
    return made


def derived(profile: Path, folder: Path) -> Path:
    """The file in `folder` with the profile that is made of another one.

    LastingError where that one cannot be read: it would be no use to start without it.
    """
    try:
        made = without_user_namespaces(json.loads(profile.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LastingError(
            f"the engine's seccomp profile {profile} cannot be read "
            f"({type(error).__name__}: {error}): install the engine's package again"
        ) from error
    content = json.dumps(made).encode()
    path = folder / f"seccomp-{hashlib.sha256(content).hexdigest()[:16]}.json"
    if not path.exists():
        part = path.with_name(f"{path.name}.{os.getpid()}")
        part.write_bytes(content)
        part.rename(path)
    return path


def _rule(name: str, action: str, **more: Any) -> dict[str, Any]:
    return {"names": [name], "action": action, "includes": {}, "excludes": {}, **more}


def _masked(index: int, value: int) -> dict[str, Any]:
    mask = {"index": index, "value": _CLONE_NEWUSER, "valueTwo": value}
    return mask | {"op": "SCMP_CMP_MASKED_EQ"}
