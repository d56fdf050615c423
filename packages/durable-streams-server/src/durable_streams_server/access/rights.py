"""Rights: what a principal may do, as path patterns for each kind of action."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from durable_streams_core.subscriptions.records import PREFIX
from durable_streams_server.path_patterns import PathPattern

STREAM_RIGHTS: Final[Mapping[str, tuple[str, ...]]] = {
    "read": ("read", "head", "list"),
    "write": ("create", "append"),
    "create": ("create",),
    "append": ("append",),
    "delete": ("delete",),
    "subscribe": ("subscribe",),
    "all": ("read", "head", "list", "create", "append", "delete", "subscribe"),
}
"""The actions on streams that each right permits."""

SUBSCRIPTION_RIGHTS: Final[Mapping[str, tuple[str, ...]]] = {
    "subscriptions": ("subscribe", "claim", "list"),
    "claim": ("claim", "list"),
}
"""The actions on subscriptions that each right permits; their patterns are about ids."""

RIGHTS: Final = (*STREAM_RIGHTS, *SUBSCRIPTION_RIGHTS)


_Patterns = Mapping[str, Sequence[PathPattern]]
"""Patterns by action."""


class _Rules:
    """The patterns of one action, sorted so that one look serves any number of most of them."""

    __slots__ = ("below", "names", "others")

    def __init__(self, patterns: Sequence[PathPattern]) -> None:
        roots = [pattern.root for pattern in patterns if pattern.root is not None]
        self.below = tuple(f"{root}/" for root in roots)
        """The beginnings of paths below a permitted name."""
        self.names = frozenset(roots) | {each.text for each in patterns if each.is_literal}
        """Paths that are permitted themselves."""
        self.others = tuple(
            each.matcher() for each in patterns if each.root is None and not each.is_literal
        )

    def mean(self, path: str) -> bool:
        """Whether a pattern means the path."""
        if path.startswith(self.below) or path in self.names:
            return True
        # A loop costs half of what any() with a generator does.
        for matches in self.others:  # noqa: SIM110
            if matches(path):
                return True
        return False


class Permissions:
    """Permitted actions: for each, patterns of stream paths and of subscription ids."""

    __slots__ = ("_ids", "_streams", "rules")

    def __init__(self, streams: _Patterns, ids: _Patterns) -> None:
        self._streams = streams
        self._ids = ids
        # Rights that contain others, such as all, name the same patterns for several actions.
        made: dict[tuple[PathPattern, ...], _Rules] = {}
        self.rules: dict[str, _Rules] = {}
        """What stream paths each action is permitted on."""
        for action, patterns in streams.items():
            key = tuple(patterns)
            if action != "subscribe":
                self.rules[action] = made.get(key) or made.setdefault(key, _Rules(patterns))

    @property
    def size(self) -> int:
        """About how many bytes of memory the patterns take."""
        lists = [*self._streams.values(), *self._ids.values()]
        patterns = {id(each): each.size for patterns in lists for each in patterns}
        return 1000 * len(lists) + sum(patterns.values())

    def permits(self, action: str, path: str) -> bool:
        """Whether an action of the ``authorize`` hook is permitted on a path."""
        rules = self.rules.get(action)
        if rules is not None and rules.mean(path):
            # No pattern of streams means a reserved path.
            return True
        if path.startswith(PREFIX):
            name = path[len(PREFIX) :]
            return any(each.matches(name) for each in self._ids.get(action, ()))
        # The path may be a pattern, which means as many streams as it can.
        return action == "subscribe" and any(
            each.covers(path) for each in self._streams.get(action, ())
        )


class Rights(Permissions):
    """Path patterns for each right. What no pattern permits is forbidden.

    >>> rights = Rights(read=["chats/*"], write=["chats/42"])
    >>> rights.permits("read", "chats/7"), rights.permits("append", "chats/7")
    (True, False)

    Args:
        read: streams that may be read, described and listed. A fork needs it for its source.
        write: streams that may be created and appended to.
        create: streams that may be created.
        append: streams that may be appended to and closed.
        delete: streams that may be deleted.
        subscribe: streams that a subscription may follow.
        all: streams with which everything above may be done.
        subscriptions: ids of subscriptions that may be created, changed and worked for.
        claim: ids of subscriptions that may be worked for.
        names: whether patterns may hold ``{name}``, for :meth:`bind`.

    Raises:
        ValueError: for text that is not a pattern, and where no right is given at all.

    """

    __slots__ = ("names",)

    def __init__(
        self,
        *,
        read: Iterable[str] = (),
        write: Iterable[str] = (),
        create: Iterable[str] = (),
        append: Iterable[str] = (),
        delete: Iterable[str] = (),
        subscribe: Iterable[str] = (),
        all: Iterable[str] = (),  # noqa: A002 - the word of the configuration file
        subscriptions: Iterable[str] = (),
        claim: Iterable[str] = (),
        names: bool = False,
    ) -> None:
        streams = {
            "read": read,
            "write": write,
            "create": create,
            "append": append,
            "delete": delete,
            "subscribe": subscribe,
            "all": all,
        }
        ids = {"subscriptions": subscriptions, "claim": claim}
        super().__init__(
            _by_action(STREAM_RIGHTS, streams, names=names),
            _by_action(SUBSCRIPTION_RIGHTS, ids, names=names),
        )
        if not (self._streams or self._ids):
            raise ValueError(
                f"There are no rights: give patterns for at least one of {', '.join(RIGHTS)}."
            )
        for pattern in (each for patterns in self._ids.values() for each in patterns):
            if "/" in pattern.text or pattern.text == "**":
                raise ValueError(
                    f"The id of a subscription is one segment, and {pattern.text!r} is not one."
                )
        every = [*self._streams.values(), *self._ids.values()]
        self.names = frozenset(
            name for patterns in every for each in patterns for name in each.names
        )
        """The names that :meth:`bind` needs values for."""

    def bind(self, values: Mapping[str, object]) -> Permissions:
        """The permissions with these values for names.

        A pattern whose value is not text of one segment permits nothing.
        """
        if not self.names:
            return self
        return Permissions(_bound(self._streams, values), _bound(self._ids, values))


def _by_action(
    actions: Mapping[str, Sequence[str]], given: Mapping[str, Iterable[str]], *, names: bool
) -> _Patterns:
    found: dict[str, list[PathPattern]] = {}
    for right, texts in given.items():
        if isinstance(texts, str):
            raise TypeError(f"{right} takes a list of patterns, got {texts!r}.")
        for text in texts:
            pattern = PathPattern(text, names=names)
            for action in actions[right]:
                found.setdefault(action, []).append(pattern)
    return {action: tuple(patterns) for action, patterns in found.items()}


def _bound(patterns: _Patterns, values: Mapping[str, object]) -> _Patterns:
    memo: dict[int, PathPattern | None] = {}
    bound: dict[str, tuple[PathPattern, ...]] = {}
    for action, each in patterns.items():
        kept: list[PathPattern] = []
        for pattern in each:
            if id(pattern) not in memo:
                memo[id(pattern)] = pattern.bind(values)
            fit = memo[id(pattern)]
            if fit is not None:
                kept.append(fit)
        bound[action] = tuple(kept)
    return bound
