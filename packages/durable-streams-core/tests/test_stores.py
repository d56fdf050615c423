"""Finding a store by its URL, and what a local store gets for nothing."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from durable_streams_core import registry
from durable_streams_core import store as interface
from durable_streams_core.entities import Applied, Commit, Delta, Guard, Head
from durable_streams_core.errors import StoreError
from durable_streams_core.registry import ENTRY_POINT_GROUP, create_store
from durable_streams_core.store import STORE_API, Store, check_api

CREATE = Commit("id", "path", Guard(None), Delta(create=Head("i", b"")))


class EntryPoint:
    def __init__(self, made: Any) -> None:
        self.made = made
        self.value = "somewhere:open_store"

    def load(self) -> Any:
        return self.made


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    points = {}

    def entry_points(*, group: Any, name: Any) -> Any:
        assert group == ENTRY_POINT_GROUP
        return [points[name]] if name in points else []

    monkeypatch.setattr(registry, "entry_points", entry_points)
    return points


def test_a_store_is_found_by_its_scheme_and_gets_the_whole_url(
    installed: Any, tiny_store: Any
) -> None:
    urls = []

    def open_store(url: Any) -> Any:
        urls.append(url)
        return tiny_store()

    installed["rocks"] = EntryPoint(open_store)
    assert isinstance(create_store("rocks:./Data"), tiny_store)
    create_store("ROCKS://Host/1")
    assert urls == ["rocks:./Data", "ROCKS://Host/1"]


@pytest.mark.parametrize("url", ["", "memory", "./data", "/data", ":memory:", ":"])
def test_what_is_no_url_is_refused_with_examples(installed: Any, url: str) -> None:
    with pytest.raises(
        StoreError, match=r"not a store URL\. Use memory:, file:PATH or redis://HOST"
    ):
        create_store(url)


@pytest.mark.parametrize(
    "url, package",
    [
        ("memory:", "durable-streams-server"),
        ("file:./data", "durable-streams-server"),
        ("redis://host", "durable-streams-redis"),
        ("rediss://host", "durable-streams-redis"),
        ("redis+cluster://host", "durable-streams-redis"),
        ("redis+sentinel://host", "durable-streams-redis"),
    ],
)
def test_a_store_that_is_not_installed_is_answered_with_its_package(
    installed: Any, url: str, package: str
) -> None:
    with pytest.raises(StoreError, match=f"pip install {package}$"):
        create_store(url)


def test_a_scheme_that_nobody_knows(installed: Any) -> None:
    with pytest.raises(StoreError, match="No installed package provides a store for nats: URLs"):
        create_store("nats://host")


def test_an_entry_point_that_makes_no_store(installed: Any) -> None:
    installed["odd"] = EntryPoint(lambda url: object())
    with pytest.raises(StoreError, match="somewhere:open_store did not make a store"):
        create_store("odd:")


def test_a_store_of_another_version_is_refused_in_one_sentence(tiny_store: Any) -> None:
    store = tiny_store()
    check_api(store)
    store.api = STORE_API + 1
    with pytest.raises(StoreError, match=f"version {STORE_API + 1} .* needs {STORE_API}"):
        check_api(store)


def test_a_store_keeps_its_version_when_the_interface_gets_another(
    tiny_store: Callable[[], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tiny_store()
    monkeypatch.setattr(interface, "STORE_API", STORE_API + 1)
    with pytest.raises(StoreError, match=f"version {STORE_API} .* needs {STORE_API + 1}"):
        check_api(store)


def test_a_store_that_states_no_version_is_refused(tiny_store: type[Store]) -> None:
    class Unversioned(tiny_store):  # type: ignore[valid-type, misc]
        @property
        def api(self) -> int:
            raise AttributeError

    with pytest.raises(StoreError, match=f"give the class `api = {STORE_API}`"):
        check_api(Unversioned())


async def test_a_local_store_may_call_back_later(tiny_store: Any) -> None:
    class Later(tiny_store):
        def submit(self, batch: Any, done: Any) -> None:
            asyncio.get_running_loop().call_soon(super().submit, batch, done)

    assert await Later().commit([CREATE]) == [Applied(0)]


async def test_a_caller_that_went_away_does_not_disturb_the_callback(tiny_store: Any) -> None:
    called = []

    class Later(tiny_store):
        def submit(self, batch: Any, done: Any) -> None:
            called.append(done)

    task = asyncio.ensure_future(Later().commit([CREATE]))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    (done,) = called
    done([Applied(0)])
    assert task.cancelled()


def test_a_store_needs_no_descriptors_unless_it_says_so(tiny_store: type[Store]) -> None:
    assert tiny_store().descriptors == 0


def test_a_store_need_not_count_itself(tiny_store: type[Store]) -> None:
    assert tiny_store().metrics() == ()
