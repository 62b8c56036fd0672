"""Nothing is sealed that is not whole, and no change after the seal goes unseen."""

import json
import os
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentsweep import seal
from agentsweep.cli.main import main
from agentsweep.errors import InfraError, LastingError
from agentsweep.exports import finished_runs
from agentsweep.extraction import extract
from agentsweep.grading import evidence
from agentsweep.runs import recall, store
from agentsweep.runs.store import Store
from agentsweep.sampler.series import SampleWriter, schema
from agentsweep.tally import Tally

SPEC = '{"protocol":1}'
KEY = store.spec_sha256(SPEC)
OLD = Path(__file__).resolve().parents[1] / "old_store"


def told(data: bytes, records: int = 1) -> dict:
    tally = Tally()
    tally.add(data, records)
    return tally.facts()


def attempt(root: Path, **files: bytes) -> store.Attempt:
    """A partial attempt with these files, `api` for `api.jsonl`."""
    where = Store(root)
    with where.locked(KEY, SPEC):
        begun = where.begin(KEY)
    for name in store.PUBLISHED:
        (begun.path / name).write_bytes(files.get(name.split(".")[0], name.encode()))
    (begun.path / "result.json").write_text(
        json.dumps({"outcome": "completed", seal.MARK: {}}), encoding="utf-8"
    )
    return begun


def sealed(root: Path, **files: bytes) -> store.Attempt:
    return Store(root).finish(attempt(root, **files), "sealed", store.PUBLISHED)


# Before the seal


@pytest.mark.parametrize("name", store.PUBLISHED)
def test_an_attempt_without_one_of_its_files_is_not_sealed(tmp_path, name):
    begun = attempt(tmp_path)
    (begun.path / name).unlink()
    with pytest.raises(InfraError, match=f"{name} is missing"):
        Store(tmp_path).finish(begun, "sealed", store.PUBLISHED)
    assert [a.state for a in Store(tmp_path).attempts(KEY)] == ["partial"]
    assert not (begun.path / seal.SEAL).exists()


@pytest.mark.parametrize("now", [b"", b"three\nlin", b"three\nlines\nmor3\n", b"three\n" * 9])
def test_a_file_that_is_not_what_its_writer_says_is_not_sealed(tmp_path, now):
    said = {"api.jsonl": told(b"three\nlines\nmore\n", 3)}
    begun = attempt(tmp_path, api=now)
    with pytest.raises(InfraError, match=r"api\.jsonl has .*something outside changed it"):
        Store(tmp_path).finish(begun, "sealed", store.PUBLISHED, said)
    with pytest.raises(InfraError, match=r"api\.jsonl has"):
        seal.compare(begun.path, said)
    (begun.path / "api.jsonl").write_bytes(b"three\nlines\nmore\n")
    seal.compare(begun.path, said)
    done = Store(tmp_path).finish(begun, "sealed", store.PUBLISHED, said)
    kept = json.loads((done.path / seal.SEAL).read_text(encoding="utf-8"))["files"]
    assert kept["api.jsonl"] == said["api.jsonl"]
    assert kept.keys() == set(store.PUBLISHED)


def test_who_knows_the_size_alone_says_no_more(tmp_path):
    begun = attempt(tmp_path, patch=b"1234")
    seal.compare(begun.path, {"patch.diff": {"bytes": 4}})
    seal.compare(begun.path, {"patch.diff": {"bytes": 4, "sha256": None}})
    with pytest.raises(InfraError, match="has 4 bytes and not 5"):
        seal.compare(begun.path, {"patch.diff": {"bytes": 5}})


@pytest.mark.parametrize("state", ["failed", "interrupted"])
def test_what_is_no_data_has_no_seal(tmp_path, state):
    done = Store(tmp_path).finish(attempt(tmp_path), state)
    assert not (done.path / seal.SEAL).exists()


def test_the_sampler_counts_what_is_in_its_file(tmp_path):
    writer = SampleWriter(tmp_path / "samples.arrow", schema(1, 50))
    for rows in (3, 1, 20):
        writer.write([(n, n, *([n] * (len(schema(1, 50)) - 2))) for n in range(rows)])
    writer.close()
    facts = writer.tally.facts()
    assert facts.pop("records") == 24
    assert facts == seal.facts(tmp_path / "samples.arrow")


