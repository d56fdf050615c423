"""Exported functions say what they raise."""

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator

import pytest

PACKAGES = [f"durable_streams_{name}" for name in ("core", "server", "client", "redis", "runs")]


def exported(package: str) -> Iterator[tuple[str, object, str]]:
    """Each exported function and public method, with the docstrings that speak of it."""
    module = importlib.import_module(package)
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isfunction(thing):
            yield name, thing, thing.__doc__ or ""
        elif inspect.isclass(thing) and not issubclass(thing, BaseException):
            for member, function in vars(thing).items():
                if inspect.isfunction(function) and not member.startswith("_"):
                    yield f"{name}.{member}", function, function.__doc__ or ""


def raised(function: object) -> set[str]:
    """The errors in the raise statements of a function's own body."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))  # type: ignore[arg-type]
    return {
        ast.unparse(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and node.exc is not None
    } - {"NotImplementedError", "StopIteration", "StopAsyncIteration"}


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_exported_says_what_it_raises(package: str) -> None:
    silent = {
        name: errors
        for name, function, docstring in exported(package)
        if (errors := raised(function)) and "aise" not in docstring
    }
    assert not silent
