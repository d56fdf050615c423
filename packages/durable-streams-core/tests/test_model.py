"""Random histories against a model: the protocol in plain lists, without guards, drafts or bytes.

Three properties. Operations answer and leave behind what the model says. Decided together in one
draft, they answer and leave behind what they do one by one. And a commit that is applied although
others came first is the commit that would have been decided after them; plain appends never stand
in each other's way.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, note, settings
from hypothesis import strategies as st

from durable_streams_core.content import to_page
from durable_streams_core.entities import DELETED, LIVE, Applied
from durable_streams_core.errors import ProtocolError
from durable_streams_core.offsets import NO_TIMELINE, Offset
from durable_streams_core.operations import (
    Append,
    Appended,
    Body,
    Confirm,
    Create,
    Created,
    Delete,
    Expire,
    ForgetProducers,
    Hold,
    Link,
    ProducerClaim,
    Reap,
    Touch,
    Undo,
    Unlink,
)
from durable_streams_core.streams import CreationRequest, ForkLink, Origin, birth_of, link_key

TYPES = ("text/plain", "application/json")
TTLS = (None, None, None, None, 10, 10, 10, 1000, 0)
PATHS = "abcd"

# Ordinary operations are drawn often, or most of a history would be refusals.
clocks = st.sampled_from(
    [0, 0, 0, 0, 0, 0, 1, 999, 1001, 9_999, 10_000, 11_000, 60_000, 1_100_000, -5000]
)
bodies = st.sampled_from([b"1", b"1", b"[1,2]", b"[1,2]", b"[[1]]", b'"x"', b"[]", b"{", b""])
paths = st.sampled_from("aaaaaabbbbccd")
producers = st.builds(
    ProducerClaim, st.sampled_from("ppq"), st.sampled_from([0, 0, 0, 1, 2]), st.integers(0, 2)
)


@dataclass(frozen=True)
class Ask:
    """A request of the protocol, as a client makes it."""

    verb: str
    path: str
    elapsed: int = 0
    content_type: str | None = None
    body: bytes = b""
    close: bool = False
    ttl: int | None = None
    expires: int | None = None
    seq: bytes | None = None
    producer: ProducerClaim | None = None
    expected: int | None = None
    source: str = "a"
    back: int = 0


def asks(verb: Any, **parts: Any) -> Any:
    return st.builds(Ask, st.just(verb), paths, clocks, **parts)


good = st.sampled_from([b"1", b"[1,2]", b'"x"'])
appends = st.one_of(
    asks("append", body=good),
    asks("append", body=good, producer=producers),
    asks("append", body=good, producer=producers),
    asks("append", body=good, seq=st.sampled_from([b"1", b"10", b"2"])),
    asks("append", body=good, expected=st.sampled_from([0, 1, 3, 5, 6])),
    asks("append", body=good | st.just(b""), producer=st.none() | producers, close=st.just(True)),
    asks(
        "append",
        content_type=st.none() | st.sampled_from(TYPES),
        body=bodies,
        close=st.booleans(),
        seq=st.none() | st.sampled_from([b"1", b"2"]),
        producer=st.none() | producers,
        expected=st.none() | st.sampled_from([0, 3]),
    ),
)
creations = st.one_of(
    asks("create", content_type=st.sampled_from(TYPES), ttl=st.sampled_from([None, 10])),
    asks(
        "create",
        content_type=st.sampled_from(TYPES),
        body=bodies,
        close=st.booleans(),
        ttl=st.sampled_from(TTLS),
    ),
    asks("create", content_type=st.sampled_from(TYPES), expires=st.sampled_from([5, 20_000, -1])),
)
forks = asks("fork", source=paths, back=st.integers(0, 2))
requests = st.one_of(
    *(appends, appends, appends, creations, forks, forks),
    *(asks("delete"), asks("touch"), asks("expire")),
)
beginnings = st.tuples(
    *(
        st.builds(
            Ask,
            st.just("create"),
            st.just(path),
            content_type=st.just(content_type),
            ttl=st.sampled_from(TTLS),
        )
        for path, content_type in zip("ab", TYPES, strict=True)
    )
)


def histories(steps: Any) -> Any:
    """Two streams to begin with, and what happens to them."""
    return st.builds(
        lambda begin, rest: [*begin, *rest], beginnings, st.lists(steps, min_size=5, max_size=30)
    )


# The model


class No(Exception):
    """A refusal, by its code."""


@dataclass
class Stream:
    """Messages are a list: bytes of text one by one, JSON values as texts."""

    content_type: str
    ttl: int | None
    expires: int | None
    asked: tuple
    inherited: list
    source: "Stream | None" = None
    messages: list = field(default_factory=list)
    closed: bool = False
    deleted: bool = False
    seq: bytes = b""
    producers: dict = field(default_factory=dict)
    forks: int = 0
    used: int = 0

    def split(self, body: Any, *, creating: Any = False) -> Any:
        if not body:
            return []
        if self.content_type == "text/plain":
            return [body[n : n + 1] for n in range(len(body))]
        if body == b"{":
            raise No("invalid-json")
        if body == b"[]" and not creating:
            raise No("empty-array")
        return {b"1": ["1"], b"[1,2]": ["1", "2"], b"[[1]]": ["[1]"], b"[]": [], b'"x"': ['"x"']}[
            body
        ]

    def size(self) -> Any:
        unit = (lambda m: 1) if self.content_type == "text/plain" else (lambda m: len(m) + 2)
        return sum(map(unit, [*self.inherited, *self.messages]))

    def over(self, now: Any) -> Any:
        """A life is renewed in steps of a tenth, so it is the stored step that counts."""
        if self.ttl is not None:
            return now >= self.used + self.ttl * 1100
        return self.expires is not None and now >= self.expires

    def use(self, now: Any) -> None:
        if self.ttl is not None and now - self.used > self.ttl * 100:
            self.used = now


class Model:
    def __init__(self) -> None:
        self.streams = {}

    def served(self, path: Any, now: Any) -> Any:
        stream = self.streams.get(path)
        if stream is None:
            raise No("not-found")
        if stream.deleted:
            raise No("gone")
        if stream.over(now):
            raise No("not-found")
        return stream

    def create(
        self, ask: Any, now: Any, asked: Any, inherited: Any = (), source: Any = None
    ) -> Any:
        stream = self.streams.get(ask.path)
        if stream is not None and not stream.deleted and stream.over(now):
            self.drop(ask.path)
            stream = self.streams.get(ask.path)
        if stream is not None:
            if stream.deleted:
                raise No("soft-deleted")
            if (asked, ask.close) != (stream.asked, stream.closed):
                raise No("configuration-mismatch")
            return False, stream.size(), stream.closed
        content_type, ttl, expires = ask.content_type, ask.ttl, None
        if ask.expires is not None:
            expires = now + ask.expires
        if source is not None:
            content_type, ttl, expires = source.content_type, source.ttl, source.expires
        new = Stream(content_type, ttl, expires, asked, list(inherited), source, used=now)
        new.messages = new.split(ask.body, creating=True)
        new.closed = ask.close
        self.streams[ask.path] = new
        return True, new.size(), new.closed

    def append(self, ask: Any, now: Any) -> Any:
        stream = self.served(ask.path, now)
        claim = ask.producer
        entry = None
        if claim is not None:
            entry = stream.producers.get(claim.id)
            if entry is not None and claim.epoch < entry[0]:
                raise No("producer-fenced")
            if entry is not None and claim.epoch == entry[0] and claim.seq <= entry[1]:
                return stream.size(), stream.closed, True, *entry
        if stream.closed:
            if ask.close and not ask.body and claim is None:
                return stream.size(), True
            raise No("stream-closed")
        if claim is not None:
            wanted = entry[1] + 1 if entry is not None and claim.epoch == entry[0] else 0
            if claim.seq != wanted:
                new_epoch = entry is not None and claim.epoch > entry[0]
                raise No("epoch-starts-at-zero" if new_epoch else "producer-sequence-gap")
        if not ask.body and not ask.close:
            raise No("empty-body")
        if ask.body and ask.content_type not in (None, stream.content_type):
            raise No("content-type-mismatch")
        messages = stream.split(ask.body)
        if ask.expected is not None and ask.expected != stream.size():
            raise No("tail-moved")
        if ask.seq is not None and ask.seq <= stream.seq:
            raise No("sequence-regression")
        stream.messages += messages
        stream.seq = stream.seq if ask.seq is None else ask.seq
        stream.closed = ask.close
        stream.use(now)
        if claim is None:
            return stream.size(), stream.closed
        stream.producers[claim.id] = claim.epoch, claim.seq
        return stream.size(), stream.closed, False, claim.epoch, claim.seq

    def fork(self, ask: Any, now: Any) -> Any:
        source = self.served(ask.source, now)
        everything = [*source.inherited, *source.messages]
        inherited = everything[: max(0, len(everything) - ask.back)]
        made = Stream(source.content_type, None, None, (), inherited)
        asked = ("fork", ask.source, made.size())
        answer = self.create(ask, now, asked, inherited, source)
        if answer[0]:
            source.forks += 1
        return answer

    def drop(self, path: Any) -> None:
        stream = self.streams[path]
        if stream.forks:
            stream.deleted = True
            return
        del self.streams[path]
        source = stream.source
        if source is not None:
            source.forks -= 1
            if source.deleted and not source.forks:
                (above,) = [path for path, other in self.streams.items() if other is source]
                self.drop(above)

    def ask(self, ask: Any, now: Any) -> Any:
        try:
            if ask.verb == "create":
                expires = None if ask.expires is None else now + ask.expires
                return self.create(ask, now, (ask.content_type, ask.ttl, expires))
            if ask.verb in ("append", "fork"):
                return getattr(self, ask.verb)(ask, now)
            if ask.verb == "delete":
                self.served(ask.path, now)
                self.drop(ask.path)
            stream = self.streams.get(ask.path)
            if stream is not None and not stream.deleted:
                if ask.verb == "touch" and not stream.over(now):
                    stream.use(now)
                elif ask.verb == "expire" and stream.over(now):
                    self.drop(ask.path)
        except No as refusal:
            return str(refusal)
        return None


# The same requests as operations


class Server:
    """What an engine does, as plainly as can be."""

    def __init__(self, runner: Any) -> None:
        self.runner = runner
        self.made = 0

    def fresh(self) -> Any:
        self.made += 1
        return f"i{self.made}"

    def creation(self, ask: Any, now: Any) -> Any:
        expires = None if ask.expires is None else now + ask.expires
        asked = CreationRequest(ask.content_type, ask.ttl, expires)
        return Create(
            self.fresh(), asked, ask.content_type, ask.ttl, expires, ask.close, Body(ask.body)
        )

    @staticmethod
    def addition(ask: Any, head: Any = None) -> Any:
        expected = None
        if ask.expected is not None:
            timeline = NO_TIMELINE if head is None else head.timeline_at(ask.expected)
            expected = Offset(timeline, ask.expected)
        return Append(Body(ask.body), ask.content_type, ask.close, ask.seq, ask.producer, expected)

    def do(self, operation: Any, path: Any) -> Any:
        answer = self.runner.do(operation, path=path)
        if isinstance(answer, ProtocolError):
            raise answer
        return answer

    def fork(self, ask: Any, now: Any) -> Any:
        runner = self.runner
        taken = runner.head(ask.path)
        self.do(Link("probe", "none", ForkLink("none", 0)), ask.source)
        head = runner.head(ask.source)
        birth = birth_of(head)
        # Positions are where messages end, counted from behind.
        stored = self.everything(ask.source)
        if birth.content_type == "text/plain":
            position = max(0, len(stored) - ask.back)
        else:
            ends = [0, *(n + 1 for n, byte in enumerate(stored) if byte == 10)]
            position = ends[max(0, len(ends) - 1 - ask.back)]
        asked = CreationRequest(forked_from=ask.source, fork_offset=position)
        incarnation = self.fresh()
        origin = Origin(ask.source, head.incarnation)
        create = Create(
            incarnation, asked, birth.content_type, birth.ttl, birth.expires_at,
            origin=origin, start=position,
        )  # fmt: skip
        if ask.path == ask.source or (taken is not None and taken.state == DELETED):
            return self.do(create, ask.path)
        if taken is not None:
            self.sweep(ask.path)
        assert self.do(
            Link(ask.path, head.incarnation, ForkLink(incarnation, position)), ask.source
        )
        try:
            answer = self.do(create, ask.path)
        except ProtocolError:
            self.release(origin, ask.path, incarnation)
            raise
        if not answer.new:
            self.release(origin, ask.path, incarnation)
            return answer
        assert self.do(Hold(ask.path, incarnation), ask.source)
        assert self.do(Confirm(incarnation), ask.path)
        return answer

    def everything(self, path: Any, end: Any = None) -> Any:
        """All bytes of a stream, its sources' included."""
        head = self.runner.head(path)
        own = self.runner.data(path)[: None if end is None else end - head.start]
        origin = birth_of(head).origin
        if origin is None:
            return own
        assert self.runner.head(origin.path).incarnation == origin.incarnation
        before = self.everything(origin.path, min(head.start, end or head.start))
        return before + own if end is None or end > head.start else before

    def release(self, origin: Any, path: Any, incarnation: Any) -> None:
        self.do(Unlink(path, incarnation), origin.path)
        self.removed(self.do(Reap(), origin.path), origin.path)

    def removed(self, answer: Any, path: Any) -> None:
        if answer.head is not None:
            origin = birth_of(answer.head).origin
            if origin is not None:
                self.release(origin, path, answer.head.incarnation)

    def sweep(self, path: Any) -> None:
        self.removed(self.do(Expire(), path), path)

    def ask(self, ask: Any, now: Any) -> Any:
        try:
            if ask.verb == "create":
                self.sweep(ask.path)
                answer = self.do(self.creation(ask, now), ask.path)
            elif ask.verb == "append":
                answer = self.do(self.addition(ask, self.runner.head(ask.path)), ask.path)
            elif ask.verb == "fork":
                answer = self.fork(ask, now)
            elif ask.verb == "touch":
                return self.do(Touch(), ask.path)
            else:
                operation = Delete() if ask.verb == "delete" else Expire()
                self.removed(self.do(operation, ask.path), ask.path)
                return None
        except ProtocolError as error:
            return error.code
        if isinstance(answer, Created):
            return answer.new, answer.tail, answer.closed
        found = answer.tail, answer.closed
        return found if ask.producer is None or answer.epoch < 0 else (
            *found, answer.duplicate, answer.epoch, answer.seq
        )  # fmt: skip


