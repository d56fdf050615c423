"""Real programs that some tests need: where they are, or how to install them."""

import os
import shutil

import pytest


def need(name: str, package: str) -> str:
    """The path of a program. Without it a test is skipped, and fails where CI runs it."""
    found = shutil.which(name)
    if found is not None:
        return found
    message = f"{name} is not installed; on Debian: apt-get install {package}"
    if "CI" in os.environ:
        pytest.fail(message)
    pytest.skip(message)
