"""The agents: their binaries, the keys of live ones, the limits on their time."""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from agentsweep.agents.claude_code import invocation
from agentsweep.cli.checks.check import Check
from agentsweep.config import model_settings
from agentsweep.config.agent_models import LIVE
from agentsweep.config.config import Config
from agentsweep.containers import client
from agentsweep.errors import AgentsweepError, ConfigError

START_TIMEOUT_S = 60
# What the kernel, the loader and a runtime say when a program's libraries are not there.
_LIBRARY_WORDS = (
    *("error while loading shared libraries", "GLIBC_", "not found (required by"),
    *("Error relocating", "Error loading shared library", "symbol not found", "ld-linux"),
)


def agent_checks(config: Config) -> Iterator[Check]:
    for name in sorted({cell.agent for cell in config.cells()}):
        job = config.job(next(cell for cell in config.cells() if cell.agent == name))
        binary = job.agent.binary
        try:
            invocation.check_binary(binary, job.agent.binary_sha256)
        except AgentsweepError as error:
            message, _, cure = str(error).rpartition(": ")
            yield Check(f"agent {name}", "fail", message, cure)
            continue
        yield _version_check(name, binary, job.agent.settings.version)


def _version_check(name: str, binary: Path, wanted: str) -> Check:
    """Whether the binary starts on this host and is the version that it should be."""
    title = f"agent {name}"
    with tempfile.TemporaryDirectory() as home:
        try:
            done = subprocess.run(
                [binary, "--version"],
                env={"HOME": home, "PATH": "/usr/bin:/bin", "CLAUDE_CONFIG_DIR": home},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=START_TIMEOUT_S,
                check=False,
                encoding="utf-8",
            )
        except subprocess.TimeoutExpired:
            return Check(title, "fail", *silent(f"`{binary} --version`"))
        except FileNotFoundError:
            # The file is there, so it is the loader that it names that is not.
            return Check(title, "fail", *start_problem("its loader (ld-linux) is missing"))
        except OSError as error:
            return Check(title, "fail", f"{binary}: {error.strerror}", "delete it, `make agent`")
    if done.returncode != 0:
        said = client.last_line(done.stderr or done.stdout)
        return Check(title, "fail", *start_problem(f"exit code {done.returncode}: {said}"))
    if done.stdout.split()[:1] != [wanted]:
        said = client.last_line(done.stdout)
        return Check(title, "fail", f"{binary} says {said!r}, not {wanted}", "run `make agent`")
    return Check(title, "ok", f"Claude Code {wanted}, hash as locked")


def start_problem(said: str) -> tuple[str, str]:
    """Why an agent did not start, from what was said, and the cure."""
    if any(word in said for word in _LIBRARY_WORDS):
        return (
            f"a library of the agent is missing: {said}",
            "use a system with glibc 2.26 or later: another image, or `userland: host`",
        )
    if "root/sudo" in said:
        return f"the agent refuses to run as root: {said}", "set container.uid to 1000"
    return f"the agent does not start: {said}", "run it by hand, with --version"


def silent(what: str) -> tuple[str, str]:
    return (
        f"no output and no end: {what} said nothing in {START_TIMEOUT_S} s",
        "see whether the machine swaps, or its disk hangs (`dmesg`); then delete the binary and "
        "run `make agent`",
    )


def credential_checks(config: Config) -> Iterator[Check]:
    """Whether the key of each live agent can be read; it is never shown."""
    for name in sorted({cell.agent for cell in config.cells()}):
        settings, title = config.agent_settings(name), f"credential {name}"
        if settings.mode != LIVE:
            continue
        try:
            header = model_settings.key_header(settings)
        except ConfigError as error:
            message, cured, cure = str(error).rpartition("; ")
            if not cured:
                message, _, cure = cure.partition(": ")
            yield Check(title, "fail", message, cure)
            continue
        detail = f"its key is readable, and goes in {header}" if header else "it sends no key"
        yield Check(title, "ok", detail)


def stall_checks(config: Config) -> Iterator[Check]:
    """No output and no end: both limits must be there, and the stall limit the shorter one."""
    for name in sorted({cell.agent for cell in config.cells()}):
        job = config.job(next(cell for cell in config.cells() if cell.agent == name))
        if job.stall_s >= job.timeout_s:
            yield Check(
                f"stall limit {name}",
                "warn",
                f"stall_s {job.stall_s} is not below timeout_s {job.timeout_s}: an agent "
                "that hangs without output is noticed at the wall limit only",
                "set agent.stall_s lower",
            )
        else:
            yield Check(
                f"stall limit {name}",
                "ok",
                f"without output, traffic or a tool at work for {job.stall_s} s a run ends",
            )
