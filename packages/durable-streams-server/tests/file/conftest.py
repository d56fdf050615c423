"""What the tests of the file store share lies beside them, as modules."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
