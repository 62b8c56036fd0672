"""Images that an agent could not work in, and what of an image holds for the agent."""

import json
from contextlib import contextmanager

import engine_in_use
import pytest

from agentsweep.containers.engine import ulimits
from conftest import DONE, Images, agentsweep, bash


@contextmanager
def made_of(images, folder, script="true", changes=()):
    """Our image after `script` (root's) and with `changes` of its configuration: `pulled.json`."""
    engine = engine_in_use.find()
    pulled = json.loads(images.record.with_name("pulled.json").read_text(encoding="utf-8"))
    name, tag = f"agentsweep-test-{folder.name}", f"{images.tag}-{folder.name}"
    start = ("run", "--network=none", *(f"--ulimit={limit}" for limit in ulimits()))
    options = [word for change in changes for word in ("--change", change)]
    try:
        engine.call(*start, "--name", name, "--user=0", pulled["id"], "sh", "-ec", script)
        engine.call("commit", *options, name, tag)
        path = folder / "pulled.json"
        base = pulled | {"id": engine.image_id(tag), "reference": "docker://example.org/odd:1"}
        path.write_text(json.dumps(base), encoding="utf-8")
        yield path, f"{tag}-fixed"
    finally:
        engine.remove(name)
        engine.call("rmi", f"{tag}-fixed", tag, check=False)


def fix(pulled, tag, workdir="/testbed", check=True):
    out = pulled.with_name("image.json")
    done = agentsweep(
        "image-fix", "--pulled", pulled, "--workdir", workdir, "--uid", "1000", "--gid", "1000",
        "--tag", tag, "--out", out, check=check,
    )  # fmt: skip
    return json.loads(out.read_text(encoding="utf-8")) if check else done.stderr


