"""The public face, and that core is rules and nothing else."""

import subprocess
import sys
from importlib.metadata import version

import durable_streams_core
from durable_streams_core import entities, errors


def test_it_knows_its_version() -> None:
    assert durable_streams_core.__version__ == version("durable-streams-core")


def test_every_public_name_is_there_and_every_error_and_entity_is_public() -> None:
    public = set(durable_streams_core.__all__)
    assert all(hasattr(durable_streams_core, name) for name in public)
    for module in (errors, entities):
        own = {
            name
            for name, value in vars(module).items()
            if isinstance(value, type) and value.__module__ == module.__name__
        }
        assert own <= public


def test_importing_it_brings_in_neither_the_contract_suite_nor_anything_of_its_siblings() -> None:
    script = (
        "import sys, durable_streams_core as core;"
        "print([m for m in sys.modules if m.startswith(('durable_streams', 'pytest', 'unittest'))"
        " and not m.startswith('durable_streams_core.') or m.startswith(core.__name__ + '.testing')])"
    )
    loaded = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "['durable_streams_core']"