def shown(model: Any, stream: Any) -> Any:
    messages = [*stream.inherited, *stream.messages]
    if stream.content_type == "text/plain":
        return b"".join(messages)
    return b"[" + ",\n".join(messages).encode() + b"]"


@settings(max_examples=400)
@given(histories(requests))
def test_histories_are_those_of_the_model(new_runner: Any, history: Any) -> None:
    model, server = Model(), Server(new_runner())
    runner = server.runner
    for ask in history:
        runner.now += ask.elapsed
        note(f"{runner.now} {ask}")
        assert server.ask(ask, runner.now) == model.ask(ask, runner.now)
        for path in PATHS:
            stream, head = model.streams.get(path), runner.head(path)
            assert (stream is None) == (head is None)
            if stream is not None:
                assert (head.state == DELETED) == stream.deleted
                assert (head.tail, head.closed) == (stream.size(), stream.closed)
                kind = birth_of(head).kind
                assert to_page(kind, server.everything(path)) == shown(model, stream)


# One draft or many

LINKS = [ForkLink(f"f{n}", n) for n in range(2)]

on_one_path = st.one_of(
    *(appends, appends, appends, creations, asks("delete"), asks("touch"), asks("expire")),
    st.sampled_from(LINKS).map(lambda link: Link("fork", "i0", link)),
    st.sampled_from(LINKS).map(lambda link: Hold("fork", link.incarnation)),
    st.sampled_from(LINKS).map(lambda link: Unlink("fork", link.incarnation)),
    st.just(Reap()),
    st.sampled_from([Confirm("i0"), Undo("i0"), ForgetProducers("i0", [("pp", b"x")])]),
)
first = st.builds(
    Ask,
    st.just("create"),
    st.just("path"),
    content_type=st.just("text/plain"),
    ttl=st.sampled_from([None, 10]),
)


