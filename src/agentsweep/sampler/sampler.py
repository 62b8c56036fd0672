"""The sampler: one container's counters at a fixed rate, in a process of its own.

`python -m agentsweep.sampler` reads one JSON line that says what to sample, answers that it is
ready, and then takes one-line commands until `stop`, the end of its stdin, or SIGTERM. See
docs/measurement.md for what is measured and what cannot be seen.

The loop sleeps on one epoll: the next deadline, stdin, the wrappers' FIFOs, and the kernel's OOM
notice. A sample is a handful of preads whose bytes are put aside; a batch of them is parsed and
written together, while it is hot, right after a deadline.
"""

import contextlib
import gc
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentsweep.errors import AgentsweepError, InfraError
from agentsweep.host.cgroup import reader_for_pid
from agentsweep.host.cgroup_reader import CgroupGone, Raw
from agentsweep.host.counters import COLUMNS, Counters
from agentsweep.host.oom_log import OomLog
from agentsweep.host.processes import end_with_parent
from agentsweep.sampler.marks import Requests, answer
from agentsweep.sampler.peaks import Call, Ledger, SaidEnd
from agentsweep.sampler.series import SampleWriter, schema
from agentsweep.sampler.timerfd import PeriodicTimer

MAX_RATE_HZ = 200
_BATCH_S = 0.9
# After an OOM the container may be gone within milliseconds, and its counters with it.
_TIGHT_PERIOD_NS = 2_000_000
_TIGHT_READS = 250
# What a container may ask for: far more than an agent does, and little enough to measure beside.
_REQUESTS_PER_PERIOD = 16
_MAX_CALLS = 256
# So long after its word a wrapper is gone: it waits for an answer no longer than this.
_GONE_WITHIN_NS = 5_000_000_000
_CURRENT = COLUMNS.index("memory_current_bytes")
_KILL = COLUMNS.index("memory_oom_kill")


