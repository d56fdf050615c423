"""Which package may import what: the arrows between packages point one way, and core is pure."""

import ast
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PACKAGES = Path(__file__).parent.parent / "packages"

# Core alone may be imported by the others, and imports none of them. The test kit runs a server and
# clients, so it stands above both, as runs do.
MAY_IMPORT = {
    "durable_streams_core": set(),
    "durable_streams_server": {"durable_streams_core"},
    "durable_streams_client": {"durable_streams_core"},
    "durable_streams_redis": {"durable_streams_core"},
    "durable_streams_runs": {
        "durable_streams_core",
        "durable_streams_server",
        "durable_streams_client",
    },
    "pytest_durable_streams": {
        "durable_streams_core",
        "durable_streams_server",
        "durable_streams_client",
    },
}

# What would let core do I/O, read a clock or draw randomness: such things are passed in.
IMPURE = {
    "asyncio",
    "concurrent",
    "http",
    "multiprocessing",
    "os",
    "pathlib",
    "random",
    "secrets",
    "select",
    "selectors",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "urllib",
    "uuid",
}
CLOCKS = {"now", "today", "utcnow"}

# A store that answers by callback needs a future to be awaited: that is no I/O.
PERMITTED = {("store.py", "asyncio")}


def sources(package: str) -> list[Path]:
    return sorted((PACKAGES / package.replace("_", "-") / "src").rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(), path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_siblings_are_imported_in_one_direction_only(package: Any) -> None:
    allowed = MAY_IMPORT[package] | {package}
    wrong = [
        f"{path.relative_to(PACKAGES)} imports {name}"
        for path in sources(package)
        for name in imports(path)
        if "durable_streams" in name and name.split(".")[0] not in allowed
    ]
    assert not wrong


def is_rule(path: Path) -> bool:
    """The contract suite is tests: it waits and draws like any."""
    return "testing" not in path.with_suffix("").parts


def test_core_imports_only_the_standard_library_and_msgspec() -> None:
    allowed = {*sys.stdlib_module_names, "msgspec", "durable_streams_core"}
    assert not [
        f"{path.name} imports {name}"
        for path in filter(is_rule, sources("durable_streams_core"))
        for name in imports(path)
        if name.split(".")[0] not in allowed
    ]


def test_core_does_no_io_reads_no_clock_and_draws_no_randomness() -> None:
    wrong = [
        f"{path.name} imports {name}"
        for path in filter(is_rule, sources("durable_streams_core"))
        for name in imports(path)
        if name.split(".")[0] in IMPURE
        and name != "urllib.parse"
        and (path.name, name) not in PERMITTED
    ]
    for path in filter(is_rule, sources("durable_streams_core")):
        for node in ast.walk(ast.parse(path.read_text(), path)):
            match node:
                case ast.Call(func=ast.Name(id="open" | "print" | "input" as name)):
                    wrong.append(f"{path.name}:{node.lineno} calls {name}()")
                case ast.Attribute(value=ast.Name(id="datetime" | "date"), attr=name):
                    if name in CLOCKS:
                        wrong.append(f"{path.name}:{node.lineno} reads the clock")
    assert not wrong


def unsupported(module: str, name: str) -> bool:
    """Whether a name is not among those that a module of core lists in ``__all__``."""
    found = import_module(module)
    return not isinstance(getattr(found, name), ModuleType) and name not in found.__all__


@pytest.mark.parametrize("package", [name for name in MAY_IMPORT if MAY_IMPORT[name]])
def test_the_others_use_of_core_only_what_it_supports(package: str) -> None:
    """A name that a module of core lists in ``__all__`` changes only with its minor version."""
    found = [
        f"{path.name}: {node.module}.{alias.name}"
        for path in sources(package)
        for node in ast.walk(ast.parse(path.read_text(), path))
        if isinstance(node, ast.ImportFrom)
        and node.module
        and node.module.split(".")[0] == "durable_streams_core"
        for alias in node.names
        if unsupported(node.module, alias.name)
    ]
    assert found == []


def test_what_core_supports_is_there() -> None:
    for path in sources("durable_streams_core"):
        parts = path.relative_to(PACKAGES / "durable-streams-core" / "src").with_suffix("").parts
        module = import_module(".".join(parts))
        for name in getattr(module, "__all__", ()):
            assert hasattr(module, name), f"{module.__name__} has no {name}"
            assert not name.startswith("_") or name == "__version__"
