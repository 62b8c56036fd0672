"""Many runs leave nothing behind: no socket, process, file descriptor, container or directory.

Runs one cell after another in one process (the runner's own descriptors would add up there), then
some at once, each in a process of its own. A live model against an endpoint on loopback, so that
the whole gateway is in it. Prints what was there before and after; fails where something is left.

    python benchmarks/many_runs.py [--number 200] [--at-once 20]

Needs what `make demo` provides: the agent binary and images/logstats.tar.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from agentsweep.config.cells import Cell
from agentsweep.config.config import Config
from agentsweep.config.load import load
from agentsweep.containers import engines
from agentsweep.host import scratch
from agentsweep.host.processes import LineService
from agentsweep.runs import run_cell

ROOT = Path(__file__).parents[1]
ARCHIVE = ROOT / "images" / "logstats.tar"
KEY = "sk-benchmark-key-of-no-use"


def main() -> int:
    """Both parts, with a count before, between and after."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="agentsweep-many-") as name:
        folder = Path(name)
        upstream, address = endpoint(folder)
        try:
            path = settings(folder, address, arguments.number + arguments.at_once)
            loaded = load([path])
            image = make_image(folder, loaded)
            cells = loaded.cells()
            counts = {"before": left()}
            begin = time.monotonic()
            for cell in cells[: arguments.number]:
                run(loaded, cell, image, folder)
            counts[f"after {arguments.number} runs, {time.monotonic() - begin:.0f} s"] = left()
            begin = time.monotonic()
            together(cells[arguments.number :], path, folder)
            counts[f"after {arguments.at_once} at once, {time.monotonic() - begin:.0f} s"] = left()
        finally:
            upstream.stop()
            engines.find_engine("podman", "auto", scratch.engine_dir()).call(
                "rmi", "--force", image["tag"], check=False
            )
    return report(counts)


def endpoint(folder: Path) -> tuple[LineService, str]:
    """A gateway that plays a scenario of one tool call, and stands for the real endpoint."""
    (folder / "scenario.yaml").write_text(
        "turns: [{tools: [{Bash: {command: ls}}]}, {text: Done.}]", encoding="utf-8"
    )
    service = LineService("agentsweep.gateway", folder / "errors")
    ready = service.ask(
        {
            "mode": "scripted",
            "scenario": str(folder / "scenario.yaml"),
            "listen": "tcp:127.0.0.1:0",
            "log": str(folder / "api.jsonl"),
            "token": KEY,
        }
    )
    return service, ready["address"]


def settings(folder: Path, address: str, replicates: int) -> Path:
    """A sweep of so many replicates of one cell."""
    key = folder / "key"
    key.touch(mode=0o600)
    key.write_text(KEY, encoding="utf-8")
    (folder / "images.lock.yaml").write_text("images: {}\n", encoding="utf-8")
    task = {"kind": "prompt", "image": f"oci-archive:{ARCHIVE}", "prompt": "Look."}
    agent = {"model_id": "claude-haiku-4-5-20251001", "version": "2.1.330", "model": "live"}
    path = folder / "config.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "dataset": "many",
                "sweep": {"memory": ["512MiB"], "cpus": [1], "replicates": replicates},
                "tasks": {"look": task},
                "agents": {"a": agent | {"base_url": address, "credential": f"file:{key}"}},
                "images": {"lock": str(folder / "images.lock.yaml")},
                "paths": {"results": str(folder / "results"), "store": str(folder / "store")},
            }
        ),
        encoding="utf-8",
    )
    agentsweep("lock", "--config", path)
    return path


def make_image(folder: Path, loaded: Config) -> dict:
    """The record of the fixed image."""
    image = loaded.image_of("look")
    agentsweep(
        *("image-pull", "--reference", image.reference, "--digest", image.digest),
        *("--config-digest", image.config_digest, "--out", folder / "pulled.json"),
    )
    agentsweep(
        *("image-fix", "--pulled", folder / "pulled.json", "--workdir", image.workdir),
        *("--uid", image.uid, "--gid", image.gid, "--tag", "localhost/agentsweep/many:bench"),
        *("--out", folder / "image.json"),
    )
    return json.loads((folder / "image.json").read_text(encoding="utf-8"))


def run(loaded: Config, cell: Cell, image: dict, folder: Path) -> None:
    """One cell in this process."""
    result = run_cell.run_cell(
        loaded.job(cell), loaded.spec(cell), image, folder / "out" / cell.id, say=lambda _: None
    )
    assert result["outcome"] == "completed", result["outcome_detail"]


def together(cells: list, path: Path, folder: Path) -> None:
    """Some cells at once, each in its own process."""
    started = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "agentsweep.cli", "run", cell.id, "--config", str(path)),
                *("--image", str(folder / "image.json"), "--out", str(folder / "out" / cell.id)),
            ],
            stdout=subprocess.DEVNULL,
        )
        for cell in cells
    ]
    assert [process.wait() for process in started] == [0] * len(started)


def left() -> dict[str, int]:
    """What is there now of ours."""
    words = [
        path.read_bytes().decode(errors="replace")
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if path.exists()
    ]
    found = engines.find_engine("podman", "auto", scratch.engine_dir())
    names = found.call("ps", "--all", "--format", "{{.Names}}").stdout.split()
    unix = Path("/proc/net/unix").read_text(encoding="utf-8")
    return {
        "descriptors of the runner": len(list(Path("/proc/self/fd").iterdir())),
        "services": sum("agentsweep.gateway" in w or "agentsweep.sampler" in w for w in words),
        "containers": sum(name.startswith("agentsweep-") for name in names),
        "container monitors": sum("conmon" in word.split("\0")[0] for word in words),
        "sockets": unix.count("/control/api.sock"),
        "scratch directories": len(list((scratch.engine_dir().parent / "runs").glob("*"))),
    }


def agentsweep(*arguments: object) -> None:
    subprocess.run(
        [sys.executable, "-m", "agentsweep.cli", *map(str, arguments)],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
    )


def report(counts: dict[str, dict[str, int]]) -> int:
    """A Markdown table; 1 where a later count is not the first one."""
    first = counts["before"]
    print("| | " + " | ".join(counts) + " |")
    print("| --- |" + " ---: |" * len(counts))
    for name in first:
        print(f"| {name} | " + " | ".join(str(count[name]) for count in counts.values()) + " |")
    return int(any(count != first for count in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