def operations(history: Any, begin: Any) -> Iterator[Any]:
    """Each request as the operation that it becomes, with its time."""
    server = Server(None)
    server.made = -1
    now = begin
    for step in history:
        if not isinstance(step, Ask):
            yield now, step
            continue
        now += step.elapsed
        match step.verb:
            case "create":
                yield now, server.creation(step, now)
            case "append":
                yield now, server.addition(step)
            case verb:
                yield now, {"delete": Delete(), "touch": Touch(), "expire": Expire()}[verb]


def told(answer: Any) -> Any:
    if isinstance(answer, Exception):
        return type(answer), getattr(answer, "code", ""), str(answer)
    if isinstance(answer, Created):
        # The head of one found is that of its beginning or of now: the same stream.
        return answer.new, answer.head.incarnation, answer.tail, answer.closed
    return getattr(answer, "head", None) is None if hasattr(answer, "head") else answer


def run(runner: Any, steps: Any, together: Any) -> Any:
    answers = []
    steps = list(steps)
    while steps:
        size = max(1, together.pop() if together else 1)
        several, steps = steps[:size], steps[size:]
        for place, (_, operation) in enumerate(several[:-1]):
            # No guard can say that the link which a draft drops is the last one, so what
            # follows in the same draft cannot know it: here it comes in the next.
            if isinstance(operation, Unlink):
                steps = several[place + 1 :] + steps
                several = several[: place + 1]
                break
        for place, (_, operation) in enumerate(several):
            # A stream that is created and deleted in one commit never reaches the store, which so
            # gives its timeline again within the same millisecond: the deletion comes in the next.
            if place and isinstance(operation, Delete | Undo):
                steps = several[place:] + steps
                several = several[:place]
                break
        draft, _ = runner.draft()
        fields = [key for _, operation in several for key in operation.fields]
        draft = type(draft)("path", runner.facts(*fields))
        for now, operation in several:
            runner.now = now
            answers.append(told(runner.answer(operation, draft)))
        outcome = runner.commit(draft)
        assert outcome is None or outcome.tail == draft.tail
    return answers


