"""Changed bytes for every reader of foreign bytes: a minute of them, and those of the past that
showed a fault. `make fuzz` takes an hour, and is guided by what the inputs reach."""

import os
import re
from pathlib import Path

import pytest
from fuzz_driver import BUILD, CORPUS, corpus_of, fuzz, run
from fuzz_targets import BY_NAME, TARGETS

ROOT = Path(__file__).resolve().parents[2]
SECONDS = float(os.environ.get("AGENTSWEEP_FUZZ_S", "60"))
# They take the `result.json` and the process id that `sealed` and `test_believed` are about.
UNREAD = {"agent_process", "finished_runs", "rerun", "run_cell"}
SEED = int(os.environ.get("AGENTSWEEP_FUZZ_SEED", "15"))


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    """Where configurations name their files."""
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", BY_NAME)
def test_no_seed_and_no_input_of_the_past_shows_a_fault(name, tmp_path):
    found = fuzz(BY_NAME[name], 0, SEED, tmp_path, corpus=corpus_of(name))
    assert [f"{fault.kind}: {fault.said}" for fault in found.faults.values()] == []
    assert found.inputs == len(BY_NAME[name].seeds()) + len(corpus_of(name))


def test_changed_bytes_end_no_reader_and_take_no_more_than_their_share():
    """What shows a fault is kept there, for a second try."""
    print(f"AGENTSWEEP_FUZZ_SEED={SEED}")
    faults = run(TARGETS, SECONDS, SEED, BUILD / "minute", guided=False)
    assert {path.parent.name: f"{f.kind}: {f.said}" for path, f in faults.items()} == {}


def test_each_target_has_a_name_of_its_own_and_each_old_input_a_target():
    assert len(BY_NAME) == len(TARGETS) > 50
    assert {folder.name for folder in CORPUS.iterdir()} <= BY_NAME.keys()


def test_every_module_that_reads_untrusted_files_is_under_a_target():
    """A module that opens what others wrote, and is not loaded by the table, has no target."""
    table = (ROOT / "tests/fuzz/fuzz_targets.py").read_text(encoding="utf-8")
    readers = {
        path.stem
        for path in (ROOT / "src/agentsweep").rglob("*.py")
        if re.search(r"untrusted\.(loads|read|lines|objects|open)", path.read_text("utf-8"))
    }
    unread = {name for name in readers if not re.search(rf"\b{name}\b", table)}
    assert unread == UNREAD
