"""Strings in order against a sorted list, and at what cost."""

from hypothesis import given, settings
from hypothesis import strategies as st

from durable_streams_server.stores import sorted_keys
from durable_streams_server.stores.sorted_keys import SortedKeys

KEYS = st.text("ab\u00fc", max_size=4)


class CountedStr(str):
    """A string that counts how often strings are compared."""

    __slots__ = ()
    comparisons = 0

    def __lt__(self, other: str) -> bool:
        CountedStr.comparisons += 1
        return str.__lt__(self, other)


@settings(deadline=None, derandomize=True)
@given(
    first=st.lists(KEYS, unique=True, max_size=30),
    changes=st.lists(st.tuples(st.booleans(), KEYS), max_size=60),
    after=KEYS,
    run=st.integers(1, 4),
)
def test_strings_are_read_in_order_whatever_was_added_and_discarded(
    first: list[str], changes: list[tuple[bool, str]], after: str, run: int
) -> None:
    usual, sorted_keys.RUN = sorted_keys.RUN, run  # type: ignore[misc]
    try:
        ordered, wanted = SortedKeys(first), set(first)
        for add, key in changes:
            (ordered.add if add else ordered.discard)(key)
            (wanted.add if add else wanted.discard)(key)
        assert list(ordered.after(after)) == sorted(key for key in wanted if key > after)
        assert list(ordered.after("", inclusive=True)) == sorted(wanted)
    finally:
        sorted_keys.RUN = usual  # type: ignore[misc]


def test_a_page_between_additions_to_many_strings_sorts_nothing_again() -> None:
    ordered = SortedKeys(CountedStr(f"{number:06}") for number in range(0, 100_000, 2))
    CountedStr.comparisons = 0
    for number in range(1, 2001, 2):
        ordered.add(CountedStr(f"{number:06}"))
        assert next(ordered.after(CountedStr(f"{number - 1:06}"))) == f"{number:06}"
    assert CountedStr.comparisons < 1000 * 100