# After it


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def damage_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES = [damage_cut, damage_bit, damage_empty, damage_link, damage_fifo, Path.unlink]


@pytest.mark.parametrize("name", [*store.PUBLISHED, seal.SEAL])
@pytest.mark.parametrize("damage", DAMAGES)
def test_no_damage_is_recalled_or_touched(tmp_path, name, damage):
    done = sealed(tmp_path)
    assert recall.verify(done, "a-cell") == seal.WHOLE
    damage(done.path / name)
    if name == seal.SEAL and damage is damage_bit:
        # Whatever it says now, it is not this.
        assert seal.check(done.path) != seal.Found(seal.NO_HASHES, {})
        return
    before = sorted(path.name for path in done.path.iterdir())
    with pytest.raises(LastingError) as caught:
        recall.verify(done, "a-cell")
    said = str(caught.value)
    assert "\n" not in said
    assert f"a-cell: sealed run {done.id} is damaged: {done.path}/{name} " in said
    assert "`agentsweep rerun a-cell`" in said
    assert sorted(path.name for path in done.path.iterdir()) == before
    assert Store(tmp_path).sealed(KEY) == done


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.dictionaries(
        st.text(
            st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20
        ).filter(lambda name: name not in (".", "..", seal.SEAL)),
        st.binary(max_size=50),
        min_size=1,
        max_size=5,
    ),
    data=st.data(),
)
def test_any_change_of_any_file_is_seen(tmp_path, files, data):
    folder = tmp_path / "any"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / seal.SEAL).write_bytes(seal.make(folder))
    assert seal.check(folder) == seal.Found(seal.WHOLE, {})
    name = data.draw(st.sampled_from(sorted(files)))
    other = data.draw(st.binary(max_size=50).filter(lambda content: content != files[name]))
    (folder / name).write_bytes(other)
    found = seal.check(folder)
    assert (found.state, list(found.wrong)) == (seal.DAMAGED, [name])


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=60)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["files", "a", "bytes", "sha256"]), inner, max_size=3)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_whatever_a_seal_says_it_is_read_without_a_crash(tmp_path, content):
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / seal.SEAL).write_bytes(content)
    assert seal.check(tmp_path, ("a",)).state == seal.DAMAGED


def test_a_seal_names_no_file_outside_of_its_folder(tmp_path):
    (tmp_path / "outside").write_bytes(b"a")
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("../outside", str(tmp_path / "outside")):
        files = {name: seal.facts(tmp_path / "outside")}
        (folder / seal.SEAL).write_text(json.dumps({"schema": 1, "files": files}), "utf-8")
        assert seal.check(folder).sentence == f"{seal.SEAL} cannot be read"


def test_a_published_run_has_its_seal_and_no_old_one(tmp_path):
    done = sealed(tmp_path / "store")
    store.publish(done, tmp_path / "out", store.PUBLISHED)
    assert seal.check(tmp_path / "out", store.PUBLISHED).state == seal.WHOLE
    (done.path / seal.SEAL).unlink()
    store.publish(done, tmp_path / "out", store.PUBLISHED)
    assert not (tmp_path / "out" / seal.SEAL).exists()


# Of earlier versions


@pytest.fixture
def old(tmp_path):
    with tarfile.open(OLD / "store.tar.xz") as archive:
        archive.extractall(tmp_path / "store", filter="data")
    return Store(tmp_path / "store")


