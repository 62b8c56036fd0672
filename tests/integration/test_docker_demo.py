"""The demo sweep with `container.engine: docker`, through Snakemake, in a clone of the project."""

import pyarrow.parquet as pq
import pytest
import yaml
from clone import ROOT, Clone

pytestmark = pytest.mark.docker("the same sweep runs under Podman in tests/workflow")

NAMES = ("runs", "tool_calls", "api_calls", "messages", "samples", "hosts")


@pytest.fixture(scope="module")
def demo(daemon, tmp_path_factory):
    clone = Clone.make(tmp_path_factory.mktemp("demo") / "clone")
    clone.file("agents").symlink_to(ROOT / "agents")
    clone.file("images").symlink_to(ROOT / "images")
    clone.file("config/images.lock.yaml").unlink()
    clone.file("docker.yaml").write_text(yaml.safe_dump({"container": {"engine": "docker"}}))
    # The clone's own code, wherever the environment's points.
    environment = daemon.environment | {"PYTHONPATH": str(clone.file("src"))}
    for target in ("lock", "all"):
        done = clone.snakemake(
            "--cores", "all", target, "--configfile", "docker.yaml", env=environment
        )
    clone.said = done.stdout
    return clone


def table(demo, name: str) -> list[dict]:
    return pq.read_table(demo.file(f"results/dataset/{name}.parquet")).to_pylist()


def test_every_cell_of_the_demo_ran_under_docker(demo):
    runs = table(demo, "runs")
    for run in runs:
        print(run["run_id"], run["outcome"], run["tool_oom_count"], run["resolved"], run["wall_s"])
    print(demo.said[-3000:])
    raise AssertionError
