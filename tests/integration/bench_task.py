"""The demo's benchmark task, whose patches are graded with a store of their own."""

from pathlib import Path

import engine_in_use
import yaml

from agentsweep.config import layers
from agentsweep.containers import images
from conftest import ROOT

TASK = "starlette-1147"


def settings(folder: Path, timeout_s: int = 300) -> dict:
    """A whole configuration; its lock file is written into `folder`."""
    reference = f"oci-archive:{ROOT / 'images' / TASK}.tar"
    lock = {reference: images.resolve(reference)}
    (folder / "lock.yaml").write_text(yaml.safe_dump({"images": lock}), encoding="utf-8")
    given = {
        "paths": {"store": str(folder / "store"), "results": str(folder / "results")},
        "images": {"lock": str(folder / "lock.yaml")},
        "tasks": {
            TASK: {
                "kind": "swe",
                "row": {"file": "config/rows/bench.jsonl", "id": "encode__starlette-1147"},
                "image": reference,
                "scenario": f"config/scenarios/{TASK}.yaml",
            }
        },
        "sweep": {"tasks": [TASK], "memory": ["512MiB"], "cpus": [1]},
        "container": {"engine": engine_in_use.NAME},
        # Not behind the runs of others on this machine.
        "machine": {"ledger": str(folder / "ledger")},
        "grading": {"memory": "512MiB", "timeout_s": timeout_s},
    }
    base = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    return layers.merge(base, given)
