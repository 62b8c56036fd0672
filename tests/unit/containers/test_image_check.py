"""What is made of the look at a fixed image; the look itself: tests/integration/test_images.py."""

import pytest

from agentsweep.agents.claude_code import invocation
from agentsweep.containers import image_check, images
from agentsweep.errors import LastingError

GOOD = "shell\nrepository /testbed\ntop /testbed\ngit\nfound /testbed\n"


def judge(printed: str) -> dict:
    return image_check.judge(printed, "docker://example.org/a:1", "/testbed", "1000:1000")


def test_an_image_that_an_agent_can_work_in_passes():
    assert judge(GOOD) == {"shell": True, "git": None}
    assert judge("top /testbed\n") == {"shell": False, "git": None}
    linked = GOOD.replace("/testbed", "/src/repo")
    assert judge(linked) == {"shell": True, "git": None}


@pytest.mark.parametrize(
    ("printed", "says"),
    [
        ("", "has no work tree /testbed"),
        ("gone\n", "has no work tree /testbed"),
        (
            "shut /root\n",
            "user 1000:1000 cannot enter /root in .* above the work tree /testbed: .*",
        ),
        (f"{GOOD}closed .\n", "user 1000:1000 cannot write to /testbed in"),
        (f"{GOOD}closed ./a b\n", "user 1000:1000 cannot write to /testbed/a b in"),
        ("shell\nrepository /\ntop /testbed\n", "below the root of its repository: .* to /$"),
        ("repository /t\ntop /t\nno-git fatal: no\n", "`git status` fails .*: fatal: no$"),
        ("repository /t\ntop /t\ngit\nfound /u\n", "git takes /u for the work tree"),
    ],
)
def test_what_no_agent_can_work_with_is_one_sentence_with_the_image(printed, says):
    with pytest.raises(LastingError, match=says) as raised:
        judge(printed)
    assert "docker://example.org/a:1" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_filter_that_is_not_there_is_said_and_passes():
    said = "fatal: model.bin: clean filter 'lfs' failed"
    assert judge(f"shell\nrepository /t\ntop /t\nno-git {said}\n") == {"shell": True, "git": said}


@pytest.mark.parametrize("volume", ["/testbed", "/testbed/", "/", "/src/../testbed"])
def test_a_work_tree_in_a_volume_is_refused(volume):
    with pytest.raises(LastingError, match="lies in its volume"):
        image_check.refuse_volumes({"Volumes": {volume: {}}}, "a", "/testbed")


def test_other_volumes_are_none_of_its_business():
    for config in ({}, {"Volumes": None}, {"Volumes": {"/test": {}, "/data": {}}}):
        assert image_check.refuse_volumes(config, "a", "/testbed") is None


def test_a_shell_is_asked_for_where_it_is_the_images():
    record = {"reference": "a", "check": {"shell": False}}
    with pytest.raises(LastingError, match="install bash"):
        image_check.refuse_shell(record, "image")
    image_check.refuse_shell(record, "host")
    image_check.refuse_shell({"reference": "a"}, "image")


def test_an_image_of_before_is_outdated_and_a_record_of_now_is_not():
    assert images.is_outdated({"start_tree": "a", "git_dir": None})
    assert not images.is_outdated({"start_tree": None, "check": {"shell": True}})


def test_only_the_images_own_variables_hold_and_none_that_are_the_agents():
    env = ["PATH=/x", "RUSTUP_HOME=/r", "PYTHONPATH=", "EQ=a=b", "odd-name=1", "NAKED",
           "ANTHROPIC_API_KEY=k", "CLAUDE_CODE_USE_BEDROCK=1", "http_proxy=p", "HTTPS_PROXY=p",
           "no_proxy=n", "LC_ALL=C", "LD_LIBRARY_PATH=/l"]  # fmt: skip
    assert invocation.image_environment({"Env": env}) == {
        "RUSTUP_HOME": "/r", "PYTHONPATH": "", "EQ": "a=b", "NAKED": "", "LD_LIBRARY_PATH": "/l",
    }  # fmt: skip
    assert invocation.image_environment({"Env": None}) == invocation.image_environment({}) == {}
