"""The count of live attempts: one for each invocation, whoever counts and how many at once."""

import fcntl
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agentsweep.cli import store_view
from agentsweep.errors import AgentsweepError, ConfigError
from agentsweep.runs import live_run_count
from agentsweep.runs.live_run_count import VARIABLE, Ledger, new_invocation
from agentsweep.runs.store import Store

SOURCE = Path(live_run_count.__file__).resolve().parents[2]


def counting(root, name="one") -> Ledger:
    return Ledger(root, {VARIABLE: name})


def test_attempts_are_counted_up_to_the_limit_and_no_further(tmp_path):
    book = counting(tmp_path)
    assert book.started() == 0
    assert not any(tmp_path.iterdir())
    for number in (1, 2):
        book.start(2, {"cell": f"cell-{number}"})
        assert book.started() == number
    with pytest.raises(AgentsweepError) as refused:
        book.start(2, {"cell": "cell-3"})
    assert str(refused.value) == (
        "cell-3: not started, because this invocation has started 2 of 2 live runs "
        "(agent.max_live_runs): raise it, or run again for as many more"
    )
    lines = (tmp_path / "live" / "one").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["cell"] for line in lines] == ["cell-1", "cell-2"]


def test_no_limit_counts_too_and_zero_lets_none_begin(tmp_path):
    counting(tmp_path).start(None, {"cell": "a"})
    assert counting(tmp_path).started() == 1
    with pytest.raises(AgentsweepError, match="started 1 of 0 live runs"):
        counting(tmp_path).start(0, {"cell": "b"})


def test_every_invocation_has_its_own_count(tmp_path):
    counting(tmp_path, "one").start(1, {"cell": "a"})
    counting(tmp_path, "two").start(1, {"cell": "a"})
    assert new_invocation() != new_invocation()
    # A process that nobody gave a name counts for itself.
    own = Ledger(tmp_path, {})
    own.start(1, {"cell": "a"})
    assert Ledger(tmp_path, {VARIABLE: ""}).path == own.path
    assert re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{8}", own.path.name)


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "a b", "x" * 101, "a\n"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"AGENTSWEEP_INVOCATION: .* is no name; write"):
        counting(tmp_path, name)


def test_the_stores_own_listing_takes_the_count_for_no_spec(tmp_path):
    counting(tmp_path).start(None, {"cell": "a"})
    assert Store(tmp_path).keys() == []
    assert list(store_view.rows(Store(tmp_path))) == []
    with pytest.raises(AgentsweepError, match="names no attempt"):
        Store(tmp_path).resolve("live")


def test_who_counts_waits_for_who_is_counting(tmp_path):
    book = counting(tmp_path)
    book.start(2, {"cell": "a"})
    with book.path.open("ab") as held, ThreadPoolExecutor(1) as pool:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = pool.submit(counting(tmp_path).start, 2, {"cell": "b"})
        with pytest.raises(TimeoutError):
            waiting.result(0.2)
        held.write(b'{"cell": "c"}\n')
        held.flush()
        fcntl.flock(held, fcntl.LOCK_UN)
        with pytest.raises(AgentsweepError, match="started 2 of 2 live runs"):
            waiting.result(10)


def test_many_at_once_never_pass_the_limit(tmp_path):
    code = (
        "import sys; from agentsweep.errors import AgentsweepError\n"
        "from agentsweep.runs.live_run_count import Ledger\n"
        "for number in range(20):\n"
        "    try: Ledger(sys.argv[1]).start(30, {'cell': str(number)})\n"
        "    except AgentsweepError: pass\n"
    )
    environment = {VARIABLE: "one", "PYTHONPATH": str(SOURCE)}
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment)
        for _ in range(4)
    ]
    assert [process.wait(60) for process in processes] == [0] * 4
    lines = (tmp_path / "live" / "one").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 30
    assert all(json.loads(line)["cell"] for line in lines)