REFUSED = {
    "volume": ("true", ["VOLUME /testbed"], "/testbed", "without `VOLUME /testbed`"),
    "volume above": ("true", ["VOLUME /"], "/testbed", "lies in its volume /"),
    "volume below": (
        "mkdir -p /testbed/data", ["VOLUME /testbed/data"], "/testbed",
        "user 1000:1000 cannot write to /testbed/data",
    ),
    "shut above": (
        "mkdir -p /shut/in/repo && git -C /shut/in/repo init -q && chmod 700 /shut", [],
        "/shut/in/repo", "user 1000:1000 cannot enter /shut in",
    ),
    "a link into what is shut": (
        "mkdir -p /shut/repo && chmod 700 /shut && rm -rf /testbed && ln -s /shut/repo /testbed",
        [], "/testbed", "user 1000:1000 cannot enter /shut in",
    ),
    "git looks elsewhere": (
        "git -C /testbed init -q", ["ENV GIT_DIR=/nowhere"], "/testbed",
        "`git status` fails for user 1000:1000 in /testbed",
    ),
    "below its root": (
        "mkdir -p /testbed/sub/deep", [], "/testbed/sub/deep",
        "set the task's `workdir` to /testbed",
    ),
    "another work tree": (
        "mkdir /other; git -C /testbed config core.worktree /other", [], "/testbed",
        "git takes /other for the work tree",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_an_image_that_no_agent_can_work_in_is_refused_by_name(images, tmp_path, case):
    script, changes, workdir, says = REFUSED[case]
    with made_of(images, tmp_path, script, changes) as (pulled, tag):
        said = fix(pulled, tag, workdir, check=False)
    assert says in said
    assert "docker://example.org/odd:1" in said
    assert "Traceback" not in said
    assert not (tmp_path / "image.json").exists()


def test_a_work_tree_that_is_a_link_is_the_agents(lab, images, tmp_path):
    script = "mkdir /src; mv /testbed /src/repo; ln -s /src/repo /testbed"
    with made_of(images, tmp_path, script) as (pulled, tag):
        fix(pulled, tag)
        lab.images = Images(images.lock, tmp_path / "image.json")
        look = "id -u; git status --short && echo more >> README.md && echo 'new' > new.txt"
        result = lab.run({"turns": [bash(look), DONE]})
    assert result["patch"]["status"] == "ok"
    patch = (lab.out / "patch.diff").read_text(encoding="utf-8")
    assert patch.count("diff --git") == 2


def test_the_environment_of_the_image_holds_and_the_hosts_does_not(lab, images, tmp_path):
    changes = ["ENV RUSTUP_HOME=/usr/local/rustup", "ENV ODD='a b'", "ENV HOME=/image",
               "ENV ANTHROPIC_BASE_URL=http://example.org"]  # fmt: skip
    with made_of(images, tmp_path, changes=changes) as (pulled, tag):
        record = fix(pulled, tag)
        assert record["env"]["RUSTUP_HOME"] == "/usr/local/rustup"
        lab.images = Images(images.lock, tmp_path / "image.json")
        lab.run({"turns": [bash("env > env.txt"), DONE]})
    lines = (lab.out / "patch.diff").read_text(encoding="utf-8").splitlines()
    assert "+RUSTUP_HOME=/usr/local/rustup" in lines
    assert f"+ODD={record['env']['ODD']}" in lines
    assert "+HOME=/run/agentsweep/home" in lines
    assert not [line for line in lines if "example.org" in line or "PYTEST_CURRENT_TEST" in line]


@pytest.mark.docker("Podman runs health checks with systemd alone")
def test_a_health_check_is_in_no_number_of_the_agents(lab, images, tmp_path):
    """Within the container's limits it would be measured with the agent."""
    check = (
        "HEALTHCHECK --interval=1s CMD touch /tmp/beat; "
        "python3 -c 'x = bytearray(250 << 20); sum(range(10_000_000))'"
    )
    peaks, used = [], []
    for name, changes in {"without": [], "with": [check]}.items():
        (folder := tmp_path / name).mkdir()
        lab.store, lab.out = folder / "store", folder / "out"
        with made_of(images, folder, changes=changes) as (pulled, tag):
            fix(pulled, tag)
            lab.images = Images(images.lock, folder / "image.json")
            looked = ("image", "inspect", "--format", "{{json .Config.Healthcheck}}")
            has = engine_in_use.ask(*looked, tag.removesuffix("-fixed"))
            assert ("bytearray" in has) is bool(changes), has
            turns = [bash("sleep 8; ls /tmp > listed.txt"), DONE]
            result = lab.run({"turns": turns}, memory="2GiB", cpus="1")
        assert "beat" not in (lab.out / "patch.diff").read_text(encoding="utf-8")
        start, end = result["counters"]["start"], result["counters"]["end"]
        peaks.append(result["memory"]["peak_bytes"])
        used.append(end["cpu_usage_usec"] - start["cpu_usage_usec"])
    # One check alone needs more than what two runs without any differ by.
    assert abs(peaks[1] - peaks[0]) < 64 << 20, peaks
    assert abs(used[1] - used[0]) < 500_000, used


def test_an_lfs_filter_without_lfs_is_the_agents_matter(lab, images, tmp_path):
    script = (
        "cd /testbed; git config user.name a; git config user.email a@b; echo pointer > m.bin; "
        "echo '*.bin filter=lfs -text' > .gitattributes; git add -A; git commit -qm lfs; "
        "git config filter.lfs.clean 'git-lfs clean'; git config filter.lfs.required true"
    )
    with made_of(images, tmp_path, script) as (pulled, tag):
        record = fix(pulled, tag)
        assert "filter" in record["check"]["git"]
        lab.images = Images(images.lock, tmp_path / "image.json")
        result = lab.run({"turns": [bash("echo more >> README.md"), DONE]})
    assert (result["outcome"], result["patch"]["status"]) == ("completed", "ok")


def test_an_image_that_was_fixed_before_is_fixed_again_where_it_is_needed(lab, images, tmp_path):
    """Its record has no `check`; a sealed run in it needs nothing."""
    with made_of(images, tmp_path) as (pulled, tag):
        record = fix(pulled, tag)
        old = {key: value for key, value in record.items() if key not in ("check", "env")}
        old["git_dir"] = None
        (tmp_path / "image.json").write_text(json.dumps(old), encoding="utf-8")
        lab.images = Images(images.lock, tmp_path / "image.json")
        result = lab.run({"turns": [bash("echo more >> README.md"), DONE]})
        assert result["patch"]["status"] == "ok"
        assert result["image"]["id"] != record["id"]
