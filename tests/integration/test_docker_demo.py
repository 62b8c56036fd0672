"""The demo sweep with `container.engine: docker`, through Snakemake, in a clone of the project.

What is expected is what the demo gives with any engine. Of its grid only a part is run, unless
pytest is called with `--whole-demo`.
"""

import json

import pyarrow.parquet as pq
import pytest
import yaml
from clone import ROOT, Clone, planned

from agentsweep.tables import parquet

pytestmark = pytest.mark.docker("the demo with Docker")

MIB = 2**20
WHOLE = {"memory": ["512MiB", "1GiB", "2GiB"], "cpus": [0.5, 1, 2]}
PART = {"memory": ["512MiB", "2GiB"], "cpus": [1]}
FIGURES = {
    "fidelity", "outcome_map", "peak_memory", "resolved_share", "throttling", "time_split",
    "timelines", "tool_calls", "wall_time",
}  # fmt: skip


class Demo:
    """A clone of the project, and its demo sweep, run to its end."""

    def __init__(self, clone: Clone, daemon, grid: dict):
        self.clone, self.daemon, self.grid = clone, daemon, grid
        settings = {"container": {"engine": "docker"}, "sweep": grid}
        clone.file("docker.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        for target in ("lock", "all"):
            self.snakemake("--cores", "all", target)

    def snakemake(self, *arguments: str) -> str:
        # The clone's own code, wherever the environment's points.
        environment = self.daemon.environment | {"PYTHONPATH": str(self.clone.file("src"))}
        command = (*arguments, "--configfile", "config/demo.yaml", "docker.yaml")
        return self.clone.snakemake(*command, env=environment).stdout

    def table(self, name: str) -> list[dict]:
        return pq.read_table(self.clone.file(f"results/dataset/{name}.parquet")).to_pylist()


@pytest.fixture(scope="module")
def demo(request, daemon, tmp_path_factory):
    clone = Clone.make(tmp_path_factory.mktemp("demo") / "clone")
    clone.file("agents").symlink_to(ROOT / "agents")
    clone.file("images").symlink_to(ROOT / "images")
    clone.file("config/images.lock.yaml").unlink()
    return Demo(clone, daemon, WHOLE if request.config.getoption("--whole-demo") else PART)


def test_every_cell_ends_as_the_demo_must(demo):
    found = {}
    for run in demo.table("runs"):
        cell = (run["task"], run["mem_limit_bytes"], run["cpu_limit"])
        found[cell] = (run["outcome"], run["tool_oom_count"], run["resolved"])
    sizes = {"512MiB": 512 * MIB, "1GiB": 1024 * MIB, "2GiB": 2048 * MIB}
    expected = {}
    for memory in demo.grid["memory"]:
        for cpus in demo.grid["cpus"]:
            # With 512 MiB the kernel kills the report that keeps every record.
            kills = int(memory == "512MiB")
            expected["logstats", sizes[memory], cpus] = ("completed", kills, None)
            expected["starlette-1147", sizes[memory], cpus] = ("completed", 0, True)
    assert found == expected


def test_its_numbers_come_from_the_kernel(demo):
    for run in demo.table("runs"):
        assert (run["engine"], run["runtime"], run["rootless"]) == ("docker", "runc", False)
        assert run["mem_effective_bytes"] == run["mem_limit_bytes"]
        assert run["cpu_effective"] == run["cpu_limit"]
        assert 50 * MIB < run["mem_peak_bytes"] <= run["mem_limit_bytes"]
        assert run["mem_peak_source"] != "sampled"
        assert run["oom_kill_count"] == run["tool_oom_count"]
        assert run["cpu_usage_usec"] > 1e6 and run["trace_status"] == "ok"
    assert {host["engine"] for host in demo.table("hosts")} == {"docker"}


def test_its_tables_and_figures_are_those_of_any_engine(demo):
    names = {path.stem for path in demo.clone.path.glob("results/dataset/*.parquet")}
    assert names == {"runs", "tool_calls", "api_calls", "messages", "samples", "tests", "hosts"}
    for name in names:
        path = demo.clone.file(f"results/dataset/{name}.parquet")
        assert pq.read_schema(path).equals(parquet.schema_of(name)), name
        assert demo.table(name), name
    figures = {path.stem: path for path in demo.clone.path.glob("results/figures/*.pdf")}
    assert figures.keys() == FIGURES
    assert all(path.stat().st_size > 5000 for path in figures.values())


def test_the_log_says_which_engine_it_was(demo):
    logs = list(demo.clone.path.glob("logs/agent_run/**/*.log"))
    assert len(logs) == len(demo.table("runs"))
    assert all(path.read_text(encoding="utf-8").count("docker 2") == 1 for path in logs)


def test_nothing_is_left_to_do_and_no_container_is_left(demo):
    assert planned(demo.snakemake("-n")) == {}
    assert demo.daemon.docker("ps", "--all", "--quiet") == ""
    records = [
        json.loads(p.read_text(encoding="utf-8"))
        for p in demo.clone.path.glob("results/images/*/i*.json")
    ]
    assert {record["engine"]["name"] for record in records} == {"docker"}
