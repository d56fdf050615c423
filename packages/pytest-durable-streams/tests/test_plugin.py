"""The plugin beside the others that run tests, and on its own."""

import subprocess
import sys
from textwrap import dedent

import pytest

import pytest_durable_streams

# Kept in memory, or each run within this one would import server and client anew.
from pytest_durable_streams import Faults, StreamsClock, StreamsServer, client_for  # noqa: F401

TEST = """
    {mark}
    async def test_it(async_streams_client, streams_faults, streams_engine{more}):
        stream = async_streams_client.stream("a")
        await stream.create(content_type="application/json")
        with streams_faults.outage():
            pass
        items = stream.follow().items()
        await stream.append(1)
        assert await anext(items) == 1
        async with streams_engine as engine:
            await engine.create("a")
        assert (await async_streams_client.stream("a").head()).offset

    def test_sync(streams_client):
        assert streams_client.stream("a").create().created
"""
INI = """
[pytest]
addopts = -p no:cacheprovider -p pytest_durable_streams.plugin {plugins}
filterwarnings = error
{options}
"""


@pytest.fixture(autouse=True)
def _only_named_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading all that are installed would take longer than the tests."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def write(
    pytester: pytest.Pytester, mark: str, *plugins: str, options: str = "", more: str = ""
) -> None:
    pytester.makeini(
        INI.format(plugins=" ".join(f"-p {plugin}" for plugin in plugins), options=options)
    )
    pytester.makepyfile("import pytest\n" + dedent(TEST).format(mark=mark, more=more))


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_it_works_with_pytest_asyncio(pytester: pytest.Pytester, mode: str) -> None:
    options = f"asyncio_default_fixture_loop_scope = function\nasyncio_mode = {mode}"
    write(pytester, "@pytest.mark.asyncio", "pytest_asyncio.plugin", options=options)
    pytester.runpytest_inprocess().assert_outcomes(passed=2)


def test_it_works_with_a_loop_that_lasts_for_the_module(pytester: pytest.Pytester) -> None:
    options = "asyncio_default_fixture_loop_scope = module"
    mark = '@pytest.mark.asyncio(loop_scope="module")'
    write(pytester, mark, "pytest_asyncio.plugin", options=options)
    pytester.runpytest_inprocess().assert_outcomes(passed=2)


def test_it_works_with_anyio(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture
        def anyio_backend():
            return "asyncio"
        """
    )
    write(pytester, "@pytest.mark.anyio", "anyio.pytest_plugin", more=", anyio_backend")
    pytester.runpytest_inprocess().assert_outcomes(passed=2)


def test_it_works_in_parallel_and_without_a_plugin_for_async_tests(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeini(INI.format(plugins="-p xdist.plugin", options=""))
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("n", range(8))
        def test_it(streams_client, n):
            assert streams_client.stream("a").create().created
        """
    )
    pytester.runpytest_subprocess("-n", "2").assert_outcomes(passed=8)


def test_a_fixture_says_what_it_is(pytester: pytest.Pytester) -> None:
    pytester.makeini(INI.format(plugins="", options=""))
    result = pytester.runpytest_inprocess("--fixtures")
    for name in "server", "client", "faults", "engine", "clock":
        result.stdout.fnmatch_lines([f"*streams_{name}* -- *"])


def test_a_run_that_uses_no_fixture_imports_neither_server_nor_client() -> None:
    code = (
        "import sys, pytest_durable_streams.plugin\n"
        "print([name for name in sys.modules if name.startswith('durable_streams')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_is_there() -> None:
    for name in pytest_durable_streams.__all__:
        assert getattr(pytest_durable_streams, name).__doc__
    with pytest.raises(AttributeError):
        pytest_durable_streams.nothing  # noqa: B018 - that it raises is the point
