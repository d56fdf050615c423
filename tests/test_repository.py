"""The files of the repository agree with each other."""

import importlib
import json
import re
import tomllib
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = [
    "durable-streams-core",
    "durable-streams-server",
    "durable-streams-client",
    "durable-streams-redis",
    "durable-streams-runs",
    "pytest-durable-streams",
]


def pyproject(package: str) -> dict:
    path = ROOT / "packages" / package / "pyproject.toml"
    return tomllib.loads(path.read_text())


@pytest.mark.parametrize("package", PACKAGES)
def test_every_distribution_carries_the_licence(package: Any) -> None:
    copy = ROOT / "packages" / package / "LICENSE"
    assert copy.read_text() == (ROOT / "LICENSE").read_text()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_module_knows_the_version_that_its_distribution_has(package: Any) -> None:
    module = importlib.import_module(package.replace("-", "_"))
    assert module.__version__ == metadata(package)["Version"]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_built_package_is_typed(package: Any) -> None:
    module = importlib.import_module(package.replace("-", "_"))
    assert Path(module.__file__).with_name("py.typed").exists()


SIBLINGS = [
    (package, requirement)
    for package in PACKAGES
    for requirement in pyproject(package)["project"]["dependencies"]
    if requirement.startswith("durable-streams-")
]


@pytest.mark.parametrize("package, requirement", SIBLINGS)
def test_a_sibling_is_wanted_in_a_range_that_holds_the_one_of_this_repository(
    package: str, requirement: str
) -> None:
    name, low, below = re.fullmatch(r"([a-z-]+)>=([\d.]+),<([\d.]+)", requirement).groups()
    here = pyproject(name)["project"]["version"]

    def numbers(version: Any) -> Any:
        return [int(part) for part in version.split(".")]

    assert numbers(low) <= numbers(here) < numbers(below)


def test_lock_files_name_no_place_to_download_from() -> None:
    lock = json.loads((ROOT / "conformance" / "package-lock.json").read_text())
    assert not [name for name, entry in lock["packages"].items() if "resolved" in entry]
    assert [name for name, entry in lock["packages"].items() if name and "integrity" in entry]
    assert "://" not in (ROOT / "constraints.txt").read_text()


def test_everything_that_a_package_needs_has_a_locked_version() -> None:
    locked = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    wanted = set()
    for package in PACKAGES:
        declared = pyproject(package)
        wanted.update(declared["build-system"]["requires"], declared["project"]["dependencies"])
        wanted.update(*declared["project"].get("optional-dependencies", {}).values())
        wanted.update(*declared["dependency-groups"].values())
    names = {re.match(r"[\w.-]+", requirement)[0] for requirement in wanted}
    missing = names - {*locked, *PACKAGES}
    assert not missing, "run `nox -s lock`"


@pytest.mark.parametrize("page", ["README.md", "docs/installing.md", "docs/getting-started.md"])
def test_pages_say_where_the_packages_can_be_had(page: str) -> None:
    """From a clone until the changelog has a dated release, and from PyPI after that."""
    released = re.search(r"— \d{4}-\d\d-\d\d", (ROOT / "CHANGELOG.md").read_text())
    text = (ROOT / page).read_text()
    assert ("not on PyPI yet" in text) == (released is None)
    assert ("pip install durable-streams-" in text) == (released is not None)


def test_only_these_pages_say_how_to_install() -> None:
    pages = [*ROOT.glob("packages/*/README.md"), *(ROOT / "docs").glob("*.md")]
    named = {page.name for page in pages if re.search("pip install .*durable", page.read_text())}
    assert named == {"installing.md", "getting-started.md"}


def test_ci_runs_the_command_that_the_readme_gives() -> None:
    command = re.search(
        r"^python3 -m venv .*/nox$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE
    )
    assert command[0] in (ROOT / "README.md").read_text()


def test_every_local_link_in_the_readme_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_package_is_known_here_and_to_nox() -> None:
    assert {path.name for path in (ROOT / "packages").iterdir()} == {*PACKAGES}
    short = {name.removeprefix("durable-streams-").partition("-")[0] for name in PACKAGES}
    known = re.search(
        r"^COVERAGE = \{(.*?)\}", (ROOT / "noxfile.py").read_text(), re.MULTILINE | re.DOTALL
    )[1]
    assert set(re.findall(r'"(\w+)":', known)) == short
