"""Feed changed bytes to every reader of foreign bytes, and keep what ends, stops or fills one.

    python tests/fuzz/fuzz_driver.py [TARGET...]     AGENTSWEEP_FUZZ_S seconds over all of them
    python tests/fuzz/fuzz_driver.py TARGET FILE     one saved input again

Each target runs in a process of its own, so that a crash or an endless loop is a finding and not
the end. Inputs with a finding are below build/fuzz/<target>/, beside each a `.txt` that says what
it was. Exit status 1 where there is any. With atheris (pinned by hash, installed beside the
environment the first time) inputs that reach new lines are changed further.
"""

import argparse
import gc
import hashlib
import mmap
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path

import fuzz_checks
from fuzz_checks import Fault, Target
from fuzz_mutations import mutate

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "fuzz"
LOCK = ROOT / "tools" / "fuzz.lock"
# Inputs of the past that showed a fault, below it by target.
CORPUS = Path(__file__).parent / "corpus"

INPUT_BYTES = 2**16
# Far more than an input of a megabyte takes while memory is counted and lines are.
HUNG_S = 60.0
# Its own pool of memory takes a gigabyte at once, which the bound does not let it have.
os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
# What a child may take beyond what it has at its start.
MEMORY_BYTES = 2**30
# Of the time, for inputs that grow.
_GROWING, _FIRST_GROWTH_S = 0.3, 0.1
# Number of inputs, that of growths, and beginning (monotonic ns) and size of the one at work.
_STATE = struct.Struct("=QQQQ")
_SHARED_BYTES = 2**25


@dataclass
class Tally:
    """What became of a target: how many inputs, and the faults by the files that show them."""

    inputs: int = 0
    growths: int = 0
    faults: dict[Path, Fault] = field(default_factory=dict)


class _Shared:
    """What a child tells its parent even when it dies: how far it is, and its input."""

    def __init__(self):
        self._memory = mmap.mmap(-1, _STATE.size + _SHARED_BYTES)

    def begin(self, inputs: int, growths: int, data: bytes) -> None:
        data = data[:_SHARED_BYTES]
        self._memory[_STATE.size : _STATE.size + len(data)] = data
        _STATE.pack_into(self._memory, 0, inputs, growths, time.monotonic_ns(), len(data))

    def state(self) -> tuple[int, int, float, bytes]:
        """Inputs, growths, seconds since the last one began, and that one."""
        inputs, growths, begun_ns, size = _STATE.unpack_from(self._memory, 0)
        since_s = (time.monotonic_ns() - begun_ns) / 1e9 if begun_ns else 0.0
        return inputs, growths, since_s, self._memory[_STATE.size : _STATE.size + size]


def fuzz(
    target: Target,
    seconds: float,
    seed: int,
    out: Path,
    guided: bool = False,
    corpus: Sequence[bytes] = (),
    hung_s: float = HUNG_S,
) -> Tally:
    """Fuzz one target in a child for so long; faults are saved below `out`."""
    folder = out / target.name
    folder.mkdir(parents=True, exist_ok=True)
    shared, tally = _Shared(), Tally()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                _child(_Child(target, shared, folder, seconds, seed), scratch, guided, corpus)
                code = 0
            except Exception:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        status = _watch(pid, shared, time.monotonic() + seconds, hung_s)
    tally.inputs, tally.growths, _, data = shared.state()
    if isinstance(status, str):
        save(folder, Fault("hung", status, data))
    elif status != 0:
        save(folder, Fault("died", _ended(status, folder), data))
    for said in sorted(folder.glob("*.txt")):
        kind, _, words = said.read_text(encoding="utf-8").strip().partition(": ")
        path = said.with_suffix("")
        tally.faults[path] = Fault(kind, words, path.read_bytes())
    return tally


