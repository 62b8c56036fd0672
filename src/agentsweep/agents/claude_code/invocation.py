"""Claude Code: its binary, arguments and environment, and where its trace lies."""

import contextlib
import json
import mmap
import os
import re
import shlex
import shutil
import subprocess
import tarfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentsweep import files, untrusted, yamlfile
from agentsweep.errors import ConfigError, LastingError
from agentsweep.hashes import file_sha256

CONTAINER_BINARY = "/opt/agentsweep/claude"
CONTROL = "/run/agentsweep"
CONFIG_DIR = f"{CONTROL}/session"
MARKS_DIR = f"{CONTROL}/marks"
HOME = f"{CONTROL}/home"
SOCKET = f"{CONTROL}/api.sock"
WRAPPER = f"{CONTROL}/bash-mark"
ENV_FILE = f"{CONTROL}/env-file.sh"
TASK_ENVIRONMENT = f"{CONTROL}/task-environment.sh"
AGENT_PID = f"{MARKS_DIR}/agent.pid"
WRONG_PYTHON = 97

_MADV_POPULATE_READ = 22

# Far more than any session has; a tree beyond it was not written by the CLI.
_SESSION_DEPTH = 16
_SESSION_FILES = 20000
_SESSION_BYTES = 2**30


@dataclass(frozen=True)
class AgentSettings:
    """What decides how the CLI behaves; all of it is in the run's spec.

    bash_timeout_s: the longest that one Bash call may take; system_search: keep `grep` and `find`
    inside Bash the system's own, because the CLI's replacements change what memory is measured.
    disallowed_tools, aliases_mean_model: see `agent_model.cli_settings`; they follow from the rest.
    """

    version: str
    model_id: str
    bash_timeout_s: int
    max_retries: int
    system_search: bool
    max_turns: int | None = None
    tools: tuple[str, ...] | None = None
    extra_args: tuple[str, ...] = ()
    disallowed_tools: tuple[str, ...] = ()
    aliases_mean_model: bool = False


# What the CLI offers a model by itself, of the tools that recordings use (2.1.330).
_OFFERED = frozenset(("Agent", "Bash", "Edit", "Read", "Write"))


def with_recorded_tools(settings: AgentSettings, recorded: Iterable[str]) -> AgentSettings:
    """The settings under which a recording can be replayed: the CLI has some tools (`Glob` and
    `Grep`, for example) that it offers only when they are named. It passes over names of tools
    that it no longer has."""
    if settings.tools is not None or _OFFERED | {"Task"} >= set(recorded):
        return settings
    return replace(settings, tools=tuple(sorted(_OFFERED | set(recorded) - {"Task"})))


def session_id(spec_sha256: str, attempt: int) -> str:
    """A session id of one attempt: known beforehand, never used twice (the CLI refuses that)."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"agentsweep/{spec_sha256}/{attempt}"))


def arguments(settings: AgentSettings, session: str) -> list[str]:
    """The CLI's argument list; the prompt comes on stdin."""
    argv = [CONTAINER_BINARY, "--print", "--verbose", "--output-format", "stream-json"]
    argv += ["--model", settings.model_id, "--session-id", session]
    argv += ["--dangerously-skip-permissions"]
    if settings.max_turns is not None:
        argv += ["--max-turns", str(settings.max_turns)]
    if settings.disallowed_tools:
        argv.append(f"--disallowedTools={','.join(settings.disallowed_tools)}")
    argv += settings.extra_args
    if settings.tools is not None:
        # Variadic: it must come last, or it swallows what follows.
        argv += ["--tools", ",".join(settings.tools)]
    return argv


# What the CLI asks for where it is told `haiku` and the like, and for errands of its own.
_MODEL_NAMES = (
    *(f"ANTHROPIC_DEFAULT_{name}_MODEL" for name in ("HAIKU", "SONNET", "OPUS", "FABLE")),
    "ANTHROPIC_SMALL_FAST_MODEL",
)


def environment(settings: AgentSettings, base_url: str, token: str, marks: bool) -> dict[str, str]:
    """The CLI's whole environment, but for what the task's own activation adds.

    `base_url` is `unix:` for the socket of the run's gateway, else a loopback address. The token
    is good for that gateway and that run only.
    """
    timeout_ms = str(settings.bash_timeout_s * 1000)
    env = {
        "HOME": HOME,
        "LANG": "C.UTF-8",
        "USER": "agent",
        "SHELL": "/bin/bash",
        "TMPDIR": "/tmp",
        "CLAUDE_CODE_TMPDIR": "/tmp",
        "CLAUDE_CONFIG_DIR": CONFIG_DIR,
        "CLAUDE_ENV_FILE": ENV_FILE,
        "ANTHROPIC_API_KEY": token,
        "DISABLE_AUTOUPDATER": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
        "CLAUDE_CODE_TOOL_MEMORY_LIMIT": "none",
        "CLAUDE_CODE_MAX_RETRIES": str(settings.max_retries),
        "BASH_DEFAULT_TIMEOUT_MS": timeout_ms,
        "BASH_MAX_TIMEOUT_MS": timeout_ms,
    }
    if base_url == "unix:":
        env |= {"ANTHROPIC_UNIX_SOCKET": SOCKET, "ANTHROPIC_BASE_URL": "http://localhost"}
    else:
        env["ANTHROPIC_BASE_URL"] = base_url
    if settings.aliases_mean_model:
        env |= dict.fromkeys(_MODEL_NAMES, settings.model_id)
    if marks:
        env["CLAUDE_CODE_SHELL_PREFIX"] = WRAPPER
    return env