def test_old_seals_say_that_they_have_no_hashes(old, capsys):
    assert main(["store", "--store", str(old.root), "verify"]) == 0
    assert "4 sealed: 0 as they were sealed, 0 damaged, 4 without hashes" in capsys.readouterr().out
    assert main(["store", "--store", str(old.root), "list"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[-1] for line in lines] == ["seal", "none", "none", "none"]
    assert main(["store", "--store", str(old.root), "show", "28f13615d9ba-1"]) == 0
    assert "without hashes of its files" in capsys.readouterr().out


@pytest.mark.parametrize("damage", [damage_cut, Path.unlink])
def test_what_an_old_run_says_of_its_patch_is_compared(old, damage):
    (run,) = old.resolve("28f13615d9ba-1")
    assert recall.verify(run, "a-cell") == seal.NO_HASHES
    damage(run.path / "patch.diff")
    with pytest.raises(LastingError, match=r"patch\.diff (has|is missing)"):
        recall.verify(run, "a-cell")


def test_an_old_run_without_one_of_its_files_is_one_sentence(old):
    (run,) = old.resolve("28f13615d9ba-1")
    (run.path / "samples.arrow").unlink()
    with pytest.raises(LastingError, match=r"samples\.arrow is missing"):
        recall.verify(run, "a-cell")


# Who reads them


def test_verify_names_every_damaged_file_of_runs_and_gradings(tmp_path, capsys):
    done = sealed(tmp_path)
    gradings = Store(tmp_path / "gradings")
    with gradings.locked(KEY, SPEC):
        graded = gradings.begin(KEY)
        (graded.path / evidence.RECORD).write_text(json.dumps({seal.MARK: {}}), "utf-8")
        (graded.path / evidence.ARCHIVE).write_bytes(b"evidence")
        graded = gradings.finish(graded, "sealed")
    Store(tmp_path).supersede(sealed(tmp_path))
    verify = ["store", "--store", str(tmp_path), "verify"]
    assert main(verify) == 0
    assert "3 sealed: 3 as they were sealed, 0 damaged" in capsys.readouterr().out
    damage_bit(graded.path / evidence.ARCHIVE)
    damage_cut(done.path / "patch.diff")
    (done.path / "marks.jsonl").unlink()
    assert main(verify) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and "1 as they were sealed, 2 damaged" in last
    assert any(f"{graded.path}/{evidence.ARCHIVE} has another content" in line for line in lines)
    assert main([*verify, f"{KEY[:12]}-2"]) == 0
    assert main([*verify, done.id]) == 1


def test_a_damaged_grading_is_kept_and_made_again(tmp_path):
    folder = tmp_path / "grading"
    evidence.ungraded(folder, b"patch", _Grader(), "no engine")
    assert evidence.read(folder)[0]["ungraded"] == "no engine"
    (folder / seal.SEAL).write_bytes(seal.make(folder))
    evidence.read(folder)
    record = folder / evidence.RECORD
    record.write_text(record.read_text("utf-8").replace("no engine", "no luck"), "utf-8")
    with pytest.raises(Exception, match=r"damaged or not whole \(grade\.json has"):
        evidence.read(folder)
    # Another record is no damage.
    evidence.ungraded(folder, b"patch", _Grader(), "no luck")
    evidence.read(folder)


def test_the_column_says_what_is_known_of_a_run(tmp_path):
    import pyarrow.parquet as pq
    from run_maker import make_run

    def row(folder: Path) -> dict:
        extract.extract(folder, "run", tmp_path / "tables")
        return pq.read_table(tmp_path / "tables" / "runs.parquet").to_pylist()[0]

    run = tmp_path / "run"
    make_run(run)
    assert row(run)["seal"] == seal.NO_HASHES
    (run / seal.SEAL).write_bytes(seal.make(run))
    assert row(run)["seal"] == seal.WHOLE
    damage_cut(run / "api.jsonl")
    found = row(run)
    assert found["seal"] == seal.DAMAGED
    assert "api.jsonl: has" in found["damage"] and "not what was sealed" in found["damage"]


def test_exports_refuse_a_damaged_run(tmp_path):
    done = sealed(tmp_path)
    damage_cut(done.path / "patch.diff")

    class Config(dict):
        def choice(self, _):
            return recall.Choice(done, 0)

    class Cell:
        id = "a-cell"

    with pytest.raises(LastingError, match="a-cell: sealed run"):
        finished_runs._of_cell(Config(), Cell())


@dataclass(frozen=True)
class _Grader:
    timeout_s: float = 1.0