def _watch(pid: int, shared: _Shared, deadline: float, hung_s: float) -> int | str:
    """The exit status of the child; a sentence where it had to be killed."""
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        _, _, since_s, data = shared.state()
        if since_s > hung_s or time.monotonic() > deadline + 10 * hung_s:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return f"{len(data)} bytes took more than {min(since_s, hung_s):.0f} s"
        time.sleep(0.02)


def _ended(status: int, folder: Path) -> str:
    lines = (folder / "log").read_text(encoding="utf-8", errors="replace").splitlines()
    return f"exit status {status}: {lines[-1][:200] if lines else 'without a word'}"


def save(folder: Path, fault: Fault) -> Path:
    """Keep an input that shows a fault, and what it shows."""
    path = folder / hashlib.sha256(fault.data).hexdigest()[:16]
    path.write_bytes(fault.data)
    path.with_name(f"{path.name}.txt").write_text(f"{fault.kind}: {fault.said}\n", "utf-8")
    return path


# The child


@dataclass
class _Child:
    target: Target
    shared: _Shared
    folder: Path
    seconds: float
    seed: int
    inputs: int = 0
    growths: int = 0
    growing_s: float = 0.0
    begun: float = field(default_factory=time.monotonic)
    known: set = field(default_factory=set)

    def try_one(self, data: bytes) -> None:
        """One input, and from time to time the same at larger sizes."""
        self.inputs += 1
        self.shared.begin(self.inputs, self.growths, data)
        self._note(fuzz_checks.tried(self.target, data))
        now = time.monotonic()
        usual_s = self.growing_s / self.growths if self.growths else _FIRST_GROWTH_S
        if self.growing_s + usual_s <= _GROWING * (now - self.begun):
            self.growths += 1
            # Of its own, so that the time that this takes changes none of the next inputs.
            own = random.Random(f"{self.seed}:{self.growths}")
            self._note(fuzz_checks.grows(self._told(), data, own))
            self.growing_s += time.monotonic() - now

    def _told(self) -> Target:
        """The target, of which the parent knows each input before it is read."""

        def read(data: bytes) -> object:
            self.shared.begin(self.inputs, self.growths, data)
            return self.target.read(data)

        return Target(self.target.name, read, self.target.seeds, self.target.allowed)

    def _note(self, fault: Fault | None) -> None:
        if fault is not None and fault.place not in self.known:
            self.known.add(fault.place)
            save(self.folder, fuzz_checks.smaller(self._told(), fault))

    @property
    def is_over(self) -> bool:
        return time.monotonic() - self.begun > self.seconds


def _child(child: _Child, scratch: str, guided: bool, corpus: Sequence[bytes]) -> None:
    os.environ["TMPDIR"] = tempfile.tempdir = scratch
    with (child.folder / "log").open("wb") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    _bound_memory()
    # Collections before each measurement then leave out what the parent had.
    gc.freeze()
    seeds = [*child.target.seeds(), *corpus]
    if guided:
        _guided(child, seeds, Path(scratch))
    chosen = random.Random(f"{child.seed}:{child.target.name}")
    for data in seeds:
        child.try_one(data)
    while not child.is_over:
        child.try_one(mutate(chosen, chosen.choice(seeds), seeds, INPUT_BYTES))


def _guided(child: _Child, seeds: Sequence[bytes], scratch: Path) -> None:
    """Let libFuzzer choose what is changed further: what reached new lines. Ends the process."""
    import atheris

    kept = scratch / "inputs"
    kept.mkdir()
    for number, data in enumerate(seeds):
        (kept / str(number)).write_bytes(data)

    def change(data: bytes, most_bytes: int, seed: int) -> bytes:
        chosen = random.Random(seed)
        if chosen.random() < 0.2:
            data = atheris.Mutate(data, min(len(data) + 64, most_bytes))
        return mutate(chosen, data, seeds, min(most_bytes, INPUT_BYTES))

    options = {
        "max_total_time": max(1, round(child.seconds)),
        "seed": child.seed % 2**31 or 1,
        "max_len": INPUT_BYTES,
        # Where libFuzzer puts what it calls slow, else beside the project's files.
        "artifact_prefix": f"{scratch}/",
        # All of this is watched here, where it becomes a finding and not the end.
        **{"rss_limit_mb": 0, "malloc_limit_mb": 0, "timeout": 10**6, "len_control": 0},
    }
    arguments = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup(["fuzz", str(kept), *arguments], child.try_one, custom_mutator=change)
    atheris.Fuzz()