class Sampler:
    """Everything that one run's sampling needs; `run` returns when it is told to stop.

    `setup` is the first line: pid, samples, marks, marks_dir, rate_hz, summary.
    """

    def __init__(self, setup: dict[str, Any]):
        self._rate_hz = float(setup.get("rate_hz", 50))
        if not 0.1 <= self._rate_hz <= MAX_RATE_HZ:
            raise InfraError(f"rate_hz is {self._rate_hz:g}; allowed is 0.1 to {MAX_RATE_HZ}")
        self._summary_path = Path(setup["summary"])
        self._reader = reader_for_pid(setup["pid"])
        self._reader.open()
        self._log = OomLog(self._reader.level)
        self._ledger = Ledger(self._reader, Path(setup["marks"]))
        self._writer = SampleWriter(
            Path(setup["samples"]), schema(self._reader.version, self._rate_hz)
        )
        self._last = self._reader.read()
        self._last_ns = time.monotonic_ns()
        self._gone = False
        self._stopping = False
        self._write_error: str | None = None

        self._plan = self._reader.read_plan()
        self._pending: list[tuple[int, int, bytes, Raw]] = []
        self._batch_rows = max(1, int(self._rate_hz * _BATCH_S))
        self._samples = self._missed = self._late = self._deadline = self._bad_requests = 0
        self._kills = self._last.memory_oom_kill or 0
        self._kill_last_ns: int | None = None
        self._tight_reads = 0
        self._commands = b""

        self._poll = select.epoll()
        self._handlers: dict[int, Callable[[], object]] = {}
        self._timer = PeriodicTimer()
        self._tight = PeriodicTimer()
        self._poll.register(self._timer.descriptor, select.EPOLLIN)
        self._watch(self._tight.descriptor, self._on_tight_deadline)
        self._watch(sys.stdin.fileno(), self._on_command)
        self._oom = self._reader.oom_eventfd()
        if self._oom is not None:
            self._watch(self._oom, self._on_oom, self._reader.oom_poll_events)
        self._requests: Requests | None = None
        self._requests_heard = 0
        if setup.get("marks_dir"):
            with contextlib.suppress(OSError):
                self._requests = Requests(Path(setup["marks_dir"]))
                self._watch(self._requests.descriptor, self._on_request)
        self._period_ns = round(1e9 / self._rate_hz)
        self._zero_ns = self._cpu_start_ns = 0
        self._scheduling = ""

    def ready(self) -> dict[str, Any]:
        """The answer to the first line."""
        return {"ready": True, "marks": self._ledger.source if self._requests else None}

    def run(self) -> None:
        """Sample until told to stop, then finish the files."""
        # Nothing here makes cycles, and a collection would cost a deadline.
        gc.disable()
        self._scheduling = _claim_priority()
        self._cpu_start_ns = time.process_time_ns()
        self._zero_ns = self._timer.start(self._period_ns)
        self._loop()
        self._finish()

    def stop(self, *_: object) -> None:
        """Leave the loop after the event at hand."""
        self._stopping = True

    def watch_signals(self) -> None:
        """SIGTERM and SIGINT end the loop as `stop` does."""
        wake, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self.stop)
        self._watch(wake, lambda: os.read(wake, 64))

    # Sampling.

    def _loop(self) -> None:
        """Sleep, sample, and hand everything else to its handler.

        A deadline touches as few instructions and as little memory as possible, because after
        some milliseconds of sleep nothing of it is in a cache: most of a sample's cost is there.
        """
        poll, handlers, pread, plan = self._poll.poll, self._handlers, os.pread, self._plan
        monotonic_ns, time_ns, keep = time.monotonic_ns, time.time_ns, self._pending.append
        timer, read = self._timer.descriptor, os.read
        pending, batch_rows = self._pending, self._batch_rows
        while not self._stopping:
            for descriptor, _ in poll():
                if descriptor != timer:
                    # A handler may have closed what a later event of the same batch belongs to.
                    if descriptor in handlers:
                        handlers[descriptor]()
                    continue
                try:
                    expired = read(timer, 8)
                    keep((monotonic_ns(), time_ns(), expired, list(map(pread, *plan))))
                except OSError:
                    self._on_gone()
                    continue
                if self._requests_heard:
                    self._listen_again()
                if len(pending) >= batch_rows:
                    self._flush()

    def _flush(self) -> None:
        """Parse, judge and write the samples that were put aside."""
        if not self._pending:
            return
        rows = []
        with contextlib.suppress(OSError):
            self._pending[-1][-1].extend(self._reader.read_seldom())
        for t_ns, utc_ns, expired, raw in self._pending:
            self._count_deadlines(t_ns, int.from_bytes(expired, sys.byteorder))
            counters = self._reader.parse(raw)
            self._see_kills(counters[_KILL], t_ns)
            if (current_bytes := counters[_CURRENT]) is not None:
                self._ledger.note(t_ns, current_bytes)
            rows.append((t_ns, utc_ns, *counters))
        self._pending.clear()
        if t_ns > self._last_ns:
            self._remember(t_ns, self._completed(counters))
        if self._write_error is None:
            try:
                self._writer.write(rows)
            except OSError as error:
                self._write_error = f"samples: {error.strerror}"
        with contextlib.suppress(CgroupGone):
            self._ledger.look()

    def _note_samples(self) -> None:
        """Let the ledger know of the samples so far, where it has nothing better."""
        if not self._reader.can_reset_peak:
            self._flush()

    def _count_deadlines(self, t_ns: int, expired: int) -> None:
        self._deadline += expired
        self._samples += 1
        # A deadline that passed while another was waited for has no sample and gets none.
        self._missed += expired - 1
        self._late += expired - 1
        if t_ns - self._zero_ns - self._deadline * self._period_ns > self._period_ns // 2:
            self._late += 1

    def _read(self) -> Counters:
        """The counters now, or the last ones of a container that has gone."""
        if not self._gone:
            try:
                self._remember(time.monotonic_ns(), self._reader.read())
            except CgroupGone:
                self._on_gone()
        return self._last

    def _completed(self, values: tuple[int | None, ...]) -> Counters:
        """A sample as the last counters: what was not read with it stays what it was."""
        known = self._last.as_dict().values()
        return Counters(*(o if n is None else n for n, o in zip(values, known, strict=True)))

    def _remember(self, t_ns: int, counters: Counters) -> None:
        self._last_ns, self._last = t_ns, counters
        self._see_kills(counters.memory_oom_kill, t_ns)

    def _see_kills(self, kills: int | None, t_ns: int) -> None:
        if kills is not None and kills > self._kills:
            self._kills = kills
            self._kill_last_ns = t_ns

    def _on_gone(self) -> None:
        if self._gone:
            return
        self._gone = True
        self._timer.stop()
        self._tight.stop()
        if self._oom is not None:
            # A removed cgroup's notice stays raised for ever.
            self._unwatch(self._oom)
        self._flush()

    # OOM.

    def _on_oom(self) -> None:
        try:
            if not self._reader.drain_oom_events():
                return
        except CgroupGone:
            self._on_gone()
            return
        # The notice comes before the kill is counted.
        self._tight_reads = _TIGHT_READS
        self._tight.start(_TIGHT_PERIOD_NS)
        self._on_tight_deadline()

    def _on_tight_deadline(self) -> None:
        self._tight.expired()
        kills = self._kills
        self._read()
        self._tight_reads -= 1
        if self._kills > kills:
            with contextlib.suppress(CgroupGone):
                self._ledger.look()
        if self._tight_reads <= 0:
            self._tight.stop()

    # Marks.

    def _on_request(self) -> None:
        lines, bad = self._listening().read()
        for kind, wrapper_pid, status in lines:
            call = self._ledger.calls.get(wrapper_pid)
            if kind == "B":
                bad += not self._begin_call(wrapper_pid, call)
            elif call is not None:
                # It is believed once the wrapper's own FIFO closes: others can write this, too.
                call.said_end = self._measure_end(call, status)
                answer(call.answer)
            else:
                bad += 1
        self._bad_requests += bad
        self._requests_heard += len(lines) + bad
        if self._requests_heard > _REQUESTS_PER_PERIOD and not self._gone:
            # Whoever writes garbage is listened to at the next deadline again, not at once.
            self._poll.modify(self._listening().descriptor, 0)

    def _listening(self) -> Requests:
        """The end of the FIFO; nobody speaks of marks where there is none."""
        assert self._requests is not None
        return self._requests

    def _listen_again(self) -> None:
        if self._requests_heard > _REQUESTS_PER_PERIOD:
            self._poll.modify(self._listening().descriptor, select.EPOLLIN)
        self._requests_heard = 0

    def _begin_call(self, wrapper_pid: int, same_pid: Call | None) -> bool:
        if len(self._ledger.calls) >= _MAX_CALLS:
            return False
        opened = self._listening().open_call(wrapper_pid)
        if opened is None:
            return False
        if same_pid is not None:
            # The pid is in use again, so the wrapper that had it is dead.
            self._end_call(same_pid, "exit")
        descriptor, command = opened
        before = self._read()
        call = Call(
            seq=self._ledger.next_seq(),
            wrapper_pid=wrapper_pid,
            command=command,
            answer=descriptor,
            start_ns=time.monotonic_ns(),
            start_utc_ns=time.time_ns(),
            before=before,
        )
        self._ledger.begin_call(call)
        # No event of its own is wanted: the kernel reports a FIFO without readers in any case.
        self._watch(descriptor, lambda: self._on_wrapper_death(call), 0)
        answer(descriptor)
        return True

    def _on_wrapper_death(self, call: Call) -> None:
        # Its last words may be waiting in the FIFO.
        self._on_request()
        if self._ledger.calls.get(call.wrapper_pid) is call:
            self._end_call(call, "exit")

    def _measure_end(self, call: Call, status: int | None) -> SaidEnd:
        times_ns = (time.monotonic_ns(), time.time_ns())
        self._note_samples()
        return self._ledger.measure_end(call, status, times_ns, self._read())

    def _end_call(self, call: Call, end_source: str) -> None:
        """The wrapper is gone, or the sampling ends: by its last word, or as of now without one."""
        said = call.said_end
        if said is not None and time.monotonic_ns() - said.times_ns[0] < _GONE_WITHIN_NS:
            self._ledger.end_call_at(call, "mark", said)
        else:
            self._ledger.end_call_at(call, end_source, self._measure_end(call, None))
        self._unwatch(call.answer)
        answer(call.answer)
        os.close(call.answer)

    # Commands.

    def _on_command(self) -> None:
        data = os.read(sys.stdin.fileno(), 65536)
        if not data:
            self._stopping = True
            return
        *lines, self._commands = (self._commands + data).split(b"\n")
        for line in lines:
            _say(self._obey(line))

    def _obey(self, line: bytes) -> dict[str, Any]:
        commands = {
            "begin": self._begin,
            "end": self._end,
            "status": self._status,
            "stop": self._stop_command,
        }
        try:
            name = json.loads(line)["cmd"]
            command = commands[name]
        except (ValueError, LookupError, TypeError):
            return {"error": f"not a command: {line[:100].decode(errors='replace')}"}
        return command()

    def _now(self) -> dict[str, Any]:
        times = {"t_ns": time.monotonic_ns(), "utc_ns": time.time_ns()}
        return {**times, "counters": self._read().as_dict()}

    def _begin(self) -> dict[str, Any]:
        now = self._now()
        self._ledger.begin_phase(self._last)
        return {**now, **self._oom_facts()}

    def _end(self) -> dict[str, Any]:
        now = self._now()
        self._note_samples()
        peak_bytes, peak_source = self._ledger.end_phase(self._last)
        return {**now, "peak_bytes": peak_bytes, "peak_source": peak_source, **self._oom_facts()}

    def _status(self) -> dict[str, Any]:
        return {
            "counters": self._read().as_dict(),
            "active_calls": len(self._ledger.calls),
            **self._oom_facts(),
            "gone": self._gone,
        }

    def _stop_command(self) -> dict[str, Any]:
        self._stopping = True
        return {"stopping": True}

    def _oom_facts(self) -> dict[str, Any]:
        """Kills since the container's start by the counter, victims since the sampler's by the log.

        Which of the two has more is for `kills.in_phase` to see: they begin at different times.
        """
        victims = self._log.victims()
        return {
            "oom_kill": self._kills,
            "victims": None if victims is None else [victim.as_dict() for victim in victims],
        }

    # The end.

    def _finish(self) -> None:
        self._read()
        for call in list(self._ledger.calls.values()):
            self._end_call(call, "stop")
        self._flush()
        try:
            self._writer.close()
        except OSError as error:
            self._write_error = self._write_error or f"samples: {error.strerror}"
        self._ledger.close()
        summary = {
            "samples": self._samples,
            "missed": self._missed,
            "deadline_misses_over_half_period": self._late,
            "cpu_s": (time.process_time_ns() - self._cpu_start_ns) / 1e9,
            "scheduling": self._scheduling,
            "marks": self._ledger.source if self._requests else None,
            "bad_requests": self._bad_requests,
            "rate_hz": self._rate_hz,
            "gone": self._gone,
            "last_counters": self._last.as_dict(),
            "oom_kill_last_ns": self._kill_last_ns,
            **self._oom_facts(),
            "marks_cut": self._ledger.cut,
            "write_error": self._write_error or self._ledger.write_error,
            "written": {
                "samples.arrow": self._writer.tally.facts(),
                "marks.jsonl": self._ledger.tally.facts(),
            },
        }
        part = self._summary_path.with_suffix(".part")
        part.write_text(json.dumps(summary) + "\n", encoding="utf-8")
        part.replace(self._summary_path)

    def _watch(
        self, descriptor: int, handler: Callable[[], object], events: int = select.EPOLLIN
    ) -> None:
        self._handlers[descriptor] = handler
        self._poll.register(descriptor, events)

    def _unwatch(self, descriptor: int) -> None:
        if self._handlers.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)


