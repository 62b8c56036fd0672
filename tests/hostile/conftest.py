"""What an agent may send, put in front of a gateway: its client is that of the unit tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
