"""What several files of unit tests read and none changes."""

import pytest
from recorded_sessions import RUNS

from agentsweep.extraction.importer import import_runs


@pytest.fixture(scope="session")
def recorded_data_sets(tmp_path_factory):
    """The folder of AgentCgroup's data sets H and L as tables, and the numbers of their rows."""
    out = tmp_path_factory.mktemp("recorded")
    folders = {"H": "all_images_haiku", "L": "all_images_local"}
    return out, {
        name: import_runs(RUNS / folder, name, "last", out / name)
        for name, folder in folders.items()
    }
