"""The steps of one measured run, from preflight to judgement, and the record of it."""

import contextlib
import json
import os
import secrets
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from agentsweep import __version__, bounded, codehash, files, seal, untrusted
from agentsweep.agents.claude_code import invocation
from agentsweep.containers import (
    cleanup,
    engine,
    engines,
    git_snapshot,
    image_check,
    image_distribution,
    slurm_scope,
)
from agentsweep.cpu_modes import CPUSET
from agentsweep.errors import InfraError, LastingError
from agentsweep.extraction import gateway_facts
from agentsweep.hashes import file_sha256
from agentsweep.host import disk, limits, machine_facts, oom_kills, scratch
from agentsweep.host.cgroup import reader_for_pid
from agentsweep.host.cgroup_reader import CgroupGone
from agentsweep.host.processes import OVERWHELMED, LineService, owner_tag
from agentsweep.runs import agent_output, gateway_settings, outcome, watch
from agentsweep.runs.store import Attempt
from agentsweep.sampler import marks

_FULL_BYTES = 2**20
# What is kept of the agent's outputs, and of each file of a run that has used up its disk.
_STDOUT_BYTES, _STDERR_BYTES = 256 * 2**20, 64 * 2**20
_KEPT_BYTES = 64 * 2**20
# What is written while the agent runs has this much space from the start.
_HELD_BYTES = {"samples.arrow": 8 * 2**20, "api.jsonl": 8 * 2**20, "marks.jsonl": 2 * 2**20}
_NEAR_END_NS = 2_000_000_000
# The engine's own, and what a shell says of a program that it cannot run.
_ENGINES_OWN, _LOST = 125, 255
_NEVER_THE_AGENTS = (_ENGINES_OWN, 126, 127, _LOST)
# A process id and a line end.
_NOTE_BYTES = 32

Say = Callable[[str], None]


_SAYINGS = {
    "preflight": "checking engine, agent and image",
    "create": "creating the container",
    "start": "starting the container",
    "verify": "reading the limits back from the kernel",
    "exec": "starting the agent",
    "collect": "collecting session and patch",
    "services": "stopping sampler and endpoint",
    "teardown": "removing the container",
}


@dataclass
class Phases:
    """Seconds of each step, timed one by one; no step is what the others leave over."""

    say: Say
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        self.say(_SAYINGS[name])
        begin = time.monotonic()
        try:
            yield
        finally:
            self.seconds[f"{name}_s"] = round(time.monotonic() - begin, 4)


