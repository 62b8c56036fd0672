"""Texts that go into a workflow's commands by a file, so that a command stays short.

Snakemake prints the command of a job that failed; a configuration or a list of thousands of
directories in it would bury the one sentence that says what is wrong.
"""

import hashlib
import os
from pathlib import Path

# Below the working directory, which all nodes see; named by contents, so that none is ever stale.
FOLDER = Path(".snakemake/agentsweep/files")


class JobFile:
    """A text that becomes a file when a command with its name is made, and not before.

    A dry run (`write` is false) makes no command that is run, and leaves no file.
    """

    def __init__(self, text: str, write: bool = True):
        self._text, self._write = text, write

    def __str__(self) -> str:
        content = self._text.encode()
        path = FOLDER / hashlib.sha256(content).hexdigest()[:24]
        if self._write and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Several jobs may make the same one at once.
            part = path.with_name(f"{path.name}.{os.uname().nodename}.{os.getpid()}.{id(self)}")
            part.write_bytes(content)
            part.replace(path)
        return str(path)

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)
