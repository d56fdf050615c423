"""One request and its response: access, body, outcome.

An exchange is made from a request before its body has come. Running it with the body gives a
response: at once, pending (see :class:`Submitted`), or live.
"""

import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import suppress
from inspect import isawaitable
from time import perf_counter
from typing import Any, Final

from durable_streams_core.errors import ProtocolError
from durable_streams_core.operations import Operation
from durable_streams_server.access.refusals import Forbidden
from durable_streams_server.http import names
from durable_streams_server.http.context import Context
from durable_streams_server.http.errors import (
    body_too_large,
    incomplete_body,
    internal_error,
    refusal,
    repeated_header,
)
from durable_streams_server.http.messages import (
    REPEATED,
    AnyResponse,
    Header,
    Live,
    Pending,
    RequestHead,
    Response,
    problem,
)
from durable_streams_server.http.options import Authorize, Principal
from durable_streams_server.http.peers import address_of, network_of

log = logging.getLogger("durable_streams_server.http")


_NOT_ASKED: Final = object()
"""What an access hook did not return."""


class Exchange:
    """One request, told what to do by its method: see the subclasses."""

    kind: str = ""
    """The name of what is asked for in metrics and logs: the action, or what says more."""
    _question: object = None
    permission: Awaitable[object] | None = None
    """To be awaited before anything else, when the access hook is async."""
    verdict: Response | None = None
    """A refusal, known before any body was read."""
    takes_body = False
    one_question = True
    """Whether the access hook is asked about nothing but the action and the path."""
    appends = False
    """Whether it counts as an append where appends are limited."""
    committed: tuple[float, float] | None = None
    """When its commit began and ended, by ``perf_counter``, where commits are timed."""
    named: str = ""
    """The name that the access hook gave to the sender of the request."""
    _address: str | None = None
    """The name of a sender without one."""

    def __init__(
        self, context: Context, request: RequestHead, path: str, common: list[Header]
    ) -> None:
        self._context = context
        self._engine = context.engine
        self._common = common
        self.request = request
        self.path = path
        self.max_body = context.options.max_body
        """The largest body that is taken, in bytes."""

    @property
    def principal(self) -> str:
        """The name that the access hook gave to the sender of the request, else its address."""
        if self.named:
            return self.named
        if self._address is None:
            address = address_of(self.request)
            client_of = self._context.options.client_of
            if client_of is not None:
                address = client_of(address, self.request.header)
            self._address = f"address:{network_of(address)}"
        return self._address

    def run(self, body: bytes) -> AnyResponse:
        """The second step: the response, given the whole body."""
        if self.verdict is not None:
            self.leave_unused(len(body))
            return self.verdict
        try:
            limiter = self._context.options.limiter
            if limiter is not None and self.takes_body:
                limiter.charge(self.principal, len(body), append=self.appends)
            return self._respond(body)
        except ProtocolError as error:
            return self.problem(error)
        except Exception:
            log.exception("responding to a request failed")
            return self.problem(internal_error())

    def leave_unused(self, received: int) -> None:
        """The request is refused or gone, and its body is not run: charge the bytes that came.

        One that was refused because it came too early is charged nothing, so that a wait ends.
        """
        limiter = self._context.options.limiter
        verdict = self.verdict
        if (
            limiter is not None
            and received
            and self.takes_body
            and (verdict is None or verdict.status != 429)
        ):
            limiter.charge_unused(self.principal, received)

    def run_received(self, body: bytes) -> AnyResponse:
        """As :meth:`run`, for a body that another server received: it may have lost it.

        Servers on httptools hand over no body where the request offers an upgrade.
        """
        if self.takes_body:
            headers = self.request.headers
            length = headers.get(names.CONTENT_LENGTH)
            if length is not None:
                complete = length.isdigit() and int(length) == len(body)
            else:
                complete = bool(body) or not (
                    names.TRANSFER_ENCODING in headers and names.UPGRADE in headers
                )
            if not complete:
                self.leave_unused(len(body))
                return self.problem(incomplete_body(length, len(body)))
        return self.run(body)

    def problem(self, error: ProtocolError) -> Response:
        """An error in the form that errors have here."""
        return problem(error, self._common)

    def _respond(self, body: bytes) -> AnyResponse:
        raise NotImplementedError

    def look_ahead(self) -> None:
        """Set ``verdict`` where the response is known before a body that is still to come."""

    # Access.

    def seek_access(self, authorize: Authorize | None, action: str) -> None:
        """Ask the hook, if there is one, and then check the request.

        A refusal or a fault sets :attr:`verdict`; an async hook leaves a :attr:`permission`.
        Without a hook, a fault is raised.
        """
        self.kind = self.kind or action
        if authorize is None:
            self._check_head()
            return
        permitted = self._ask(authorize, action, self.path)
        if self.one_question and self._is_permitted(permitted):
            # Most requests need neither a generator nor a task.
            try:
                self._check_head()
            except ProtocolError as error:
                self.verdict = self.problem(error)
            return
        steps = self._consult(authorize, self._questions(action), permitted)
        question = next(steps, None)
        if question is not None:
            self._question = question
            self.permission = self._consult_on(steps, question)

    def _questions(self, action: str) -> Iterator[tuple[str, str]]:
        """The questions for the hook; code behind one runs once it is permitted."""
        yield action, self.path
        self._check_head()

    def _check_head(self) -> None:
        """Raise for a fault in the request that is known without the body."""
        request = self.request
        headers = request.headers
        if not request.ordinary:
            repeated = headers.get(REPEATED)
            if repeated is not None:
                raise repeated_header(repeated)
        if not self.takes_body:
            return
        limiter = self._context.options.limiter
        if limiter is not None and request.body is None:
            # A body that is all here is charged in a moment.
            limiter.look(self.principal, append=self.appends)
        length = headers.get(names.CONTENT_LENGTH)
        if length is not None and length.isdigit() and int(length) > self.max_body:
            raise body_too_large(self.max_body)
        if request.ordinary:
            return
        coding = headers.get(names.TRANSFER_ENCODING)
        if coding is not None and coding.lower() != b"chunked":
            raise ProtocolError(
                "The only transfer coding here is chunked.",
                status=501,
                code="transfer-encoding",
            )
        coding = headers.get(names.CONTENT_ENCODING)
        if coding is not None and coding.lower() != b"identity":
            raise ProtocolError(
                "Send the body without Content-Encoding: what is stored is what is read.",
                status=415,
                code="content-encoding",
            )

    def _ask(self, authorize: Authorize, action: str, path: str) -> object:
        """The return value of the hook for one question, or the error by which it refuses."""
        try:
            return authorize(action, path, self.request.given)
        except Exception as error:
            return _refusal_by(error)

    def _is_permitted(self, permitted: object) -> bool:
        """Whether the hook permitted it. Keeps the principal that the hook named."""
        if type(permitted) is Principal:
            self.named = permitted.name
            return True
        if isinstance(permitted, Forbidden):
            self.named = permitted.principal
        return permitted is True

    def _consult(
        self,
        authorize: Authorize | None,
        questions: Iterator[tuple[str, str]],
        asked: object = _NOT_ASKED,
    ) -> Generator[Awaitable[object], object, None]:
        """Ask the hook each question until it refuses one; yields what has to be awaited.

        ``asked`` is what it returned for the first of them, if it was asked that already.
        """
        try:
            for action, path in questions:
                if authorize is None:
                    continue
                permitted, asked = asked, _NOT_ASKED
                if permitted is _NOT_ASKED:
                    permitted = self._ask(authorize, action, path)
                if isawaitable(permitted):
                    try:
                        permitted = yield permitted
                    except Exception as error:
                        permitted = _refusal_by(error)
                if not self._is_permitted(permitted):
                    self.verdict = self.problem(refusal(permitted))
                    return
        except ProtocolError as error:
            self.verdict = self.problem(error)
        except Exception:
            log.exception("looking at a request failed")
            self.verdict = self.problem(internal_error())

    @staticmethod
    async def _consult_on(
        steps: Generator[Awaitable[object], object, None], question: Awaitable[object]
    ) -> None:
        with suppress(StopIteration):
            while True:
                try:
                    permitted = await question
                except Exception as error:
                    question = steps.throw(error)
                else:
                    question = steps.send(permitted)

    def abandon(self) -> None:
        """Nobody waits for it any more: drop a question of access that was not awaited yet."""
        for waiting in (self.permission, self._question):
            if isinstance(waiting, Coroutine):
                waiting.close()
        self.permission = None

    # Ways to a response.

    def _submit(
        self, operation: Operation[Any], respond: Callable[[Any], Response]
    ) -> Response | Pending:
        """Put an operation in its commit queue, and respond at once if it is done at once."""
        if self._context.times_commits:
            respond = self._timed(respond)
        pending = Submitted(respond, self.problem)
        ticket = self._engine.submit(self.path, operation, pending.complete)
        result = pending.result
        if isinstance(result, Response):
            return result
        pending.on_cancel(ticket.cancel)
        return pending

    def _timed(self, respond: Callable[[Any], Response]) -> Callable[[Any], Response]:
        began = perf_counter()

        def timed(result: Any) -> Response:
            self.committed = began, perf_counter()
            return respond(result)

        return timed

    def _later(self, work: Coroutine[Any, Any, Response | Live]) -> Pending:
        """A response that a coroutine works out."""
        pending = Pending()

        async def run() -> None:
            try:
                pending.resolve(await work)
            except ProtocolError as error:
                pending.resolve(self.problem(error))
            except Exception:
                log.exception("responding to a request failed")
                pending.resolve(self.problem(internal_error()))

        task = self._engine.spawn(run())
        # One that is cancelled before it began would leave its work behind, never awaited.
        task.add_done_callback(lambda _: work.close())
        pending.on_cancel(task.cancel)
        return pending


def _refusal_by(error: Exception) -> object:
    """The refusal of an access hook that raised; a fault of the hook is logged."""
    if isinstance(error, ProtocolError):
        return error
    log.error("the authorize hook failed; access is refused", exc_info=error)
    return False


class Submitted(Pending):
    """The response to one operation, which is in its commit queue."""

    __slots__ = ("_problem", "_respond")

    def __init__(
        self, respond: Callable[[Any], Response], problem: Callable[[ProtocolError], Response]
    ) -> None:
        super().__init__()
        self._respond = respond
        self._problem = problem

    def complete(self, outcome: object) -> None:
        """Take the outcome, while the operation is being submitted or later."""
        if isinstance(outcome, ProtocolError):
            response = self._problem(outcome)
        else:
            try:
                response = self._respond(outcome)
            except Exception:
                log.exception("responding to a request failed")
                response = self._problem(internal_error())
        self.resolve(response)