@settings(max_examples=400)
@given(first, st.lists(on_one_path, max_size=14), st.lists(st.integers(1, 6), max_size=8))
def test_operations_decided_together_do_what_they_do_one_by_one(
    new_runner: Any, begin: Any, history: Any, together: Any
) -> None:
    one, many = new_runner(), new_runner()
    steps = list(operations([begin, *history], one.now))
    assert run(one, steps, []) == run(many, steps, together)
    keys = ["pp", "pq", "s", *(link_key("fork", link.incarnation) for link in LINKS)]
    assert one.facts(*keys) == many.facts(*keys)
    if one.head() is not None:
        assert one.data() == many.data()


# Guards


def certain(answer: Any) -> Any:
    """What can only be true together with the commit."""
    if isinstance(answer, Appended):
        return not answer.duplicate
    return isinstance(answer, Created) and answer.new


@settings(max_examples=600)
@given(
    first,
    st.lists(on_one_path, max_size=5),
    st.lists(on_one_path, min_size=1, max_size=3),
    st.lists(on_one_path, min_size=1, max_size=3),
)
def test_a_commit_is_applied_late_only_if_it_would_be_decided_so_then(
    new_runner: Any, begin: Any, before: Any, mine: Any, theirs: Any
) -> None:
    runner, again = new_runner(), new_runner()
    steps = list(operations([begin, *before, *mine, *theirs], runner.now))
    past, mine, theirs = (
        steps[: 1 + len(before)], steps[1 + len(before) :][: len(mine)], steps[-len(theirs) :],
    )  # fmt: skip
    for each in (runner, again):
        run(each, past, [])
    fields = [key for _, operation in mine for key in operation.fields]
    draft = type(runner.draft()[0])("path", runner.facts(*fields))
    answers = []
    for now, operation in mine:
        runner.now = now
        answers.append(runner.answer(operation, draft))
    for each in (runner, again):
        run(each, theirs, [])
    if not draft.changes or not isinstance(outcome := runner.commit(draft), Applied):
        return
    late = type(draft)("path", again.facts(*fields))
    for (now, operation), early in zip(mine, answers, strict=True):
        again.now = now
        answer = again.answer(operation, late)
        if certain(early):
            assert told(answer) == told(type(early)(*shift(early, outcome.tail - draft.tail)))
    again.commit(late)
    assert again.head() is None or again.head().tail == runner.head().tail
    assert again.head() is None or again.data() == runner.data()


