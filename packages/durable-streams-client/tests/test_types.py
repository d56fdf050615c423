"""Type checkers know the type of the items that a reader hands out."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "types_of_users" / "program.py"
CHECKERS = {
    "mypy": ["mypy", "--strict", "--python-version", "3.11"],
    "pyright": ["pyright", "--pythonpath", sys.executable],
}


@pytest.mark.parametrize("checker", CHECKERS)
def test_every_form_of_decode_gives_the_items_their_type(checker: str, tmp_path: Path) -> None:
    if "CI" not in os.environ and find_spec(checker) is None:
        pytest.skip(f"needs {checker}: pip install {checker}")
    # Away from the project's own settings: a user has none of them.
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.read_text())
    done = subprocess.run(
        [sys.executable, "-m", *CHECKERS[checker], str(program)],
        cwd=tmp_path,
        env={**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
