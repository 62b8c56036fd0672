"""The workflow in other locales: text, paths and jobs are the same."""

import json
import os
import shutil
import subprocess

import locales
import pytest
import yaml
from clone import BIN, Clone, planned
from test_dag import LOCK, SMALL

PROMPT = "Größe → 日本 🙂\r\n"


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone in a folder, with results in one, whose names are not ASCII."""
    made = Clone.make(tmp_path_factory.mktemp("locale") / "clone →")
    settings = json.loads(json.dumps(SMALL))
    settings["tasks"]["question"]["prompt"] = PROMPT
    settings["paths"] = {"results": "results ö", "store": "störe"}
    made.file("config/config.yaml").write_text(
        yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8"
    )
    made.file("config/images.lock.yaml").write_text(yaml.safe_dump(LOCK), encoding="utf-8")
    return made


def started(clone, locale, *arguments, **how):
    environment = {"LANG": "", **locales.variables(locale)}
    return clone.snakemake(*arguments, env=environment, **how)


@pytest.mark.parametrize("locale", locales.NAMES)
def test_every_locale_plans_the_same_jobs(clone, locale):
    said = started(clone, locale, "--dry-run").stdout
    assert planned(said)["agent_run"] == 4
    assert "results ö/runs/" in said
    assert "Traceback" not in said and "UnicodeError" not in said


@pytest.mark.parametrize("locale", locales.NAMES)
def test_a_job_gets_the_paths_and_the_text_of_the_configuration(clone, locale):
    """`tasks` needs no container: what it writes is what the job was given."""
    target = "results ö/tasks.json"
    clone.file(target).unlink(missing_ok=True)
    started(clone, locale, "--cores", "1", "--", target)
    assert "question" in clone.file(target).read_text(encoding="utf-8")


def test_where_snakemake_cannot_start_again_it_says_how_to_start_it(clone, tmp_path):
    """With -d relative arguments would mean other files."""
    shutil.copytree(clone.file("config"), tmp_path / "config")
    done = started(
        clone, "ISO-8859-1", "--dry-run", "-d", str(tmp_path), "-s", "Snakefile", check=False
    )
    assert done.returncode == 1
    assert "set PYTHONUTF8=1 in its environment" in done.stdout


@pytest.mark.parametrize("locale", locales.NAMES)
def test_the_plan_is_the_same(clone, locale):
    done = subprocess.run(
        [BIN / "agentsweep", "plan"],
        cwd=clone.path,
        env=locales.environment(locale) | {"PYTHONPATH": os.fspath(clone.file("src"))},
        capture_output=True, check=True, text=True, encoding="utf-8",
    )  # fmt: skip
    assert "4 cells: 0 sealed" in done.stdout
