"""Plain appends go to a store without a commit, and just as with one."""

from functools import partial
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from durable_streams_core.drafts import Draft
from durable_streams_core.entities import Applied, Delta
from durable_streams_core.errors import ProtocolError
from durable_streams_core.operations import Append, Appended, Body, Create, Operation, ProducerClaim
from durable_streams_core.streams import CreationRequest
from durable_streams_server.engine.plain_appends import added_by, appended_by
from durable_streams_server.stores.memory import MemoryStore

NOW = 1_000_000_000_000
PATH = "s"


def store_with(content_type: str, ttl: int | None, earlier: list[Append]) -> MemoryStore:
    """A store with one stream that took some appends."""
    store = MemoryStore(clock=lambda: NOW)
    requested = CreationRequest(content_type, ttl)
    creation = Create("i", requested, content_type, ttl, None, False, Body(b""))
    operations: list[Operation[Any]] = [creation, *earlier]
    for number, operation in enumerate(operations):
        draft = Draft(PATH, store.peek(PATH, operation.fields))
        try:
            operation.decide(draft, NOW)
        except ProtocolError:
            continue
        store.commit_nowait([draft.commit(partial(str, number))])
    return store


appends = st.builds(
    Append,
    body=st.sampled_from([b'{"n":1}', b"[1,2]", b"nothing {", b""]).map(Body),
    close=st.sampled_from([False, False, False, True]),
    seq=st.sampled_from([None, None, None, b"1"]),
    producer=st.none()
    | st.builds(ProducerClaim, st.sampled_from(["p", "q"]), st.integers(0, 1), st.integers(0, 2)),
)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    content_type=st.sampled_from(["application/json", "application/octet-stream"]),
    ttl=st.sampled_from([None, 60]),
    earlier=st.lists(appends, max_size=4),
    operation=appends,
)
def test_an_append_without_a_commit_is_what_a_draft_would_commit(
    content_type: str, ttl: int | None, earlier: list[Append], operation: Append
) -> None:
    store = store_with(content_type, ttl, earlier)
    facts = store.peek(PATH, operation.fields)
    assert facts is not None
    draft = Draft(PATH, facts)
    result: Appended | ProtocolError
    try:
        result = operation.decide(draft, NOW)
    except ProtocolError as error:
        result = error
    try:
        added = added_by(store, operation, facts)
    except ProtocolError as error:
        assert type(error) is type(result)
        return
    if added is not None:
        data, fields = added
        commit = draft.commit(lambda: "id")
        assert commit.delta == Delta(data=data, fields=fields)
        (outcome,) = store.commit_nowait([commit])
        assert isinstance(outcome, Applied)
        assert appended_by(operation, outcome.tail, outcome.timeline) == result


def test_an_append_with_nothing_but_data_needs_no_commit() -> None:
    operation = Append(Body(b"x"))
    store = store_with("text/plain", None, [])
    facts = store.peek(PATH)
    assert facts is not None
    assert added_by(store, operation, facts) == (b"x", {})