class Measurement:
    """The steps of one attempt, in order; what they share."""

    # Until the agent is started there is nothing to watch.
    disk_watch: disk.Watch | None = None
    gateway_cut: str | None = None

    def __init__(
        self,
        attempt: Attempt,
        job: dict,
        spec: str,
        image: dict,
        say: Say,
        agent_ended: Callable[[], None] = lambda: None,
    ):
        self.attempt, self.job, self.image, self.say = attempt, job, image, say
        self.spec, self.agent_ended = spec, agent_ended
        self.phases = Phases(say)
        # Another store may have an attempt of that id at work on this machine.
        self.name = f"{attempt.id}-{os.getpid()}"
        self.session = invocation.session_id(attempt.spec_sha256, attempt.number)
        self.token = secrets.token_urlsafe(24)
        self.cluster_job = slurm_scope.ClusterJob.here()
        self.user = f"{job['container']['uid']}:{job['container']['gid']}"

    def run(self) -> dict:
        """All steps; whatever happens, container, processes and sockets are gone afterwards."""
        try:
            return self._run()
        except BaseException:
            # What is kept of an attempt that failed must not keep the disk full for others.
            if self.disk_watch is not None and (self.disk_watch.over or self.disk_watch.host):
                self._make_room()
            raise

    def _run(self) -> dict:
        begin_ns, begin_utc_ns = time.monotonic_ns(), time.time_ns()
        noise = machine_facts.noise()
        with contextlib.ExitStack() as stack:
            with self.phases.timed("preflight"):
                self._preflight(stack)
            self._services(stack)
            self._start_container(stack)
            with self.phases.timed("verify"):
                verified = self._verify_limits()
            agent_run = self._run_agent(stack)
            self.agent_ended()
            with self.phases.timed("collect"):
                patch, session = self._collect(agent_run)
            removal = stack.enter_context(ThreadPoolExecutor(1)).submit(self._tear_down)
            with self.phases.timed("services"):
                summary, written = self._stop_services()
            removal.result()
        for name in _HELD_BYTES:
            disk.release(self.attempt.path / name)
        self._check_disk()
        # Before anything is judged by these files.
        written |= self.made
        seal.compare(self.attempt.path, written)
        facts = gateway_facts.read(self.attempt.path / "api.jsonl")
        judged, oom = self._judge(agent_run, summary, facts)
        differs = agent_output.disagreements(
            agent_run.result, agent_run.result_events, agent_run.exit_code, facts
        )
        return {
            "schema": 1,
            "spec": json.loads(self.spec),
            "spec_sha256": self.attempt.spec_sha256,
            "attempt": self.attempt.number,
            "attempt_id": self.attempt.id,
            "names": self.job["names"],
            "outcome": judged.outcome,
            "outcome_detail": judged.detail,
            "exit_code": agent_run.exit_code,
            "limits": verified,
            "reservation": self.job["granted"],
            "scope": self.scope,
            "cluster_job": self.cluster_job and self.cluster_job.id,
            "memory": {
                "peak_bytes": agent_run.end.get("peak_bytes"),
                "peak_source": agent_run.end.get("peak_source"),
            },
            "counters": {
                "start": agent_run.begin["counters"],
                "end": agent_run.end["counters"],
            },
            "oom": oom,
            "phases": {
                "pull_s": self.image["pull_s"],
                "fix_s": self.image["fix_s"],
                **self.phases.seconds,
                "agent_s": round((agent_run.end_ns - agent_run.start_ns) / 1e9, 4),
            },
            "wall_s": round((time.monotonic_ns() - begin_ns) / 1e9, 4),
            "started_utc_ns": begin_utc_ns,
            "ended_utc_ns": time.time_ns(),
            "agent_start_ns": agent_run.start_ns,
            "agent_end_ns": agent_run.end_ns,
            "agent_start_utc_ns": agent_run.start_utc_ns,
            "agent_end_utc_ns": agent_run.end_utc_ns,
            "leftover_processes": agent_run.leftovers,
            "agent": {
                "version": self.settings.version,
                "binary_sha256": self.job["agent"]["binary_sha256"],
                "argv": self.argv,
                "session_id": self.session,
                "uid": self.job["container"]["uid"],
            },
            "image": {key: self.image[key] for key in ("reference", "digest", "id", "size_bytes")},
            "patch": patch,
            "session": session,
            "disk": {
                "limit_bytes": self.job["disk_bytes"],
                "used_bytes": self.disk_watch.used_bytes,
                "full": self.disk_watch.over,
            },
            "engine": self.engine_info,
            "host": machine_facts.facts()
            | {f"{name}_start": value for name, value in noise.items()}
            | {f"{name}_end": value for name, value in machine_facts.noise().items()},
            "sampler": summary,
            seal.MARK: written,
            "stream": {
                "result": agent_output.believed(agent_run.result, differs),
                "result_events": agent_run.result_events,
                "differs": differs,
            },
            "gateway": facts.as_dict(),
            "budget": agent_run.gateway["budget"],
            "endpoint": agent_run.gateway.get("endpoint"),
            **self._replayed(agent_run.gateway),
            "runner": {"version": __version__, "source_sha256": codehash.package_sha256()},
        }

    def _replayed(self, gateway: dict) -> dict:
        """What was replayed and how far; nothing in other modes."""
        if "replay" not in gateway:
            return {}
        source = json.loads(self.spec)["model"]["recording_sha256"]
        return {"replay": {"source_sha256": source, **gateway["replay"]}}

    # 1. Preflight

    def _preflight(self, stack: contextlib.ExitStack) -> None:
        """Everything that can be known to be missing before anything is spent."""
        job, container = self.job, self.job["container"]
        self.model = gateway_settings.gateway_settings(job)
        self.engine = engines.find_engine(
            container["engine"], container["runtime"], scratch.engine_dir()
        )
        self.engine_info = self.engine.info()
        self.say(engines.chosen(self.engine, container["engine"]))
        limits.check_host(self.engine_info, container["uid"])
        self.cleaning = stack.enter_context(ThreadPoolExecutor(1)).submit(
            cleanup.clean_up, self.engine
        )
        self.settings = invocation.AgentSettings(**job["agent"]["settings"])
        self.binary = Path(job["agent"]["binary"])
        invocation.check_binary(self.binary, job["agent"]["binary_sha256"])
        invocation.warm(self.binary)
        place = image_distribution.place_of(job["images"], job["paths"]["results"])
        self.image = image_distribution.ensure(self.engine, self.image, place)
        image_check.refuse_shell(self.image, container["userland"])
        self.scratch = scratch.create(self.name)
        stack.callback(scratch.remove, self.scratch)

    # 2. The processes beside the container, and the container

    def _services(self, stack: contextlib.ExitStack) -> None:
        """Start gateway and sampler now: they load while the engine creates the container."""
        log = self.attempt.path / "services.log"
        way_out = gateway_settings.gateway_environment(self.job)
        self.gateway = LineService("agentsweep.gateway", log, way_out)
        stack.callback(self.gateway.stop)
        self.gateway_status = watch.GatewayStatus(self.gateway)
        self.sampler = LineService("agentsweep.sampler", log)
        stack.callback(self.sampler.stop)

    def _start_container(self, stack: contextlib.ExitStack) -> None:
        container, wanted = self.job["container"], self.job["limits"]
        control = self._control_directory()
        classic = container["userland"] == "host"
        mounts = [
            *(engine.host_userland(tuple(container["host_mounts"])) if classic else ()),
            engine.Mount(control, invocation.CONTROL),
            engine.Mount(self.binary.resolve(), invocation.CONTAINER_BINARY),
            engine.Mount(self.attempt.path / "session", invocation.CONFIG_DIR, read_only=False),
            engine.Mount(self.scratch / "marks", invocation.MARKS_DIR, read_only=False),
            engine.Mount(self.scratch / "home", invocation.HOME, read_only=False),
        ]
        spec = engine.ContainerSpec(
            name=f"agentsweep-{self.name}",
            # Its name may mean a later fix of the same image by now.
            image=self.image["id"],
            labels={engine.LABEL: self.attempt.id, engine.OWNER_LABEL: owner_tag()},
            memory_bytes=wanted["memory_bytes"],
            cpus=None if wanted["cpu_mode"] == CPUSET else wanted["cpus"],
            cpuset=wanted["cpuset"],
            pids=wanted["pids"],
            network="none" if container["network"] == "gateway" else "host",
            mounts=tuple(mounts),
            # Its init is not the agent's to kill: `pkill sleep` must not end the container.
            user="0:0",
            map_user=self.engine.maps_users,
            mask_cgroups=container["network"] == "host",
            # An image that was fixed by an earlier version has none in its record.
            env=self.image.get("env"),
            cgroup_parent=slurm_scope.parent_for(self.cluster_job, self.engine)
            if container["cgroup_parent"] == "job"
            else None,
        )
        stack.callback(self._remove, spec.name)
        with self.phases.timed("create"):
            container_id = self.engine.create(spec)
        with self.phases.timed("start"):
            self.container = self.engine.start(container_id, spec.name)
        # Readable once the container's init has ended, which asks no engine.
        self.init = os.pidfd_open(self.container.pid)
        stack.callback(os.close, self.init)

    def _control_directory(self) -> Path:
        """What the container sees read-only under /run/agentsweep, and its writable parts."""
        control = self.scratch / "control"
        for name in ("session", "marks", "home"):
            (control / name).mkdir(parents=True)
        network = self.job["container"]["network"]
        marks.install_wrapper(control / Path(invocation.WRAPPER).name)
        marks.make_marks_directory(self.scratch / "marks")
        listen = "tcp:127.0.0.1:0" if network == "host" else f"unix:{control / 'api.sock'}"
        ready = self.gateway.ask(
            {
                **self.model,
                "listen": listen,
                "log": str(self.attempt.path / "api.jsonl"),
                "token": self.token,
            }
        )
        if "replay" in ready:
            self.settings = invocation.with_recorded_tools(self.settings, ready["replay"]["tools"])
        base_url = "unix:" if ready["address"].startswith("unix:") else ready["address"]
        self.argv = invocation.arguments(self.settings, self.session)
        env = invocation.environment(self.settings, base_url, self.token, marks=True)
        task = self.job["task"]
        environment = invocation.task_environment(task["environment"])
        (control / Path(invocation.TASK_ENVIRONMENT).name).write_text(environment, encoding="utf-8")
        env_file = invocation.env_file(self.settings.system_search)
        (control / Path(invocation.ENV_FILE).name).write_text(env_file, encoding="utf-8")
        start = control / "start"
        # What the image sets holds as it does in a grading; what we set comes after it.
        whole = self.image.get("env", {}) | env
        start.write_text(
            invocation.start_script(self.argv, whole, task["python"]), encoding="utf-8"
        )
        start.chmod(0o755)
        scratch.open_to_all(control)
        uid, gid = self.job["container"]["uid"], self.job["container"]["gid"]
        for folder in (self.attempt.path / "session", self.scratch / "home"):
            folder.mkdir()
            folder.chmod(0o755)
            if os.getuid() == 0:
                os.chown(folder, uid, gid)
        return control

    # 3. and 4. Limits, counters

    def _verify_limits(self) -> dict:
        """Read the limits back from the kernel, ancestors too; InfraError on any difference."""
        wanted = self.job["limits"]
        reader = reader_for_pid(self.container.pid)
        self.cgroup = reader
        self.scope = slurm_scope.scope_of(self.cluster_job, reader.level)
        if self.scope == slurm_scope.OUTSIDE:
            self.say(
                f"the container is outside the cgroup of Slurm job {self.cluster_job.id}, whose "
                "limits and accounting do not cover it (container.cgroup_parent)"
            )
        self.effective = reader.effective_limits()
        effective = self.effective | {"nproc": len(os.sched_getaffinity(self.container.pid))}
        differences = limits.limit_differences(wanted, effective)
        if differences:
            sentence = self._not_enforced(f"{'; '.join(differences)}. Run `agentsweep doctor`.")
            raise LastingError(sentence)
        return {
            "requested": {
                "memory_bytes": wanted["memory_bytes"],
                "swap_bytes": 0,
                "cpus": wanted["cpus"],
                "cpu_mode": wanted["cpu_mode"],
                "cpuset": wanted["cpuset"],
                "pids": wanted["pids"],
            },
            "effective": effective,
        }

    def _not_enforced(self, why: str) -> str:
        return f"this host does not enforce the limits of {self.job['cell']}: {why}"

    def _check_limits(self) -> None:
        """InfraError where a limit is another than at the start: the run then had neither."""
        try:
            now = self.cgroup.effective_limits()
        except CgroupGone:
            return
        changed = limits.changes(self.effective, now)
        # The files of a container that goes vanish one by one, which is no change of a limit.
        if changed and all(path.is_dir() for path in self.cgroup.paths.values()):
            sentence = self._not_enforced(
                f"{'; '.join(changed)} during the run. Something outside (often a reload of "
                "systemd) set the container's limits anew."
            )
            raise InfraError(sentence)

    # 5. and 6. The agent

    def _run_agent(self, stack: contextlib.ExitStack) -> "_AgentRun":
        path = self.attempt.path
        ready = self.sampler.ask(
            {
                "pid": self.container.pid,
                "samples": str(path / "samples.arrow"),
                "marks": str(path / "marks.jsonl"),
                "marks_dir": str(self.scratch / "marks"),
                "rate_hz": self.job["measure"]["rate_hz"],
                "summary": str(self.scratch / "sampler.json"),
            }
        )
        if not ready.get("ready"):
            raise InfraError(f"the sampler cannot start: {ready.get('error', ready)}")
        prompt = self.scratch / "prompt"
        prompt.write_bytes(self.job["prompt"].encode())
        for sentence in self.cleaning.result().said:
            self.say(sentence)
        self._watch_disk(stack)
        begin = self.sampler.ask({"cmd": "begin"})
        container_pids = frozenset(watch.init_and_pause(self.container.pid))
        command = self.engine.exec_arguments(
            self.container.id,
            f"{invocation.CONTROL}/start",
            user=self.user,
            workdir=self.job["task"]["workdir"],
        )
        with self.phases.timed("exec"), contextlib.ExitStack() as files:
            client = subprocess.Popen(
                command,
                cwd=self.engine.workdir,
                stdin=files.enter_context(prompt.open("rb")),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env=engine.engine_environment(),
                start_new_session=True,
            )
            self.outputs = (
                bounded.Drain(client.stdout, path / "stream.jsonl", _STDOUT_BYTES),
                bounded.Drain(client.stderr, path / "stderr.txt", _STDERR_BYTES),
            )
            for output in self.outputs:
                stack.callback(output.finish)
            stack.callback(_end_client, client)
            found = self._find_agent(client)
        watched = self._watch(client, found.pid)
        leftovers = watch.kill_all_but_init(self.cgroup, self.container.pid)
        end = self.sampler.ask({"cmd": "end"})
        # A gateway that died is what the agent failed of, whatever the agent made of it.
        said_by_gateway = self._last_status()
        code = _exit_code(client)
        for output in self.outputs:
            output.finish()
        self._settle_disk()
        said = agent_output.read_stream(path / "stream.jsonl")
        # When a container goes, its agent goes first and its init some moments later.
        alive = self._is_alive(within_s=0 if code == 0 and said["result"] else 0.5)
        if alive:
            self._check_end(found, watched, code, said_by_gateway.get("exchanges", 0))
        offset = begin["utc_ns"] - begin["t_ns"]
        start_ns = begin["t_ns"]
        if found.start_utc_ns is not None:
            # The file system's clock is coarse, and UTC may have been set meanwhile.
            start_ns = min(max(found.start_utc_ns - offset, start_ns), found.seen_ns)
        return _AgentRun(
            pid=found.pid,
            container_pids=container_pids,
            start_ns=start_ns,
            start_utc_ns=start_ns + offset,
            end_ns=watched.end_ns,
            end_utc_ns=watched.end_ns + offset,
            exit_code=code if alive else None,
            stopped_by=watched.stopped_by,
            leftovers=leftovers,
            alive=alive,
            begin=begin,
            end=end,
            gateway=said_by_gateway,
            **said,
        )

    def _watch_disk(self, stack: contextlib.ExitStack) -> None:
        """From here on the run has its budget, and what is recorded of it its space."""
        path = self.attempt.path
        for name, n_bytes in _HELD_BYTES.items():
            disk.hold(path / name, n_bytes)
        layer = [self.container.layer] if self.container.layer else []
        folders = [path, self.scratch, *layer]
        self.disk_watch = disk.Watch(folders, folders, self.job["disk_bytes"], self._pids)
        self.disk_watch.start()
        stack.callback(self.disk_watch.stop)

    def _pids(self) -> set[int]:
        with contextlib.suppress(InfraError):
            return set(self.cgroup.pids())
        return set()

    def _settle_disk(self) -> None:
        """The agent has ended: whether it kept to its budget; where not, free what it took."""
        self.disk_watch.stop()
        if self.disk_watch.over is None:
            self.disk_watch.look()
        if self.disk_watch.over is None and any(output.cut for output in self.outputs):
            self.disk_watch.over = "the agent's output is longer than what is kept of it"
        if self.disk_watch.over is not None:
            self._make_room()

    def _make_room(self) -> None:
        """Free what a run has written too much of, but for the beginning of what is kept."""
        path = self.attempt.path
        scratch.remove_trees(self.scratch / "home")
        with contextlib.suppress(OSError):
            invocation.drop_all_but_session(path / "session", self.session, _KEPT_BYTES)
        for name in ("stream.jsonl", "stderr.txt"):
            files.cut(path / name, _KEPT_BYTES)

    def _last_status(self) -> dict:
        """What the gateway says once no answer is under way any more."""
        deadline = time.monotonic() + 1
        while (status := self.gateway_status.ask({"cmd": "status"}))["active"]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        return status

    def _check_end(
        self, found: "_Found", watched: "_Watched", code: int | None, exchanges: int
    ) -> None:
        """InfraError where the agent, in a container that lives, did not run or end by itself.

        exchanges: how many the gateway saw. An agent that has asked for anything did run.
        """
        self._check_disk()
        path = self.attempt.path
        if found.start_utc_ns is None:
            wrong = agent_output.last_words(path / "stderr.txt")
            if code == invocation.WRONG_PYTHON:
                raise LastingError(
                    f"the environment of task {self.job['names']['task']} is not the one it states "
                    f"({wrong}, wanted {self.job['task']['python']}): mend `environment` or "
                    "`python` in the task file"
                )
            raise InfraError(f"the agent did not start (exit code {code}): {wrong}")
        if watched.stopped_by is None:
            if watched.client_first or code is None or code < 0:
                raise InfraError(
                    f"`{self.engine.name} exec` ended before the agent did: something outside "
                    "killed it"
                )
            wrong = agent_output.last_words(path / "stderr.txt")
            lost = self.engine.lost_command
            if code == _LOST and lost is not None and lost.match(wrong):
                raise InfraError(
                    f"how the agent ended is not known: `{self.engine.name} exec` lost it ({wrong})"
                )
            if code == _ENGINES_OWN or (code in _NEVER_THE_AGENTS and not exchanges):
                raise InfraError(f"the agent could not be run (exit code {code}): {wrong}")
        self._check_limits()

    def _check_disk(self) -> None:
        if machine_facts.free_bytes(self.attempt.path) < _FULL_BYTES:
            raise LastingError(
                f"the disk that holds {self.attempt.path.parent} filled up during the run: free "
                "some space and run again"
            )

    def _is_alive(self, within_s: float = 0) -> bool:
        """Whether the container's init lives, and goes on to for `within_s`."""
        return not select.select([self.init], [], [], within_s)[0]

    def _find_agent(self, client: subprocess.Popen) -> "_Found":
        """The agent's process on the host and when it started, as far as it did."""
        note = self.scratch / "marks" / "agent.pid"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError):
                return self._found(note)
            if client.poll() is not None:
                # It may have started and ended since the note was looked for.
                with contextlib.suppress(OSError, ValueError):
                    return self._found(note)
                return _Found(None, None, time.monotonic_ns())
            time.sleep(0.002)
        raise InfraError("the agent did not start within 60 s: see whether the engine hangs")

    def _found(self, note: Path) -> "_Found":
        """What the note of the agent's process id says; OSError or ValueError: nothing yet."""
        try:
            with os.fdopen(untrusted.open_untrusted(note), "rb") as file:
                inside = int(file.read(_NOTE_BYTES))
                start_utc_ns = os.fstat(file.fileno()).st_mtime_ns
        except untrusted.WrongKind as error:
            raise LastingError(
                f"the environment of task {self.job['names']['task']} put something else than a "
                f"file at {invocation.AGENT_PID}: mend `environment` in the task file, or the image"
            ) from error
        pid = None
        with contextlib.suppress(CgroupGone):
            pid = watch.host_pid(self.cgroup, inside)
        return _Found(pid, start_utc_ns, time.monotonic_ns())

    def _watch(self, client: subprocess.Popen, pid: int | None) -> "_Watched":
        """Wait for the agent's end; end it at the wall limit or when nothing happens any more."""
        path = self.attempt.path
        files = (path / "stream.jsonl", path / "stderr.txt", path / "api.jsonl")
        activity = watch.Activity(files, self.sampler, self.gateway_status)
        freezer = watch.Freezer(self.cgroup, self.container.pid)
        begin = looked = time.monotonic()
        with watch.exit_watch(pid) as exits:
            while True:
                if exits.wait(0.25):
                    return _Watched(time.monotonic_ns(), None)
                if client.poll() is not None:
                    end_ns = time.monotonic_ns()
                    return _Watched(end_ns, None, pid is not None and not exits.wait(0.5))
                if freezer.frozen():
                    raise InfraError(
                        f"container {self.container.name} was paused from outside during the run: "
                        "its times would say nothing"
                    )
                now = time.monotonic()
                if now - looked > 1:
                    # Not at the end alone: it may be set back, or be what kills the container.
                    looked = now
                    self._check_limits()
                if self.disk_watch.host is not None:
                    raise LastingError(f"{self.disk_watch.host}: free some space and run again")
                if self.disk_watch.over is not None or any(output.cut for output in self.outputs):
                    self.say(f"{self.job['cell']}: disk_full; ending the agent")
                    watch.kill_all_but_init(self.cgroup, self.container.pid)
                    return _Watched(time.monotonic_ns(), "disk_full")
                if now - begin > self.job["timeout_s"]:
                    reason = "timed_out"
                elif activity.quiet_s(now) > self.job["stall_s"]:
                    reason = "stalled"
                elif self.gateway_status.lost is not None:
                    reason = "gateway_lost"
                elif activity.gone:
                    return _Watched(time.monotonic_ns(), None)
                else:
                    continue
                self.say(f"{self.job['cell']}: {reason}; ending the agent")
                self._end_agent(pid, exits)
                return _Watched(time.monotonic_ns(), reason)

    def _end_agent(self, pid: int | None, exits: watch.Exit) -> None:
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            if exits.wait(self.job["grace_s"]):
                return
        watch.kill_all_but_init(self.cgroup, self.container.pid)

    # 7. Collect

    def _collect(self, run: "_AgentRun") -> tuple[dict, dict]:
        """Session tree, trace and patch into the attempt, whatever ended the agent."""
        patch = self._patch(run)
        path = self.attempt.path
        # No tool of the agent can remove it: to the container it is a mount.
        if not (path / "session").is_dir():
            raise InfraError(f"{path}/session is gone: something outside removed it")
        session = invocation.archive_session(
            path / "session", self.session, path / "trace.jsonl", path / "session.tar"
        )
        scratch.remove_trees(path / "session")
        made = ("stream.jsonl", "stderr.txt", "trace.jsonl", "session.tar", "patch.diff")
        self.made = {name: {"bytes": (path / name).stat().st_size} for name in made}
        self.made["patch.diff"] |= {"bytes": patch["bytes"], "sha256": patch["sha256"]}
        return patch, session

    def _patch(self, run: "_AgentRun") -> dict:
        """The patch; where none can be made of what is there, that is said.

        `cause` of an unavailable patch: `run` (what the agent left, or the limits) or `image`.

        InfraError where the engine does not do its part: the run would lose its patch for ever.
        """
        target = self.attempt.path / "patch.diff"
        target.touch()
        reason, cause = "the image has no git", "image"
        try:
            if not run.alive:
                # Only its processes are gone; what the agent wrote is still in its layer.
                self._start_again()
            unread = git_snapshot.write_patch(
                self.engine, self.container.id, self.user, self.job["task"]["workdir"],
                self.image, target,
            )  # fmt: skip
        except (InfraError, OSError) as error:
            if run.alive and not self._is_alive(within_s=0.5):
                raise self._went_away() from error
            # An engine that has no space left does not do its part either.
            is_full = self.disk_watch is not None and self.disk_watch.over is not None
            if not isinstance(error, git_snapshot.Unreadable) and not is_full:
                raise
            unread, reason, cause = None, str(error), "run"
        if unread is None:
            target.write_bytes(b"")
            none = {"status": "unavailable", "sha256": None, "bytes": 0}
            return none | {"reason": reason, "cause": cause}
        digest = file_sha256(target)
        size = target.stat().st_size
        said = {"reason": "; ".join(unread)} if unread else {}
        return {"status": "ok" if size else "empty", "sha256": digest, "bytes": size} | said

    def _went_away(self) -> InfraError:
        return InfraError(
            f"container {self.container.name} went away before the patch was taken: something "
            "outside removed it"
        )

    def _start_again(self) -> None:
        """Start the container whose processes the kernel killed."""
        for left in (2, 1, 0):
            try:
                self.engine.call("start", self.container.id)
                return
            except InfraError as error:
                if not left:
                    # An engine that still knows it blames the container: its limit is too small.
                    try:
                        self.engine.inspect(self.container.id)
                    except InfraError as gone:
                        raise self._went_away() from gone
                    raise git_snapshot.Unreadable(str(error)) from error

    def _tear_down(self) -> None:
        with self.phases.timed("teardown"):
            self._remove(self.container.id)

    def _remove(self, container: str) -> None:
        """A container that cannot be removed is no reason to lose the run that was made in it."""
        try:
            self.engine.remove(container)
        except InfraError as error:
            self.say(f"{error}; the next start tries again")

    # 8. and 9. Counters, outcome

    def _stop_services(self) -> tuple[dict, dict]:
        """The sampler's summary, and what the services say of the files that they wrote."""
        for service in (self.gateway, self.sampler):
            code = service.stop()
            if service is self.gateway and (code == OVERWHELMED or self.gateway_status.lost):
                # The agent's doing, which is data (`Evidence.gateway_lost`, `.gateway_cut`). What
                # is missing of the record are its last lines.
                self.gateway_cut = f"{service.name} could not be stopped in time"
                self.say(f"{service.name} was overwhelmed by what the agent sent")
            elif code != 0:
                said = agent_output.last_words(self.attempt.path / "services.log")
                raise InfraError(f"{service.name} failed: {said}")
        summary = json.loads((self.scratch / "sampler.json").read_text(encoding="utf-8"))
        if summary.get("write_error"):
            raise InfraError(f"the sampler could not write: {summary['write_error']}")
        said = (self.gateway.last_said or {}).get("written")
        if said is None and self.gateway_cut is not None:
            # Nobody knows what a gateway wrote that was lost: the file is taken as it is.
            said = {"api.jsonl": {"bytes": (self.attempt.path / "api.jsonl").stat().st_size}}
        if said is None:
            raise InfraError(f"{self.gateway.name} ended without saying what it has written")
        return summary, said | summary.pop("written")

    def _judge(
        self, run: "_AgentRun", summary: dict, facts: gateway_facts.Facts | None = None
    ) -> tuple[outcome.Judgement, dict]:
        # As of the agent's end: what the kernel kills of ours while git makes the patch under the
        # same limit is none of the agent's.
        found, victims = oom_kills.in_phase(run.begin, run.end, machine_facts.sees_kernel_pids())
        last_kill_ns = summary.get("oom_kill_last_ns")
        seen = outcome.Evidence(
            exit_code=run.exit_code,
            stopped_by=run.stopped_by,
            kills=found,
            agent_pids=frozenset() if run.pid is None else frozenset((run.pid,)),
            container_pids=run.container_pids,
            oom_kill_near_end=last_kill_ns is not None
            and run.end_ns - _NEAR_END_NS < last_kill_ns < run.end["t_ns"],
            container_alive=run.alive,
            result=run.result,
            assistant_messages=run.assistant_messages,
            api_statuses=tuple(facts.statuses) if facts is not None else (),
            api_refused=tuple(facts.refused) if facts is not None else (),
            gateway=facts if facts is not None and facts.readable else None,
            max_turns=self.job.get("budget", {}).get("max_turns"),
            live=self.job["model"]["mode"] == "live",
            over_budget=run.gateway["budget"]["refused"],
            disk_full=self.disk_watch and self.disk_watch.over,
            not_allowed=run.gateway.get("endpoint"),
            replay=run.gateway.get("replay"),
            gateway_lost=run.gateway.get("lost"),
            gateway_cut=self.gateway_cut,
        )
        judged = outcome.judge(seen)
        return judged, {
            "kill_count": found.count,
            "tool_count": judged.tools.count,
            "tool_count_max": judged.tools.at_most,
            "agent_pid": run.pid,
            "agent_victim": judged.agent_victim,
            "container_victim": judged.container_victim,
            "victims": victims,
        }


@dataclass
class _AgentRun:
    pid: int | None
    container_pids: frozenset[int]
    start_ns: int
    start_utc_ns: int
    end_ns: int
    end_utc_ns: int
    exit_code: int | None
    stopped_by: str | None
    leftovers: int
    alive: bool
    begin: dict
    end: dict
    gateway: dict
    result: dict | None
    result_events: int
    assistant_messages: int


@dataclass(frozen=True)
class _Found:
    """pid: None when it had ended before it was found; start_utc_ns: None when it never ran."""

    pid: int | None
    start_utc_ns: int | None
    seen_ns: int


@dataclass(frozen=True)
class _Watched:
    end_ns: int
    stopped_by: str | None
    client_first: bool = False


def _end_client(client: subprocess.Popen) -> None:
    if client.poll() is None:
        client.kill()
        client.wait()


def _exit_code(client: subprocess.Popen) -> int | None:
    """The agent's exit code as the engine passes it on; None when the engine says nothing."""
    try:
        return client.wait(30)
    except subprocess.TimeoutExpired:
        _end_client(client)
        return None
