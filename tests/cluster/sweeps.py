"""Sweeps through profiles/slurm: what they need, and Snakemake beside the test that started it."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from clone import BIN, ROOT, Clone
from slurm import Cluster, found, missing_programs

FILES = [ROOT / "agents" / "claude-2.1.330" / "claude"]
FILES += [ROOT / "images" / f"{name}.tar" for name in ("logstats", "starlette-1147")]

SLURM = (
    str(Path(__file__).parent / "impatient_snakemake.py"),
    "--profile=profiles/slurm",
    "--latency-wait=5",
)
LOCAL = (str(BIN / "snakemake"), "--cores=2")


def missing() -> list[str]:
    """What the tests need and this host lacks."""
    lacking = [*missing_programs(), *([] if found("podman") else ["podman"])]
    lacking += [str(path) for path in FILES if not path.is_file()]
    return lacking + ([] if os.getuid() == 0 else ["root, for several nodes on one host"])


def prepared(
    path: Path,
    cluster: Cluster,
    more: str,
    changes: Iterable[tuple[str, str]],
    files: Mapping[str, str] = MappingProxyType({}),
) -> Clone:
    """A clone with changes of the demo's configuration, whose images were made on the login node.

    `more` is what follows that configuration, `files` are further files.
    """
    clone, config = Clone.make(path), "config/config.yaml"
    for name in ("agents", "images"):
        clone.file(name).symlink_to(ROOT / name)
    for name, text in files.items():
        clone.file(name).write_text(text, encoding="utf-8")
    for old, new in changes:
        named = [config, "config/demo.yaml"]
        (holder,) = [n for n in named if old in clone.file(n).read_text(encoding="utf-8")]
        clone.replace(holder, old, new)
    clone.file(config).write_text(
        clone.file(config).read_text(encoding="utf-8") + more, encoding="utf-8"
    )
    clone.file("config/images.lock.yaml").write_text("images: {}\n", encoding="utf-8")
    for command in ((*LOCAL, "lock"), (*SLURM, "images")):
        with started(clone, cluster, *command) as sweep:
            finished(clone, sweep)
    return clone


@contextlib.contextmanager
def started(
    clone: Clone, cluster: Cluster, program: str, *arguments: str
) -> Iterator[subprocess.Popen]:
    """Snakemake in a clone, with the login node's environment; what it says goes to `out`."""
    known = cluster.environment
    with clone.file("out").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, program, *arguments], cwd=clone.path, stdin=subprocess.DEVNULL,
            env=known | {"PATH": f"{BIN}:{known['PATH']}"}, stdout=out, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def finished(clone: Clone, sweep: subprocess.Popen) -> None:
    """Wait for its good end."""
    assert sweep.wait(1200) == 0, clone.file("out").read_text(encoding="utf-8")[-6000:]
