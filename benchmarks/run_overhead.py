"""What a measured run costs beside a bare `podman run` of the same agent session.

Both do the same: the real CLI, one turn, the same image, limits and mounts, a scripted model over
the Unix socket. The bare one measures nothing. Prints a Markdown table.

    python benchmarks/run_overhead.py [--rounds 7]

Needs what `make demo` provides: the agent binary and images/logstats.tar.
"""

import argparse
import json
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from agentsweep.agents.claude_code import invocation
from agentsweep.config.load import load
from agentsweep.containers import engine, engines, images
from agentsweep.host import scratch
from agentsweep.host.processes import LineService
from agentsweep.typed_json import to_json

ROOT = Path(__file__).parents[1]
ARCHIVE = ROOT / "images" / "logstats.tar"
MEMORY_BYTES, CPUS, PIDS = 2**30, "1", 4096


def main() -> None:
    """Alternate the two, so that both see the same machine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings, record = prepare(folder)
        bare_s, measured_s, parts = [], [], []
        for index in range(rounds + 1):
            bare = run_bare(folder / f"bare{index}", settings, record)
            measured, phases = run_measured(folder, index)
            if index:  # the first of each warms caches
                bare_s.append(bare)
                measured_s.append(measured)
                parts.append(phases)
    difference = statistics.median(measured_s) - statistics.median(bare_s)
    print("| | median s | min s | max s |\n| --- | --- | --- | --- |")
    for label, values in (("bare `podman run`", bare_s), ("`agentsweep run`", measured_s)):
        middle = statistics.median(values)
        print(f"| {label} | {middle:.2f} | {min(values):.2f} | {max(values):.2f} |")
    ratio = statistics.median(measured_s) / statistics.median(bare_s)
    print(f"\nMedian difference {difference:.2f} s (ratio {ratio:.2f}), {rounds} rounds each.\n")
    print("| phase of `agentsweep run` | median s |\n| --- | --- |")
    for phase in parts[0]:
        if phase not in ("pull_s", "fix_s"):
            print(f"| `{phase}` | {statistics.median(p[phase] for p in parts):.3f} |")


def prepare(folder: Path):
    """A configuration of one cell and its fixed image."""
    (folder / "scenario.yaml").write_text(
        yaml.safe_dump({"turns": [{"text": "2 + 2 = 4."}]}), encoding="utf-8"
    )
    reference = f"oci-archive:{ARCHIVE}"
    (folder / "lock.yaml").write_text(
        yaml.safe_dump({"images": {reference: images.resolve(reference)}}), encoding="utf-8"
    )
    task = {"kind": "prompt", "image": reference, "workdir": "/testbed", "prompt": "What is 2+2?",
            "scenario": str(folder / "scenario.yaml")}  # fmt: skip
    content = {
        "sweep": {"memory": ["1GiB"], "cpus": [CPUS], "replicates": 100},
        "tasks": {"task": task},
        "agents": {"claude": {"model_id": "claude-haiku-4-5-20251001", "version": "2.1.330"}},
        "images": {"lock": str(folder / "lock.yaml")},
        "paths": {"store": str(folder / "store"), "results": str(folder / "results")},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    settings = load([folder / "config.yaml"])
    image = settings.image_of("task")
    found = engines.find_engine("auto", "auto", scratch.engine_dir())
    pulled = images.pull(found, image.reference, image.digest, image.config_digest)
    record = images.fix(found, pulled, image.workdir, image.uid, image.gid, image.tag)
    (folder / "image.json").write_text(json.dumps(record), encoding="utf-8")
    return settings, record


def run_measured(folder: Path, replicate: int) -> tuple[float, dict]:
    """Seconds of one `agentsweep run`, process start included, and its phases."""
    cell = f"task~task/agent~claude/mem~1GiB_cpus~{CPUS}_rep~{replicate}"
    out = folder / "out" / str(replicate)
    command = [sys.executable, "-m", "agentsweep.cli", "run", cell]
    command += ["--config", str(folder / "config.yaml"), "--image", str(folder / "image.json")]
    begin = time.monotonic()
    subprocess.run([*command, "--out", str(out)], check=True, cwd=ROOT, capture_output=True)
    seconds = time.monotonic() - begin
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert result["outcome"] == "completed", result["outcome_detail"]
    return seconds, result["phases"]


def run_bare(folder: Path, settings, record: dict) -> float:
    """Seconds of one `podman run` of the same session; the model endpoint is up beforehand."""
    job = settings.job(settings.cells()[0])
    cli = job.agent.settings
    token = secrets.token_urlsafe(24)
    control = folder / "control"
    for name in ("session", "marks", "home"):
        (control / name).mkdir(parents=True)
        (folder / name).mkdir()
        shutil.chown(folder / name, 1000, 1000)
    gateway = LineService("agentsweep.gateway", folder / "log")
    gateway.ask({**to_json(job.model), "listen": f"unix:{control / 'api.sock'}",
                 "log": str(folder / "api.jsonl"), "token": token})  # fmt: skip
    argv = invocation.arguments(cli, invocation.session_id("0" * 64, 1))
    start = invocation.start_script(argv, invocation.environment(cli, "unix:", token, marks=False))
    (control / "start").write_text(start, encoding="utf-8")
    (control / "start").chmod(0o755)
    (control / "task-environment.sh").write_text(
        invocation.task_environment(None), encoding="utf-8"
    )
    (control / "env-file.sh").write_text(invocation.env_file(system_search=True), encoding="utf-8")
    binary = ROOT / job.agent.binary
    mounts = [f"{control}:{invocation.CONTROL}:ro", f"{binary}:{invocation.CONTAINER_BINARY}:ro"]
    mounts += [f"{folder / n}:{invocation.CONTROL}/{n}:rw" for n in ("session", "marks", "home")]
    found = engines.find_engine("auto", "auto", scratch.engine_dir())
    ulimits = [word for limit in engine.ulimits() for word in ("--ulimit", limit)]
    command = found.command(
        "run", "--rm", "--interactive", "--network", "none", "--user", "1000:1000",
        "--memory", str(MEMORY_BYTES), "--memory-swap", str(MEMORY_BYTES), "--cpus", CPUS,
        "--pids-limit", str(PIDS), *ulimits, "--workdir", job.task.workdir,
        *[word for mount in mounts for word in ("--volume", mount)],
        record["tag"], f"{invocation.CONTROL}/start",
    )  # fmt: skip
    begin = time.monotonic()
    done = subprocess.run(
        command,
        input=job.prompt,
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
        encoding="utf-8",
    )
    seconds = time.monotonic() - begin
    gateway.stop()
    assert done.returncode == 0 and "2 + 2 = 4." in done.stdout, done.stderr
    return seconds


if __name__ == "__main__":
    main()
