"""A canary in the environment of the runner shows up nowhere."""

import os
import subprocess
import tarfile
import threading
import time
from pathlib import Path

import engine_in_use

from conftest import DONE, bash

CANARY = "canary-5f1c9e-secret"
LOOK = (
    "env; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'; "
    "grep -rsl canary-5f /run /home /tmp /root /etc 2>/dev/null; sleep 2"
)


def canary_environment() -> dict[str, str]:
    names = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN", "MY_SECRET")
    return os.environ | dict.fromkeys(names, CANARY)


def holds_canary(data: bytes) -> bool:
    return CANARY.encode() in data


def test_no_credential_reaches_a_container_a_file_or_a_process_list(lab):
    seen: list[str] = []
    over = threading.Event()

    def watch():
        """Argument lists of all processes, and what the engine says of our containers."""
        while not over.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    if holds_canary(path.read_bytes()):
                        seen.append(f"{path}: {path.read_bytes()!r}")
                except OSError:
                    continue
            for name in engine_in_use.ask("ps", "--format", "{{.Names}}").split():
                if holds_canary(engine_in_use.ask("inspect", name).encode()):
                    seen.append(name)
            time.sleep(0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        done = lab.run({"turns": [bash(LOOK), DONE]}, env=canary_environment(), check=False)
    finally:
        over.set()
        watcher.join()
    assert done.returncode == 0, done.stderr
    assert not seen
    assert CANARY not in done.stdout + done.stderr
    files = [p for p in lab.folder.rglob("*") if p.is_file()]
    assert len(files) > 8
    for path in files:
        assert not holds_canary(path.read_bytes()), path
    with tarfile.open(lab.out / "session.tar") as archive:
        for member in archive.getmembers():
            assert not holds_canary(archive.extractfile(member).read()), member.name


def test_the_gateways_own_token_is_in_no_result(lab):
    show = 'printf "%s" "$ANTHROPIC_API_KEY" | sha256sum'
    lab.run({"turns": [bash(show), DONE]})
    process = subprocess.run(
        ["grep", "-rlE", "x-api-key: |Bearer ", str(lab.store)],
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    assert process.stdout == ""
