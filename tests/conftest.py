"""What all tests share: how signals are handled when they begin, and their options."""

import contextlib
import gc
import os
import signal

import pytest
from hypothesis import HealthCheck, settings

# A shell that starts something in the background has it ignore two signals, nohup a third, and
# every process below inherits that: tests of how ours take a signal would then test the shell.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    # Under nohup: a handler lets this process live on as it should, and is not inherited.
    signal.signal(signal.SIGHUP, lambda *_: None)

# A machine on which other things run makes inputs slowly, which is no fault of a test.
settings.register_profile(
    "tests",
    max_examples=int(os.environ.get("AGENTSWEEP_EXAMPLES", "100")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tests")


def pytest_addoption(parser):
    parser.addoption(
        "--engine",
        choices=("podman", "docker"),
        default="podman",
        help="the engine of tests/integration; a dockerd of the tests' own is started for docker",
    )
    parser.addoption(
        "--whole-demo",
        action="store_true",
        help="with docker, all cells of the demo sweep and not a part of them",
    )


def pytest_configure(config):
    for name in ("podman", "docker"):
        config.addinivalue_line("markers", f"{name}(reason): run with `--engine {name}` alone")


def pytest_collection_finish():
    """What was imported stays, so that no collection of garbage need walk it: not those that a
    test asks for before it measures, nor those that Python begins by itself."""
    gc.collect()
    gc.freeze()


_POOLS = []


@pytest.fixture
def arrow_pool():
    """`with arrow_pool() as pool:` counts what Arrow allocates within, in `pool.max_memory()`."""
    import pyarrow as pa

    @contextlib.contextmanager
    def counted():
        usual = pa.default_memory_pool()
        pool = pa.proxy_memory_pool(usual)
        # What was allocated in it may outlive the test, and it must not go before.
        _POOLS.append(pool)
        pa.set_memory_pool(pool)
        try:
            yield pool
        finally:
            pa.set_memory_pool(usual)

    return counted


@pytest.fixture(autouse=True)
def handlers():
    """Signal handlers come back: a run that was stopped in this process leaves them ignoring."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
