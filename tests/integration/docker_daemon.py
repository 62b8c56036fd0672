"""A dockerd of the tests' own: below one folder, on a Unix socket, without any network of its own.

All that it starts ends with it: its containers, containerd and their shims, and its mounts go.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_START_S = 60
_END_S = 60


class Daemon:
    """`folder` must have a short path, because those of sockets end at 107 bytes.

    prefix: words before `dockerd`, such as those of `unshare`. AssertionError, with the last lines
    of its log, where it does not answer.
    """

    def __init__(self, folder: Path, *options: str, prefix: tuple[str, ...] = ()):
        self.folder = folder
        self.host = f"unix://{folder}/socket"
        self._log = folder / "log"
        (folder / "config").mkdir(parents=True)
        command = [
            # Even where the tests are killed it ends.
            *("setpriv", "--pdeathsig", "TERM", *prefix),
            *("dockerd", "--host", self.host, "--pidfile", str(folder / "pid")),
            *("--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")),
            *("--iptables=false", "--ip6tables=false", "--bridge=none", *options),
        ]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=folder, start_new_session=True
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to reach it, and no other daemon or registry of this user."""
        return {"DOCKER_HOST": self.host, "DOCKER_CONFIG": str(self.folder / "config")}

    def docker(self, *arguments: str, check: bool = True) -> str:
        return subprocess.run(
            ["docker", *arguments], env=os.environ | self.environment, cwd=self.folder,
            capture_output=True, text=True, check=check, timeout=120, encoding="utf-8",
        ).stdout  # fmt: skip

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_S
        while not self.docker("version", "--format", "{{.Server.Version}}", check=False).strip():
            state = f"ended with {code}" if (code := self._process.poll()) is not None else None
            if time.monotonic() > deadline:
                state = f"gave no answer in {_START_S} s"
            if state:
                last = "\n".join(
                    self._log.read_text(errors="replace", encoding="utf-8").splitlines()[-15:]
                )
                raise AssertionError(f"dockerd {state}:\n{last}")
            time.sleep(0.1)

    def stop(self) -> None:
        if self._process.poll() is None:
            containers = self.docker("ps", "--all", "--quiet", check=False).split()
            if containers:
                self.docker("rm", "--force", "--volumes", *containers, check=False)
        self._end(self._processes("dockerd"), signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        # What a daemon that died, or was hard to end, has left.
        self._end(self._processes("dockerd"), signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        self._end(self._processes("containerd"), signal.SIGKILL)
        for mount in self._mounts():
            subprocess.run(["umount", "--lazy", mount], check=False)
        shutil.rmtree(self.folder)

    def _processes(self, program: str) -> list[int]:
        """Ours of a program (and containerd's shims): our folder is in their command lines."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes().decode(errors="replace").split("\0")
                ours = any(word.startswith(f"{self.folder}/") for word in words)
                if Path(words[0]).name.startswith(program) and ours:
                    found.append(int(path.parent.name))
        return found

    @staticmethod
    def _end(pids: list[int], number: int) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _mounts(self) -> list[str]:
        lines = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
        points = [line.split(" ")[1] for line in lines]
        return [point for point in reversed(points) if point.startswith(f"{self.folder}/")]


@contextlib.contextmanager
def running(*options: str, prefix: tuple[str, ...] = ()) -> Iterator[Daemon]:
    """A daemon in a folder of its own, until the end of the block."""
    daemon = Daemon(Path(tempfile.mkdtemp(prefix="dockerd-")), *options, prefix=prefix)
    try:
        yield daemon
    finally:
        daemon.stop()