def shift(answer: Any, by: Any) -> Any:
    values = {name: getattr(answer, name) for name in answer.__struct_fields__}
    values["tail"] += by
    return values.values()


plain = asks("append", body=st.sampled_from([b"1", b"22"]))


@given(
    st.lists(plain, min_size=1, max_size=3),
    st.lists(plain | asks("touch"), min_size=1, max_size=5),
    st.sampled_from([None, 10]),
)
def test_unrelated_changes_do_not_conflict(
    new_runner: Any, mine: Any, theirs: Any, ttl: Any
) -> None:
    runner = new_runner()
    runner.do(Create("i0", CreationRequest(ttl=ttl), "text/plain", ttl))
    mine_producer = [
        Append(Body(a.body), producer=ProducerClaim("m", 0, n)) for n, a in enumerate(mine)
    ]
    draft, _ = runner.draft(*mine_producer)
    runner.now += 2000
    for n, ask in enumerate(theirs):
        runner.do(Append(Body(b"x"), producer=ProducerClaim("t", 0, n), seq=b"%d" % n))
        runner.do(Touch() if ask.verb == "touch" else Append(Body(ask.body)))
        runner.do(Link("fork", "i0", ForkLink(f"f{n}", 0)))
    before = runner.head().tail
    assert runner.commit(draft).tail == before + draft.tail
    assert runner.head().state == LIVE
