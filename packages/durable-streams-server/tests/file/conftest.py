"""Fixtures of the file store's tests; their modules lie beside them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
