"""An image that knows the solution, made ready for an agent with real containers."""

import json

import engine_in_use

from agentsweep.containers.engine import ulimits
from agentsweep.host.processes import owner_is_dead
from conftest import agentsweep

# As images are made: cloned at today's state, checked out at the base, set up in one commit.
_PLANT = """
set -e
cd /testbed
git config user.name a; git config user.email a@b
git rev-parse HEAD; git checkout -q -b upstream
echo solution > solution.py; git add solution.py; git commit -q -m solution
git rev-parse HEAD; git tag v2; git remote add origin https://example.org/x.git
git update-ref refs/remotes/origin/main HEAD
git checkout -q -; git branch -q -D upstream
git commit -q --allow-empty -m SWE-bench
"""
_LOOK = """
cd /testbed
git cat-file -e "$0" || echo absent
git fsck --unreachable --no-reflogs; git remote; git log --format=%s -1
git rev-list --all | wc -l; find .git ! -user 1000
"""


def test_the_fix_takes_the_future_out_of_the_image(images, tmp_path):
    pulled = json.loads(images.record.with_name("pulled.json").read_text(encoding="utf-8"))
    name, tag = f"agentsweep-test-{tmp_path.name}", f"{images.tag}-planted"
    record = tmp_path / "image.json"
    engine = engine_in_use.find()
    start = ("run", "--network=none", *(f"--ulimit={limit}" for limit in ulimits()))

    def fix(commit, check=True):
        return agentsweep(
            "image-fix", "--pulled", tmp_path / "pulled.json", "--workdir", "/testbed",
            "--uid", "1000", "--gid", "1000", "--tag", f"{tag}-fixed", "--base-commit", commit,
            "--out", record, check=check,
        )  # fmt: skip

    try:
        said = engine.call(*start, "--name", name, pulled["id"], "sh", "-c", _PLANT).stdout
        base, solution = said.split()
        engine.call("commit", name, tag)
        planted = engine.image_id(tag)
        (tmp_path / "pulled.json").write_text(
            json.dumps(pulled | {"id": planted}), encoding="utf-8"
        )
        refused = fix(solution, check=False)
        assert refused.returncode != 0
        assert f"does not come after the base commit {solution}" in refused.stderr
        fix(base)
        look = (*start, "--rm", "--user=1000", f"{tag}-fixed")
        said = engine.call(*look, "sh", "-c", _LOOK, solution).stdout
        assert said.split() == ["absent", "SWE-bench", "2"]
    finally:
        engine.remove(name)
        engine.call("rmi", f"{tag}-fixed", tag, check=False)
    history = json.loads(record.read_text(encoding="utf-8"))["history"]
    assert (history["base_commit"], history["base_commit_found"]) == (base, True)
    assert (history["commits"], history["nested"]) == (2, 0)
    removed = history["removed"]
    assert (removed["refs"], removed["remotes"], removed["unreachable_objects"]) == (2, 1, 3)


def test_a_fixed_image_starts_as_its_base_does_and_is_nobodys(images, tmp_path):
    """A container that somebody makes of it is none of ours, and so is not cleaned up."""
    engine = engine_in_use.find()
    pulled = json.loads(images.record.with_name("pulled.json").read_text(encoding="utf-8"))
    tag, name, record = f"{images.tag}-start", f"agentsweep-{tmp_path.name}", tmp_path / "i.json"
    changes = ('ENTRYPOINT ["/bin/sh", "-c"]', 'CMD ["echo started"]', "USER 1000")
    options = [word for change in changes for word in ("--change", change)]
    try:
        engine.call("create", "--name", name, "--network=none", pulled["id"], "true")
        engine.call("commit", *options, name, tag)
        engine.remove(name)
        base = pulled | {"id": engine.image_id(tag)}
        (tmp_path / "pulled.json").write_text(json.dumps(base), encoding="utf-8")
        agentsweep(
            "image-fix", "--pulled", tmp_path / "pulled.json", "--workdir", "/testbed",
            "--uid", "1000", "--gid", "1000", "--tag", f"{tag}-fixed", "--out", record,
        )  # fmt: skip
        said = engine.call("image", "inspect", "--format", "{{json .Config}}", tag, f"{tag}-fixed")
        before, after = map(json.loads, said.stdout.splitlines())
        for key in ("Entrypoint", "Cmd", "User", "WorkingDir"):
            assert after.get(key) == before.get(key), key
        engine.call("create", "--name", name, "--network=none", f"{tag}-fixed")
        (ours,) = [one for one in engine.owned() if one["id"] in engine.inspect(name)["Id"]]
        assert not owner_is_dead(ours["owner"])
    finally:
        engine.remove(name)
        engine.call("rmi", f"{tag}-fixed", tag, check=False)
