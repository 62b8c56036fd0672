"""Replays sessions of others in containers with an empty work tree, and looks how they end.

Ten sessions of each of AgentCgroup's two data sets, those with sub-agents first; the real CLI, one
CPU, 1 GiB, no model time. Prints a Markdown table; fails unless each run ends as `completed` or
`diverged`.

    python benchmarks/replay_traces.py --shared DIRECTORY [--number 10]

DIRECTORY holds all_images_haiku and all_images_local (docs/agentcgroup.md says where they are to
be had); without it nothing is replayed. Needs what `make demo` provides.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from agentsweep.containers import engines
from agentsweep.host import scratch

ROOT = Path(__file__).parents[1]
DATA_SETS = ("all_images_haiku", "all_images_local")
ENDS = ("completed", "diverged")


def main() -> int:
    """Run them all in one sweep, two at once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, help="where AgentCgroup's data sets are")
    parser.add_argument("--number", type=int, default=10, help="sessions of each data set")
    arguments = parser.parse_args()
    if arguments.shared is None:
        print("NOT RUN: no sessions were given (--shared)")
        return 0
    sessions = [
        path for name in DATA_SETS for path in chosen(arguments.shared / name, arguments.number)
    ]
    if not sessions:
        print(f"{arguments.shared} holds no sessions: name AgentCgroup's data", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as name:
        return replay(Path(name), sessions)


def chosen(folder: Path, number: int) -> list[Path]:
    """Session files spread over a data set, those with sub-agents first."""
    paths = sorted(folder.glob("*/attempt_*/trace.jsonl"))
    with_agents = [
        path for path in paths if '"isSidechain":true' in path.read_text(encoding="utf-8")
    ]
    others = [path for path in paths if path not in with_agents]
    wanted = with_agents[: number * 3 // 5]
    step = max(1, len(others) // max(1, number - len(wanted)))
    return (wanted + others[::step])[:number]


def replay(folder: Path, sessions: list[Path]) -> int:
    """One cell for each session."""
    archive = empty_image(folder)
    (folder / "images.lock.yaml").write_text("images: {}\n", encoding="utf-8")
    agents = {
        f"session-{number:02d}": {
            "model": {"replay": str(path.resolve())},
            "model_id": "claude-haiku-4-5-20251001",
            "version": "2.1.330",
        }
        for number, path in enumerate(sessions)
    }
    task = {"kind": "code", "image": f"oci-archive:{archive}", "prompt": "Go on."}
    settings = {
        "dataset": "sessions",
        "sweep": {"tasks": ["empty"], "agents": list(agents), "memory": ["1GiB"], "cpus": [1]},
        "tasks": {"empty": task},
        "agents": agents,
        "agent": {"latency_scale": 0, "timeout_s": 600, "bash_timeout_s": 30},
        "images": {"lock": str(folder / "images.lock.yaml")},
        "paths": {"results": str(folder / "results"), "store": str(folder / "store")},
    }
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    for arguments in (["--cores", "1", "--", "lock"], ["--cores", "2", "-k", "--", "dataset"]):
        # The configuration goes before the rest: it would take a target for another file.
        command = ["snakemake", "--quiet", "--configfile", str(config), *arguments]
        subprocess.run(command, cwd=ROOT, check=False)
    return report(folder / "results" / "dataset" / "runs.parquet", sessions)


def empty_image(folder: Path) -> Path:
    """The demo's second image with nothing in its work tree."""
    archive, tag = folder / "empty.tar", "localhost/agentsweep/bench-empty"
    (folder / "Containerfile").write_text(
        f"FROM oci-archive:{ROOT / 'images' / 'logstats.tar'}\n"
        "RUN find /testbed -mindepth 1 -delete\n",
        encoding="utf-8",
    )
    found = engines.find_engine("podman", "auto", scratch.engine_dir())
    for command in (
        ["build", "--quiet", "--tag", tag, "--file", folder / "Containerfile", folder],
        ["save", "--quiet", "--format", "oci-archive", "--output", archive, tag],
        ["rmi", tag],
    ):
        found.call(*map(str, command))
    return archive


def report(table: Path, sessions: list[Path]) -> int:
    """A line for each session; 1 where one ended in another way, or not at all."""
    import pyarrow.parquet as pq

    runs = {run["agent"]: run for run in pq.read_table(table).to_pylist()}
    print("| session | outcome | turns played | calls compared | fidelity | s |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    failed = 0
    for number, path in enumerate(sessions):
        run = runs.get(f"session-{number:02d}")
        name = path.relative_to(path.parents[3]).parent
        if run is None:
            print(f"| {name} | none | | | | |")
            failed += 1
            continue
        failed += run["outcome"] not in ENDS
        fidelity = "" if run["fidelity"] is None else f"{run['fidelity']:.2f}"
        detail = f": {run['outcome_detail']}" if run["outcome"] != "completed" else ""
        print(
            f"| {name} | {run['outcome']}{detail} | {run['replay_turns_played']} of "
            f"{run['replay_turns']} | {run['n_compared_calls']} of {run['n_recorded_calls']} "
            f"| {fidelity} | {run['agent_s']:.1f} |"
        )
    print(json.dumps({"sessions": len(sessions), "ended otherwise": failed}))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