# What the agent is and whom it asks is the configuration's, not the image's, and so is its locale.
# A proxy would be asked for the run's own endpoint. PATH is in the container as the image has it.
_NOT_THE_IMAGES = re.compile(
    r"(PATH|PWD|OLDPWD|SHLVL|HOSTNAME|TERM|container|LC_.*|LANGUAGE|ANTHROPIC_.*|CLAUDE.*"
    r"|(?i:https?|ftp|all|no)_(?i:proxy))\Z"
)


def image_environment(config: Mapping[str, Any]) -> dict[str, str]:
    """The variables of an image's own configuration (`Env`) that hold for the agent.

    Nothing else of the container's environment does: an engine may add what the host has.
    """
    pairs = (entry.partition("=")[::2] for entry in config.get("Env") or ())
    return {
        name: value
        for name, value in pairs
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) and not _NOT_THE_IMAGES.match(name)
    }


def start_script(argv: list[str], env: dict[str, str], python: str | None = None) -> str:
    """The script that becomes the agent: a clean environment, the task's own, then the CLI.

    `exec` keeps the process id that it writes down, so that the runner can tell the agent from
    its tools among the kernel's OOM victims. Where the task states which `python` its environment
    must give, another one ends the script with WRONG_PYTHON before the CLI starts.
    """
    check = ""
    if python is not None:
        check = (
            f'[ "$(command -v python)" = {shlex.quote(python)} ] || '
            f'{{ echo "python is $(command -v python)" >&2; exit {WRONG_PYTHON}; }}\n'
        )
    exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in env.items())
    return (
        "#!/bin/bash\n"
        "for name in $(compgen -e); do\n"
        '  case "$name" in PATH|PWD) ;; *) unset "$name" ;; esac\n'
        "done\n"
        f"{exports}\n"
        f". {TASK_ENVIRONMENT}\n"
        f"{check}"
        f"echo $$ > {AGENT_PID}\n"
        f"exec {shlex.join(argv)}\n"
    )


def task_environment(lines: str | None) -> str:
    """The task's activation. ConfigError where bash cannot parse it, because it would then break
    every one of the agent's Bash calls.
    """
    text = f"{lines.strip()}\n" if lines else ":\n"
    done = subprocess.run(
        ["bash", "-n"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        env={},
        encoding="utf-8",
    )
    if done.returncode != 0:
        raise ConfigError(f"the task's `environment` is no shell code: {done.stderr.strip()}")
    return text


def env_file(system_search: bool) -> str:
    """What the CLI pastes into each of its shells, after its own functions: kept to short lines.

    The CLI's shells come with functions that replace `find`, `grep` and `rg` by the agent binary
    itself; `unset -f` puts the system's own back.
    """
    search = "unset -f find grep rg 2>/dev/null || true\n" if system_search else ""
    return f". {TASK_ENVIRONMENT}\n{search}"


def locked_binary(lock: Path, agents: Path, version: str) -> Path:
    """The path of an agent binary; ConfigError for a version that the lock file does not name."""
    binary_sha256(lock, version)
    return agents / f"claude-{version}" / "claude"


def binary_sha256(lock: Path, version: str) -> str:
    """The hash that the lock file gives for an agent version."""
    content = yamlfile.read(lock)
    versions = content.get("claude") if isinstance(content, Mapping) else None
    if not isinstance(versions, Mapping):
        raise ConfigError(f"{lock}: not a lock file of agent versions (no `claude:` in it)")
    if version not in versions:
        known = ", ".join(sorted(map(str, versions)))
        raise ConfigError(f"{lock}: claude: version {version!r} is not locked; locked are {known}")
    locked = versions[version]
    found = locked.get("binary_sha256") if isinstance(locked, Mapping) else None
    if not isinstance(found, str):
        raise ConfigError(f"{lock}: claude: version {version!r} has no text `binary_sha256`")
    return found


def check_binary(path: Path, expected_sha256: str) -> None:
    """InfraError unless the file is the locked binary; the hash is remembered by size and time."""
    if not path.is_file():
        raise LastingError(f"the agent binary {path} is missing: fetch it with `make agent`")
    state = path.stat()
    facts = {"size": state.st_size, "mtime_ns": state.st_mtime_ns}
    stamp = path.with_name("claude.sha256.json")
    try:
        known = json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if {name: known.get(name) for name in facts} == facts:
        digest = known.get("sha256")
    else:
        digest = file_sha256(path)
        # A read-only cache only costs the hashing again next time.
        with contextlib.suppress(OSError):
            stamp.write_text(json.dumps(facts | {"sha256": digest}), encoding="utf-8")
    if digest != expected_sha256:
        raise LastingError(
            f"{path} is not the locked agent binary (sha256 {digest[:12]}..., locked "
            f"{expected_sha256[:12]}...): delete it and run `make agent`"
        )
    # Root reads and runs what the agent's user in the container cannot.
    if not os.access(path, os.X_OK) or (os.getuid() == 0 and state.st_mode & 0o005 != 0o005):
        raise LastingError(f"{path} cannot be run by every user: run `chmod 755 {path}`")


def warm(path: Path) -> None:
    """Bring the binary into the page cache from outside the container.

    The kernel charges a page of a file to the group that touches it first, so without this the
    first run on a machine would be charged with the binary and later ones would not. madvise(2),
    MADV_POPULATE_READ, Linux 5.14; a plain read elsewhere.
    """
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, prot=mmap.PROT_READ) as view:
        try:
            view.madvise(_MADV_POPULATE_READ)
        except (OSError, ValueError):
            while handle.read(1 << 22):
                pass


