"""The package as its user sees it: its names, their help, their place in tracebacks."""

import ast
import inspect
import pickle
import pydoc
from graphlib import TopologicalSorter
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pytest

import durable_streams_client as ds

SOURCES: Final = Path(ds.__file__).parent
OBJECTS: Final = {name: getattr(ds, name) for name in ds.__all__}
OURS: Final = {
    name: each
    for name, each in OBJECTS.items()
    if inspect.isclass(each) or inspect.isfunction(each)
}
ROLES: Final = (":meth:", ":class:", ":func:", ":exc:", ":attr:", ":mod:", "~durable")


def public_members(kind: type) -> dict[str, Any]:
    """Methods and properties that the class itself defines for its users."""
    return {
        name: member
        for name, member in vars(kind).items()
        if not name.startswith("_") and (callable(member) or isinstance(member, property))
    }


def test_it_knows_its_version() -> None:
    assert ds.__version__ == version("durable-streams-client")


@pytest.mark.parametrize("name", ["Client", "AsyncClient"])
def test_the_help_of_a_client_shows_its_public_names_only(name: str) -> None:
    text = pydoc.plain(pydoc.render_doc(OURS[name]))
    assert "stream(self, name: str" in text
    for internal in ("_sync", "_async", "<function", "<built-in", *ROLES):
        assert internal not in text


@pytest.mark.parametrize("name", OURS)
def test_docstrings_are_plain_text_without_roles(name: str) -> None:
    each = OURS[name]
    members = public_members(each) if inspect.isclass(each) else {}
    for documented in (each, *members.values()):
        assert not [role for role in ROLES if role in (inspect.getdoc(documented) or "")]


@pytest.mark.parametrize("name", OURS)
def test_signatures_name_types_as_users_import_them(name: str) -> None:
    each = OURS[name]
    members = public_members(each) if inspect.isclass(each) else {name: each}
    signatures = [str(inspect.signature(each)) for each in members.values() if callable(each)]
    assert not [text for text in signatures if "._sync" in text or "._async" in text]


@pytest.mark.parametrize("name", OURS)
def test_everything_public_has_a_docstring_of_its_own(name: str) -> None:
    each = OURS[name]
    assert each.__doc__, f"{name} has none"
    if inspect.isclass(each):
        bare = [member for member, value in public_members(each).items() if not value.__doc__]
        assert not bare, f"of {name}"


@pytest.mark.parametrize("name", OURS)
def test_everything_public_says_that_it_belongs_to_the_package(name: str) -> None:
    assert OURS[name].__module__ in {"durable_streams_client", "durable_streams_core.errors"}


def test_an_error_that_was_pickled_is_of_the_same_class() -> None:
    error = pickle.loads(pickle.dumps(ds.StreamClosed("The stream is closed.")))
    assert type(error) is ds.StreamClosed


def imports(path: Path) -> set[Path]:
    """The modules of this package that a module imports, for types too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            base, *parts = node.module.split(".")
            if base == ds.__name__:
                place = SOURCES.joinpath(*parts)
                found.add(place.with_suffix(".py"))
                found |= {(place / alias.name).with_suffix(".py") for alias in node.names}
    return {each for each in found if each.exists()}


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {path: imports(path) for path in SOURCES.rglob("*.py") if path.name != "__init__.py"}
    assert len(graph) > 20
    assert any(graph.values())
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
