"""One request on its way: access, body, answer.

What an exchange knows comes from the request's head alone and does not change by running it. So
one that no access hook was asked about may be run again, for every request that brings the very
same head. What belongs to one run only is a :class:`Submission`, a pending answer, a live one.
"""

import logging
from collections.abc import Awaitable, Callable, Coroutine
from inspect import isawaitable
from typing import Any

from durable_streams_core.errors import ProtocolError
from durable_streams_core.operations import Operation
from durable_streams_server.http.context import Context
from durable_streams_server.http.messages import (
    Answer,
    Header,
    Live,
    Pending,
    RequestHead,
    Response,
    problem,
)
from durable_streams_server.http.options import Authorize

log = logging.getLogger("durable_streams_server.http")


class Exchange:
    """One request, told what to do by its method: see the subclasses."""

    __slots__ = (
        "_base",
        "_context",
        "_engine",
        "_question",
        "head",
        "path",
        "permission",
        "takes_body",
        "verdict",
    )  # fmt: skip

    def __init__(self, context: Context, head: RequestHead, path: str, base: list[Header]) -> None:
        self._context = context
        self._engine = context.engine
        self._base = base
        self.head = head
        self.path = path
        self.takes_body = head.method in ("POST", "PUT")
        self._question: object = None
        self.permission: Awaitable[object] | None = None
        """Something to await and give to :meth:`permitted`, when the access hook is async."""
        self.verdict: Response | None = None
        """A refusal, known before any body was read."""

    @property
    def max_body(self) -> int:
        return self._engine.limits.max_body

    def run(self, body: bytes) -> Answer:
        """The second step: the answer, given the whole body."""
        try:
            return self._answer(body)
        except ProtocolError as error:
            return problem(error, self._base)
        except Exception:
            log.exception("answering a request failed")
            return problem(internal_error(), self._base)

    def _answer(self, body: bytes) -> Answer:
        raise NotImplementedError

    def next_batch(self, _seq: bytes) -> "Exchange | None":
        """The exchange of a request that differs in its ``Producer-Seq`` only, after this one has
        been run; None where it has to be begun anew.
        """
        return self

    # Access.

    def ask(self, authorize: Authorize, action: str) -> None:
        """Ask the hook; a sync one has answered by the time this returns."""
        questions = self._questions(action)
        for position, question in enumerate(questions):
            try:
                answer = authorize(*question, self.head.native)
            except Exception:
                log.exception("the authorize hook failed; access is refused")
                answer = False
            if isawaitable(answer):
                self._question = answer
                self.permission = self._ask_on(authorize, answer, questions[position + 1 :])
                return
            if self.permitted(answer) is not None:
                return

    def _questions(self, action: str) -> list[tuple[str, str]]:
        return [(action, self.path)]

    async def _ask_on(
        self, authorize: Authorize, answer: Awaitable[object], rest: list[tuple[str, str]]
    ) -> object:
        try:
            permitted = await answer
            for action, path in rest:
                if permitted is not True:
                    break
                asked = authorize(action, path, self.head.native)
                permitted = await asked if isawaitable(asked) else asked
        except Exception:
            log.exception("the authorize hook failed; access is refused")
            return False
        return permitted

    def permitted(self, answer: object) -> Response | None:
        """Take the hook's answer; returns the refusal, if it is one."""
        if answer is True:
            return None
        if answer == 401:
            error = not_authenticated()
        else:
            error = ProtocolError("You may not do this here.", status=403, code="forbidden")
        self.verdict = problem(error, self._base)
        return self.verdict

    def abandon(self) -> None:
        """Nobody waits for it any more: drop a question of access that was not awaited yet."""
        for waiting in (self.permission, self._question):
            if isinstance(waiting, Coroutine):
                waiting.close()
        self.permission = None

    # Ways to an answer.

    def _submit(
        self, operation: Operation[Any], respond: Callable[[Any], Response]
    ) -> Response | Pending:
        """Put an operation in its commit queue, and answer at once if it is done at once."""
        submission = Submission(respond, self._base)
        ticket = self._engine.submit(self.path, operation, submission.settle)
        return submission.answer(ticket.cancel)

    def _later(self, work: Coroutine[Any, Any, Response | Live]) -> Pending:
        """An answer that a coroutine works out."""
        pending = Pending()

        async def run() -> None:
            try:
                pending.resolve(await work)
            except ProtocolError as error:
                pending.resolve(problem(error, self._base))
            except Exception:
                log.exception("answering a request failed")
                pending.resolve(problem(internal_error(), self._base))

        task = self._engine.spawn(run())
        # One that is cancelled before it began would leave its work behind, never awaited.
        task.add_done_callback(lambda _: work.close())
        pending.on_cancel(task.cancel)
        return pending


class Submission:
    """One operation in its commit queue, until its outcome has become an answer."""

    __slots__ = ("_base", "_done", "_pending", "_respond")

    def __init__(self, respond: Callable[[Any], Response], base: list[Header]) -> None:
        self._respond = respond
        self._base = base
        self._done: Response | None = None
        self._pending: Pending | None = None

    def settle(self, outcome: object) -> None:
        """The operation's outcome, while it is being submitted or later."""
        if isinstance(outcome, ProtocolError):
            response = problem(outcome, self._base)
        else:
            try:
                response = self._respond(outcome)
            except Exception:
                log.exception("answering a request failed")
                response = problem(internal_error(), self._base)
        if self._pending is None:
            self._done = response
        else:
            self._pending.resolve(response)

    def answer(self, cancel: Callable[[], object]) -> Response | Pending:
        """What is known once the operation has been submitted."""
        if self._done is not None:
            return self._done
        pending = self._pending = Pending()
        pending.on_cancel(cancel)
        return pending


def not_authenticated() -> ProtocolError:
    return ProtocolError(
        "Say who you are: send credentials in the Authorization header.",
        status=401,
        code="not-authenticated",
        headers={"WWW-Authenticate": "Bearer"},
    )


def internal_error() -> ProtocolError:
    return ProtocolError("The server failed; its log says how.")
