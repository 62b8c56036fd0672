"""A seccomp profile without user namespaces: what it refuses, and what stays as it was."""

import json

import pytest

from agentsweep.containers import seccomp
from agentsweep.errors import LastingError

NEWUSER, NEWNET = 0x10000000, 0x40000000
# As Podman's own: an errno for what is not named, rules for some capabilities.
PROFILE = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 38,
    "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
    "syscalls": [
        {"names": ["clone3"], "action": "SCMP_ACT_ALLOW", "args": []},
        {"names": ["read", "clone", "unshare", "setns"], "action": "SCMP_ACT_ALLOW", "args": []},
        {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
         "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
    ],
}  # fmt: skip


def answers(profile, name, flags):
    """What the rules of a system call say to these flags."""
    found = []
    for rule in profile["syscalls"]:
        masks = [(arg["value"], arg["valueTwo"]) for arg in rule.get("args", ())]
        if name in rule["names"] and all(flags & mask == value for mask, value in masks):
            found.append((rule["action"], rule.get("errnoRet")))
    return found


@pytest.mark.parametrize("name", ["clone", "unshare"])
def test_a_user_namespace_is_refused_and_nothing_else(name):
    made = seccomp.without_user_namespaces(PROFILE)
    for flags in (NEWUSER, NEWUSER | NEWNET, NEWUSER | 17):
        assert answers(made, name, flags) == [("SCMP_ACT_ERRNO", 1)]
    for flags in (0, NEWNET, 17, 0x003D0F00):
        assert answers(made, name, flags) == [("SCMP_ACT_ALLOW", None)]


def test_a_call_whose_flags_cannot_be_seen_is_as_on_a_kernel_without_it():
    assert answers(seccomp.without_user_namespaces(PROFILE), "clone3", 0) == [
        ("SCMP_ACT_ERRNO", 38)
    ]


@pytest.mark.parametrize(("machine", "index"), [("x86_64", 0), ("aarch64", 0), ("s390x", 1)])
def test_the_flags_are_where_the_machine_has_them(monkeypatch, machine, index):
    monkeypatch.setattr("platform.machine", lambda: machine)
    made = seccomp.without_user_namespaces(PROFILE)
    places = {
        name: {a["index"] for r in made["syscalls"] if r["names"] == [name] for a in r["args"]}
        for name in ("clone", "unshare")
    }
    assert places == {"clone": {index}, "unshare": {0}}


def test_the_rest_stays_and_the_profile_is_not_changed():
    before = json.dumps(PROFILE)
    made = seccomp.without_user_namespaces(PROFILE)
    assert json.dumps(PROFILE) == before
    assert made["syscalls"][0]["names"] == ["read", "setns"]
    assert made["syscalls"][1] == PROFILE["syscalls"][2]
    assert {k: v for k, v in made.items() if k != "syscalls"} == {
        k: v for k, v in PROFILE.items() if k != "syscalls"
    }


def test_the_file_is_made_once(tmp_path):
    source = tmp_path / "seccomp.json"
    source.write_text(json.dumps(PROFILE), encoding="utf-8")
    made = seccomp.derived(source, tmp_path)
    assert json.loads(made.read_bytes()) == seccomp.without_user_namespaces(PROFILE)
    before = made.stat().st_mtime_ns
    assert seccomp.derived(source, tmp_path) == made and made.stat().st_mtime_ns == before
    assert sorted(tmp_path.iterdir()) == sorted([source, made])


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"syscalls": [1]}'])
def test_a_profile_that_cannot_be_read_is_refused_with_a_cure(tmp_path, content):
    source = tmp_path / "seccomp.json"
    if content is not None:
        source.write_text(content, encoding="utf-8")
    with pytest.raises(LastingError, match=r"seccomp\.json cannot be read .*install the engine"):
        seccomp.derived(source, tmp_path)
