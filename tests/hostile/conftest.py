"""What the tests against hostile agents and hosts share: the containers of tests/integration.

`lab` and `images` are those of `tests/integration/conftest.py`; `containers` is the marker of a
test that needs them.
"""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest

# Before anything loads pyarrow: its own pool takes a gigabyte at once, which the bound of the
# fuzzer's processes does not let it have.
os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
_TESTS = Path(__file__).resolve().parents[1]
_INTEGRATION = _TESTS / "integration"
sys.path.insert(0, str(_INTEGRATION))


def _load(name: str, path: Path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look themselves up.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


from paying_endpoint import endpoint, live  # noqa: E402, F401

integration = _load("integration_lab", _INTEGRATION / "conftest.py")
daemon, images, lab = integration.daemon, integration.images, integration.lab


def pytest_configure(config):
    config.addinivalue_line("markers", "containers: needs podman, the agent and the demo's images")


def pytest_collection_modifyitems(items):
    needed = (integration.BINARY, integration.ARCHIVE)
    missing = [str(path) for path in needed if not path.is_file()]
    missing += [] if shutil.which("podman") else ["podman"]
    if not missing or os.environ.get("CI"):
        return
    reason = f"NOT RUN, real containers need {' and '.join(missing)}: run `make test`"
    for item in items:
        if item.get_closest_marker("containers"):
            item.add_marker(pytest.mark.skip(reason=reason))
