"""The contributors' pages name files, classes and methods that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    name: ROOT / "packages" / f"durable-streams-{name}" / "src" / f"durable_streams_{name}"
    for name in ("server", "core", "client", "redis", "runs")
}
PAGES = ["finding-your-way.md", "writing-a-front-end.md", "caches.md"]


def defined(path: Path) -> set[str]:
    """The names that a module defines at its top, and those of its classes."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
            members = [] if not isinstance(node, ast.ClassDef) else node.body
            found |= {f"{node.name}.{m.name}" for m in members if hasattr(m, "name")}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    files = set(re.findall(r"`([\w/]+\.py)`", text))
    assert files
    roots = [ROOT, *PACKAGES.values(), *(root.parent.parent for root in PACKAGES.values())]
    missing = {file for file in files if not any((root / file).exists() for root in roots)}
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_every_name_behind_a_file_is_defined_there(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    named = re.findall(
        r"(?:(core|client|redis|runs|server) )?`([\w/]+\.py)` \(?`([A-Za-z_.]+)`", text
    )
    for package, file, name in named:
        path = PACKAGES[package or "server"] / file
        assert name in defined(path), f"{name} in {path}"


def test_the_front_ends_page_names_what_a_front_end_uses() -> None:
    messages = defined(PACKAGES["server"] / "http" / "messages.py")
    exchange = defined(PACKAGES["server"] / "http" / "exchange.py")
    assert {"RequestHead", "fold_headers", "Response", "Pending", "Live", "Sink"} <= messages
    assert {"Exchange.run", "Exchange.run_received", "Exchange.abandon"} <= exchange


def test_every_cache_is_on_the_page_of_caches() -> None:
    text = (ROOT / "docs" / "caches.md").read_text()
    makers = re.compile(r"@lru_cache|= (?:TwoGenerationCache|ByteCache|PageCache)[(\[]")
    elsewhere = {"latest_commits.py"}  # remembers for correctness, not for speed
    silent = [
        path.name
        for root in PACKAGES.values()
        for path in root.rglob("*.py")
        if "_sync" not in path.parts
        and makers.search(path.read_text())
        and path.name not in text
        and path.name not in elsewhere
    ]
    assert not silent