def _claim_priority() -> str:
    """Be woken before the load that is measured, as far as this user may: `rr`, `nice`, `none`.

    The sampler sleeps almost always. Should it ever spin, the kernel tells it after a second, and
    it goes back to the ordinary scheduler.
    """
    try:
        resource.setrlimit(resource.RLIMIT_RTTIME, (1_000_000, resource.RLIM_INFINITY))
        signal.signal(
            signal.SIGXCPU,
            lambda *_: os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0)),
        )
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        return "rr"
    except (OSError, ValueError):
        pass
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -10)
        return "nice"
    except OSError:
        return "none"


def _say(message: dict[str, Any]) -> None:
    os.write(sys.stdout.fileno(), json.dumps(message).encode() + b"\n")


def main() -> int:
    """Run a sampler over stdin and stdout; 1 when it could not start."""
    end_with_parent(signal.SIGTERM)
    line = b""
    while not line.endswith(b"\n"):
        # One byte at a time, because the next line is a command for the loop.
        byte = os.read(sys.stdin.fileno(), 1)
        if not byte:
            return 0
        line += byte
    try:
        sampler = Sampler(json.loads(line))
        sampler.watch_signals()
    except (AgentsweepError, OSError, ValueError, KeyError) as error:
        message = f"the sampler cannot start: {error}"
        print(message, file=sys.stderr)
        _say({"ready": False, "error": message})
        return 1
    _say(sampler.ready())
    try:
        sampler.run()
    except OSError as error:
        print(f"the sampler failed: {error}", file=sys.stderr)
        return 1
    return 0
