"""What changes streams: POST, PUT and DELETE (§5.1 to §5.4)."""

from collections.abc import Callable, Iterator
from time import perf_counter

import msgspec

from durable_streams_core.errors import InvalidRequest, NotFound, PreconditionFailed, ProtocolError
from durable_streams_core.offsets import Offset
from durable_streams_core.operations import (
    EMPTY_BODY,
    Append,
    Appended,
    Body,
    Create,
    Created,
    Delete,
    ProducerClaim,
    empty_append,
)
from durable_streams_core.streams import CreationRequest, birth_of
from durable_streams_server.engine.arguments import LARGE_JSON, is_large_json
from durable_streams_server.http import headers, names
from durable_streams_server.http.conditions import Conditions, parse_conditions
from durable_streams_server.http.exchange import Exchange
from durable_streams_server.http.messages import AnyResponse, RequestHead, Response
from durable_streams_server.http.parsing import (
    parse_closed,
    parse_creation,
    parse_if_match,
    parse_producer,
    parse_seq,
)


class Terms(msgspec.Struct, frozen=True):
    """The headers of an append."""

    content_type: str | None
    close: bool = False
    seq: bytes | None = None
    producer: ProducerClaim | None = None
    expected: Offset | None = None
    conditions: Conditions | None = None


def parse_terms(request: RequestHead) -> Terms:
    producer = parse_producer(request)
    if request.ordinary:
        return Terms(request.text(names.CONTENT_TYPE), producer=producer)
    close = parse_closed(request)
    seq = parse_seq(request)
    expected = parse_if_match(request)
    conditions = parse_conditions(request)
    if expected is not None and conditions is not None and conditions.if_none_match is None:
        # The commit itself compares it, and knows a producer's resend first.
        conditions = None
    return Terms(request.text(names.CONTENT_TYPE), close, seq, producer, expected, conditions)


class Appending(Exchange):
    """POST: append, close, or both."""

    takes_body = True
    appends = True
    _terms: Terms | None = None

    def _respond(self, body: bytes) -> AnyResponse:
        terms = self._terms
        if terms is None:
            # Once, and after access was permitted: an error tells something too.
            terms = self._terms = parse_terms(self.request)
        content_type = terms.content_type
        producer = terms.producer
        if body:
            if content_type is None:
                raise InvalidRequest(
                    "An append needs a Content-Type, that of the stream.",
                    code="missing-content-type",
                )
            content = Body(body)
        else:
            if not terms.close:
                raise empty_append()
            content, content_type = EMPTY_BODY, None
        operation = Append(content, content_type, terms.close, terms.seq, producer, terms.expected)
        respond = self._stored if body and producer is not None else self._appended
        if terms.conditions is not None:
            return self._later(self._append_if(operation, terms.conditions, respond))
        if len(body) >= LARGE_JSON and is_large_json(content, content_type or ""):
            return self._later(self._append_large(operation, respond))
        began = perf_counter() if self._context.times_commits else 0.0
        appended = self._engine.perform_nowait(self.path, operation)
        if appended is not None:
            if began:
                self.committed = began, perf_counter()
            return respond(appended)
        return self._submit(operation, respond)

    def look_ahead(self) -> None:
        """A body for what cannot be appended to is not worth receiving."""
        if self.verdict is None:
            try:
                terms = self._terms = parse_terms(self.request)
                # Without a type, what is wrong depends on whether there is a body.
                if terms.content_type is not None:
                    self._engine.head_nowait(self.path)
            except ProtocolError as error:
                self.verdict = self.problem(error)

    async def _append_if(
        self,
        operation: Append,
        conditions: Conditions,
        respond: Callable[[Appended], Response],
    ) -> Response:
        _, tail = await conditions.check(self._engine, self.path)
        operation = msgspec.structs.replace(operation, expected=tail)
        return await self._append_large(operation, respond)

    async def _append_large(
        self, operation: Append, respond: Callable[[Appended], Response]
    ) -> Response:
        await self._engine.prepare(operation.body, operation.content_type or "")
        return respond(await self._engine.perform(self.path, operation))

    def _appended(self, appended: Appended, status: int = 204) -> Response:
        return Response(
            status,
            lines=self._context.common_headers.appended_lines(self._common, appended),
        )

    def _stored(self, appended: Appended) -> Response:
        """A producer's batch: 200 where it is new, 204 where it was stored before (§5.2.1)."""
        return self._appended(appended, 204 if appended.duplicate else 200)


