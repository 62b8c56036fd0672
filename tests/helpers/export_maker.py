"""Finished runs in the store of a small sweep, for tests of exports."""

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import run_maker
import small_sweep

from agentsweep.config.load import load as load_config
from agentsweep.runs import store

CELL = "task~fix/agent~claude/mem~512MiB_cpus~0.5_rep~0"


def sweep_in(folder: Path, monkeypatch) -> Path:
    """The small sweep in a new directory, which is then the current one."""
    folder.mkdir()
    small_sweep.write(folder)
    monkeypatch.chdir(folder)
    return folder


def result(loaded, cell, patch: bytes = b"", **more) -> dict:
    """A result.json for a cell; `more` replaces entries, `patch_said` what is said of the patch."""
    digest = hashlib.sha256(patch).hexdigest()
    said = {"status": "ok" if patch else "empty", "sha256": digest, "bytes": len(patch)}
    said = more.pop("patch_said", said)
    spec = json.loads(loaded.spec(cell))
    made = run_maker.result() | {"spec": spec, "spec_sha256": loaded.spec_sha256(cell)}
    return made | {"patch": said} | more


def seal(loaded, cell_id: str = CELL, patch: bytes = b"", session: Path | None = None, **more):
    """Seal a run of a cell: with the session of an example, else a made one; returns its files."""
    cell = loaded.cell(cell_id)
    spec, key = loaded.spec(cell), loaded.spec_sha256(cell)
    where = store.Store(loaded.store().root)
    with where.locked(key, spec):
        attempt = where.begin(key)
        attempt.path.rmdir()
        run_maker.make_run(attempt.path)
        if session is not None:
            more = {"agent": {"version": None, "session_id": session.stem}} | more
            put_session(attempt.path, session)
        content = result(loaded, cell, patch, **more)
        (attempt.path / "result.json").write_text(json.dumps(content), encoding="utf-8")
        (attempt.path / "patch.diff").write_bytes(patch)
        return where.finish(attempt, "sealed").path


def put_session(folder: Path, main: Path) -> None:
    """Make an example's session the session of a run, as the runner archives one; no marks."""
    shutil.copy(main, folder / "trace.jsonl")
    for name in ("marks.jsonl", "api.jsonl"):
        (folder / name).write_bytes(b"")
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for path in sorted(main.parent.rglob("*")):
            session = path.suffix == ".jsonl" and not path.name.startswith("mock_requests")
            if session or path.name.endswith(".meta.json"):
                archive.add(path, f"projects/-work/{path.relative_to(main.parent)}")
    (folder / "session.tar").write_bytes(data.getvalue())


def load(folder: Path, overrides: dict | None = None):
    """The small sweep of a directory, with overrides."""
    return load_config([folder / "config.yaml"], overrides)