def find_trace(session_dir: Path, session: str) -> Path | None:
    """The main session file, found by its id: the folder's name follows the agent's directory."""
    found = [
        path
        for path in session_files(session_dir)
        if path.name == f"{session}.jsonl" and len(path.relative_to(session_dir).parts) == 3
    ]
    return max(found, key=lambda path: path.lstat().st_size, default=None)


def session_files(session_dir: Path) -> Iterator[Path]:
    """The regular files below `projects/`, by name.

    The agent writes this tree and the runner may be root, so no symbolic link is followed, nothing
    else than a regular file is taken, and nothing below a depth that the CLI never uses.
    """
    folders = [session_dir / "projects"]
    while folders:
        folder = folders.pop()
        try:
            if folder.is_symlink():
                continue
            if not os.access(folder, os.R_OK | os.X_OK):
                folder.chmod(0o700)
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            path = Path(entry.path)
            if entry.is_file(follow_symlinks=False):
                yield path
                continue
            depth = len(path.relative_to(session_dir).parts)
            if entry.is_dir(follow_symlinks=False) and depth < _SESSION_DEPTH:
                folders.append(path)


def drop_all_but_session(session_dir: Path, session: str, limit_bytes: int) -> None:
    """Free the disk of what no archive takes: of `session_files`, these many bytes are kept.

    The main session file goes first; where it is too long, its first lines are kept.
    """
    main = find_trace(session_dir, session)
    kept, left_bytes = set(), limit_bytes
    if main is not None:
        files.cut(main, limit_bytes)
        kept.add(main)
        left_bytes -= main.lstat().st_size
    for path in session_files(session_dir):
        size = path.lstat().st_size
        if path != main and size <= left_bytes:
            kept.add(path)
            left_bytes -= size
    for folder, _, names in os.walk(session_dir):
        for name in names:
            path = Path(folder, name)
            if path not in kept:
                with contextlib.suppress(OSError):
                    path.unlink()


def archive_session(session_dir: Path, session: str, trace: Path, archive: Path) -> dict[str, int]:
    """Copy the main session file to `trace` and the whole tree into a tar file.

    Returns {files, bytes, skipped}: beyond _SESSION_BYTES in all, or where a file cannot be read,
    files are skipped. The main session file goes first, so that it is the last to be.
    """
    kept = {"files": 0, "bytes": 0, "skipped": 0}
    main = find_trace(session_dir, session)
    trace.write_bytes(b"")
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        others = sorted(path for path in session_files(session_dir) if path != main)
        for path in [main, *others] if main else others:
            size = path.lstat().st_size
            if kept["bytes"] + size > _SESSION_BYTES or kept["files"] >= _SESSION_FILES:
                kept["skipped"] += 1
                continue
            try:
                with os.fdopen(untrusted.open_untrusted(path), "rb") as file:
                    name = str(path.relative_to(session_dir))
                    tar.addfile(tar.gettarinfo(arcname=name, fileobj=file), file)
                    if path == main:
                        file.seek(0)
                        with trace.open("wb") as copy:
                            shutil.copyfileobj(file, copy)
            except (PermissionError, untrusted.WrongKind):
                kept["skipped"] += 1
                continue
            kept["files"] += 1
            kept["bytes"] += size
    return kept