class Creating(Exchange):
    """PUT: create, ensure, fork."""

    takes_body = True
    one_question = False
    _requested: CreationRequest | None = None
    _charged = False
    """Whether the principal has paid for a new stream."""

    def _questions(self, action: str) -> Iterator[tuple[str, str]]:
        yield from super()._questions(action)
        assert self._requested is not None
        source = self._requested.forked_from
        if source is not None:
            # A fork shows its source's data.
            yield "read", source

    def _check_head(self) -> None:
        super()._check_head()
        public_root = self._context.public_path + self.request.root
        self._requested = parse_creation(self.request, public_root, self._context.options.max_path)

    def _respond(self, body: bytes) -> AnyResponse:
        requested = self._requested
        assert requested is not None
        self._charge_stream()
        closed = parse_closed(self.request)
        content = Body(body) if body else EMPTY_BODY
        conditions = parse_conditions(self.request)
        if conditions is not None:
            return self._later(self._create_if(requested, content, conditions, closed=closed))
        if requested.forked_from is not None:
            return self._later(self._fork(requested, content, closed=closed))
        operation: Create = self._engine.creation(requested, content, closed=closed)
        if body and is_large_json(content, operation.content_type):
            return self._later(self._create_large(operation))
        return self._submit(operation, self._created)

    async def _create_if(
        self, requested: CreationRequest, body: Body, conditions: Conditions, *, closed: bool
    ) -> Response:
        """Create or ensure under conditions. What exists is not changed, so they go second."""
        engine = self._engine
        if requested.forked_from is None:
            operation = msgspec.structs.replace(
                engine.creation(requested, body, closed=closed),
                existing_only=conditions.requires_stream,
            )
            await engine.prepare(body, operation.content_type)
            created = await engine.perform(self.path, operation)
        else:
            if conditions.requires_stream:
                try:
                    await engine.live_head(self.path)
                except NotFound:
                    raise PreconditionFailed from None
            created = await engine.create_fork(self.path, requested, body, closed=closed)
        if not created.new:
            await conditions.check(engine, self.path)
        return self._created(created)

    async def _create_large(self, operation: Create) -> Response:
        await self._engine.prepare(operation.body, operation.content_type)
        return self._created(await self._engine.perform(self.path, operation))

    async def _fork(self, requested: CreationRequest, body: Body, *, closed: bool) -> Response:
        created = await self._engine.create_fork(self.path, requested, body, closed=closed)
        return self._created(created)

    def problem(self, error: ProtocolError) -> Response:
        self._return_charge()
        return super().problem(error)

    def _charge_stream(self) -> None:
        """Have the principal pay for a new stream; raises :class:`ProtocolError` (429)."""
        limiter = self._context.options.limiter
        if limiter is None:
            return
        try:
            limiter.charge_stream(self.principal)
            self._charged = True
        except ProtocolError:
            # To ask for a stream that is there costs nothing.
            if not self._is_there():
                raise

    def _is_there(self) -> bool:
        try:
            return self._engine.head_nowait(self.path) is not None
        except ProtocolError:
            return False

    def _return_charge(self) -> None:
        if self._charged:
            self._charged = False
            assert self._context.options.limiter is not None
            self._context.options.limiter.return_stream(self.principal)

    def _created(self, created: Created) -> Response:
        if not created.new:
            self._return_charge()
        fields = [
            *self._common,
            headers.content_type(birth_of(created.head)),
            headers.next_offset(created.timeline, created.tail),
        ]
        if created.closed:
            fields.append(headers.CLOSED)
        if not created.new:
            return Response(200, fields)
        fields.append((names.LOCATION, self._context.location(self.request, self.path)))
        return Response(201, fields)


class Deleting(Exchange):
    """DELETE."""

    def _respond(self, body: bytes) -> AnyResponse:
        return self._later(self._delete())

    async def _delete(self) -> Response:
        conditions = parse_conditions(self.request)
        if conditions is None:
            await self._engine.delete(self.path)
        else:
            incarnation, tail = await conditions.check(self._engine, self.path)
            await self._engine.delete_as(self.path, Delete(incarnation, tail))
        return Response(204, list(self._common))
