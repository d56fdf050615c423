"""Is there an order of the operations, each between its start and its end, that one stream in one
process would have answered in the same way?

A search after Wing and Gong, with the states that led nowhere remembered (Lowe). Each item is
appended once, so that the first read that shows it tells what the stream held before it: that keeps
the search from trying every order of appends at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ABSENT = None


@dataclass(frozen=True, slots=True)
class Event:
    """An operation, what was answered, and when it began and ended."""

    name: str
    item: str
    answer: tuple
    began: float
    ended: float


Items = tuple[str, ...]

UNREAD: Items = ("what no read shows",)
"""Stands for all items from the first on that no read shows: their order does not matter."""


def step(state: Any, event: Event, shown: dict[str, Items]) -> Any:
    """The state after an operation, or False if it would have been answered otherwise.

    A state is None, or the items and whether the stream is closed. ``shown`` has for each item that
    a read shows what the stream holds up to it.
    """
    name, item = event.name, event.item
    if name == "create":
        if state is ABSENT:
            return ((), False) if event.answer == (201,) else False
        return state if event.answer == (409 if state[1] else 200,) else False
    if state is ABSENT:
        return ABSENT if event.answer == (404,) else False
    items, closed = state
    if name == "append":
        if closed:
            return state if event.answer == (409,) else False
        if event.answer != (204,):
            return False
        if item not in shown:
            return UNREAD, closed
        return (shown[item], closed) if shown[item] == (*items, item) else False
    if name == "close":
        return (items, True) if event.answer == (204,) else False
    if name == "delete":
        return ABSENT if event.answer == (204,) else False
    return state if event.answer == (200, items, closed) else False


def items_shown(history: Sequence[Event]) -> dict[str, Items] | None:
    """The items up to and with each item, as reads show them; None where two reads disagree."""
    shown: dict[str, Items] = {}
    for event in history:
        items = event.answer[1] if event.name == "read" and len(event.answer) > 1 else ()
        for n, item in enumerate(items, 1):
            if shown.setdefault(item, items[:n]) != items[:n]:
                return None
    return shown


def is_linearizable(history: Sequence[Event]) -> bool:
    events = sorted(history, key=lambda event: event.began)
    everything = (1 << len(events)) - 1
    shown = items_shown(events)
    if shown is None:
        return False
    dead = set()
    stack: list[tuple[int, Any]] = [(0, ABSENT)]
    while stack:
        done, state = stack.pop()
        if done == everything:
            return True
        if (done, state) in dead:
            continue
        dead.add((done, state))
        waiting = [n for n in range(len(events)) if not done >> n & 1]
        # Nothing may come before an operation that had ended when it began.
        first_end = min(events[n].ended for n in waiting)
        for n in waiting:
            if events[n].began > first_end:
                break
            after = step(state, events[n], shown)
            if after is not False:
                stack.append((done | 1 << n, after))
    return False
