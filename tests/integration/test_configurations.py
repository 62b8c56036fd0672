"""The classic configuration and the safe default, with the real CLI and all three task kinds."""

import subprocess

import pytest

from conftest import DONE, bash

CLASSIC = {"userland": "host", "network": "host"}
SAFE = {"userland": "image", "network": "gateway"}


@pytest.mark.parametrize("container", [CLASSIC, SAFE], ids=["classic", "safe"])
def test_what_is_two_plus_two(lab, container):
    result = lab.run(
        {"turns": [{"text": "2 + 2 = 4."}]}, container=container, task={"prompt": "What is 2+2?"}
    )
    assert result["outcome"] == "completed"
    assert result["stream"]["result"]["result"] == "2 + 2 = 4."
    assert "What is 2+2?" in (lab.out / "trace.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize("container", [CLASSIC, SAFE], ids=["classic", "safe"])
def test_code_in_an_empty_directory(lab, container):
    write = {"Write": {"file_path": "/work/hello.py", "content": "print('hello')\n"}}
    turns = [{"tools": [write]}, bash("python3 hello.py"), DONE]
    task = {"kind": "code", "workdir": "/work", "prompt": "Write hello.py."}
    config = lab.config({"turns": turns}, task=task, container=container)
    # Another work tree is another fixed image.
    from conftest import agentsweep

    record = lab.folder / "image.json"
    pulled = lab.images.record.with_name("pulled.json")
    agentsweep(
        "image-fix", "--pulled", pulled, "--workdir", "/work", "--uid", "1000", "--gid", "1000",
        "--tag", f"{lab.images.tag}-work", "--out", record,
    )  # fmt: skip
    arguments = lab.arguments(config)
    arguments[arguments.index("--image") + 1] = str(record)
    agentsweep(*arguments)
    result = lab.result()
    assert result["outcome"] == "completed", result
    patch = (lab.out / "patch.diff").read_text(encoding="utf-8")
    assert "+print('hello')" in patch
    assert patch.count("diff --git") == 1
    assert lab.lines("marks.jsonl")[0]["exit_code"] == 0


@pytest.mark.parametrize("container", [CLASSIC, SAFE], ids=["classic", "safe"])
def test_a_repository_task_ends_in_a_patch(lab, container):
    turns = [
        bash("printf 'one\\n' > new.txt && printf '\\377\\000' > binary.bin && mkdir -p a/b"),
        bash("git -c user.name=a -c user.email=a@b commit --allow-empty -qm committed && "
             "echo more >> README.md && git add README.md && git rm -q build.sh"),
        DONE,
    ]  # fmt: skip
    result = lab.run({"turns": turns}, container=container)
    assert result["patch"]["status"] == "ok"
    patch = lab.out / "patch.diff"
    done = subprocess.run(
        ["git", "apply", "--numstat", patch],
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    names = {line.split("\t")[2] for line in done.stdout.splitlines()}
    assert names == {"new.txt", "binary.bin", "README.md", "build.sh"}


def test_the_gateway_is_the_only_way_out(lab):
    look = (
        "cat /proc/net/dev | tail -n +3 | cut -d: -f1; "
        "timeout 3 bash -c 'echo > /dev/tcp/192.0.2.1/80' && echo REACHED; "
        "id -u; grep CapEff /proc/self/status; ls /sys/fs/cgroup | head -3"
    )
    turns = [bash(look), DONE]
    lab.run({"turns": turns}, container=SAFE)
    trace = (lab.out / "trace.jsonl").read_text(encoding="utf-8")
    assert "REACHED" not in trace.replace("echo REACHED", "")
    assert "CapEff:\\t0000000000000000" in trace


def test_the_classic_configuration_does_not_show_the_hosts_cgroups(lab):
    look = "find /sys/fs/cgroup -mindepth 1 2>/dev/null | wc -l"
    lab.run({"turns": [bash(look), DONE]}, container=CLASSIC)
    results = [
        block["content"]
        for line in lab.lines("trace.jsonl")
        if line.get("type") == "user" and isinstance(line["message"]["content"], list)
        for block in line["message"]["content"]
        if block.get("type") == "tool_result"
    ]
    assert results == ["0"]


def test_the_tasks_environment_is_active_in_every_call(lab):
    task = {"environment": "export PATH=/opt/tools:$PATH\nexport TASK_SAYS=hello"}
    lab.run({"turns": [bash('echo "$TASK_SAYS ${PATH%%:*}"; type grep'), DONE]}, task=task)
    trace = (lab.out / "trace.jsonl").read_text(encoding="utf-8")
    assert "hello /opt/tools" in trace
    assert "grep is /usr/bin/grep" in trace


def test_a_wrong_python_is_refused_before_the_agent(lab):
    done = lab.run({"turns": [DONE]}, task={"python": "/opt/none/bin/python"}, check=False)
    assert done.returncode == 1
    assert "the environment of task task is not the one it states" in done.stderr
    assert "Traceback" not in done.stderr