def _bound_memory() -> None:
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    used_kib = next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmData"))
    limit = used_kib * 1024 + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


# The program


def load(guided: bool) -> Iterable[Target]:
    """The table of targets, with what they call instrumented where inputs are guided."""
    if not guided:
        from fuzz_targets import TARGETS

        return TARGETS
    import atheris

    # It says each module's name.
    with (
        (BUILD / "instrumented").open("w", encoding="utf-8") as log,
        redirect_stderr(log),
        atheris.instrument_imports(include=["agentsweep"]),
    ):
        from fuzz_targets import TARGETS
    return TARGETS


def corpus_of(name: str) -> list[bytes]:
    """The inputs of the past that showed a fault of a target."""
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]


def installed() -> bool:
    """Whether atheris is there, installed beside the environment where it is not there yet."""
    stamp = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    folder = BUILD / "tools"
    if not (folder / stamp).exists():
        shutil.rmtree(folder, ignore_errors=True)
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
             "--require-hashes", "--no-deps", "--only-binary", ":all:", "--target", str(folder),
             "--requirement", str(LOCK)],
            check=False,
        )  # fmt: skip
        if done.returncode != 0:
            return False
        (folder / stamp).touch()
    sys.path.append(str(folder))
    return True


def run(
    targets: Sequence[Target],
    seconds: float,
    seed: int,
    out: Path,
    guided: bool,
    say: Callable[[str], object] = print,
) -> dict[Path, Fault]:
    """Fuzz targets one after another, each for its part of the time; all faults, by file."""
    faults: dict[Path, Fault] = {}
    deadline = time.monotonic() + seconds
    for number, target in enumerate(targets):
        left_s = max(0.0, deadline - time.monotonic())
        part_s = left_s / (len(targets) - number)
        shutil.rmtree(out / target.name, ignore_errors=True)
        tally = fuzz(target, part_s, seed, out, guided, corpus_of(target.name))
        say(f"{target.name}: {tally.inputs} inputs, {tally.growths} grown")
        for path, fault in tally.faults.items():
            say(f"  {fault.kind}: {fault.said}")
            say(f"    python tests/fuzz/fuzz_driver.py {target.name} {path}")
        faults |= tally.faults
    return faults


def main(words: Sequence[str] | None = None) -> int:
    """The program; its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("words", nargs="*", metavar="TARGET|FILE")
    given = parser.parse_args(words).words
    BUILD.mkdir(parents=True, exist_ok=True)
    os.chdir(ROOT)
    again = len(given) == 2 and Path(given[1]).is_file()
    guided = not again and installed()
    targets = {target.name: target for target in load(guided)}
    if unknown := sorted(set(given[:1] if again else given) - targets.keys()):
        parser.error(f"no target is called {unknown[0]}; there are {', '.join(targets)}")
    if again:
        fault = fuzz_checks.tried(targets[given[0]], Path(given[1]).read_bytes())
        print(f"{fault.kind}: {fault.said}" if fault else "nothing is wrong")
        return int(fault is not None)
    seconds = float(os.environ.get("AGENTSWEEP_FUZZ_S", "3600"))
    seed = int(os.environ.get("AGENTSWEEP_FUZZ_SEED", random.SystemRandom().randrange(2**31)))
    print(f"AGENTSWEEP_FUZZ_SEED={seed}{'' if guided else ' (without coverage: no atheris)'}")
    chosen = [targets[name] for name in given] or list(targets.values())
    faults = run(chosen, seconds, seed, BUILD, guided)
    print(f"{len(faults)} inputs with a fault" + (f", below {BUILD}" if faults else ""))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
