"""Pages: of paths, of fields, and of what is due."""

from durable_streams_core.entities import Guard, Head
from durable_streams_core.store import Store
from durable_streams_core.testing.harness import (
    PATHS,
    StoreHarness,
    applied,
    change,
    created,
    creation,
    loaded,
    new_head,
    removal,
)

PATH = "listed"
SOON = 1_800_000_000_000


async def paths(store: Store, prefix: str, after: str, page: int) -> list[str]:
    """All paths with a prefix, listed page by page, as load shows them."""
    found: list[str] = []
    while True:
        rows = await store.list(prefix, after, page)
        assert len(rows) <= page
        for path, head in rows:
            assert head == (await loaded(store, path)).head
            found.append(path)
        if len(rows) < page:
            return found
        after = rows[-1][0]


async def scanned(
    store: Store, head: Head, kind: str, after: str, page: int
) -> list[tuple[str, bytes]]:
    """All fields of a kind, page by page."""
    found: list[tuple[str, bytes]] = []
    while True:
        rows = await store.scan(PATH, head.incarnation, kind, after, page)
        assert len(rows) <= page
        found += rows
        if len(rows) < page:
            return found
        after = rows[-1][0]


class Listing(StoreHarness):
    """What :meth:`Store.list`, :meth:`Store.scan` and :meth:`Store.due` answer."""

    async def test_an_empty_store_lists_nothing(self) -> None:
        async with self.opened() as store:
            assert list(await store.list("", "", 10)) == []
            assert list(await store.due(SOON, 10)) == []

    async def test_paths_come_in_order_of_code_points_at_every_page_size(self) -> None:
        async with self.opened() as store:
            await store.commit([creation(path, new_head()) for path in PATHS])
            for page in (1, 2, 5, len(PATHS) - 1, len(PATHS), 1000):
                assert await paths(store, "", "", page) == sorted(PATHS)

    async def test_paths_with_a_prefix_from_past_any_other(self) -> None:
        async with self.opened() as store:
            await store.commit([creation(path, new_head()) for path in PATHS])
            for prefix in ("", "a", "a/", "a/b", "chats/", "\u20ac", "\U0001f600", "none", "z"):
                for after in ("", "A", "a/b", "a/b/", "chats/", "chats/42", "m", "\U0010ffff"):
                    wanted = [p for p in sorted(PATHS) if p.startswith(prefix) and p > after]
                    assert await paths(store, prefix, after, 2) == wanted

    async def test_what_was_removed_is_not_listed_and_what_came_back_is_once(self) -> None:
        async with self.opened() as store:
            heads = {path: new_head() for path in PATHS}
            await store.commit([creation(path, head) for path, head in heads.items()])
            assert await paths(store, "", "", 100) == sorted(PATHS)
            gone = PATHS[::2]
            await store.commit([removal(path, heads[path]) for path in gone])
            assert await paths(store, "", "", 2) == sorted(PATHS[1::2])
            back = gone[::2]
            await store.commit([creation(path, new_head()) for path in back])
            assert await paths(store, "", "", 3) == sorted({*PATHS[1::2], *back})

    async def test_heads_are_listed_as_they_are_now(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH)
            change_all = change(
                PATH, Guard(head.incarnation), data=b"12", close=True, state="deleted", deadline=8
            )
            await applied(store, change_all)
            wanted = Head(head.incarnation, b"birth", 0, 2, True, "deleted", 8)
            assert list(await store.list("", "", 10)) == [(PATH, wanted)]

    async def test_fields_of_one_kind_in_order_of_code_points(self) -> None:
        async with self.opened() as store:
            keys = [kind + name for kind in "fpq" for name in ("", "0", "\n", *PATHS)]
            head = await created(store, PATH, fields={key: key.encode() for key in keys})
            for kind in "fpqs":
                for after in ("", kind, kind + "a/b", kind + "m", "\U0010ffff"):
                    wanted = [
                        (key, key.encode())
                        for key in sorted(keys)
                        if key.startswith(kind) and key > after
                    ]
                    for page in (1, 4, 1000):
                        assert await scanned(store, head, kind, after, page) == wanted

    async def test_fields_follow_every_change(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH, fields={f"p{n}": b"1" for n in range(5)})
            fields = {"p1": None, "p3": b"new", "p9": b"9"}
            await applied(store, change(PATH, Guard(head.incarnation), fields=fields))
            assert await scanned(store, head, "p", "", 2) == [
                ("p0", b"1"), ("p2", b"1"), ("p3", b"new"), ("p4", b"1"), ("p9", b"9"),
            ]  # fmt: skip

    async def test_fields_of_what_is_not_there(self) -> None:
        async with self.opened() as store:
            assert list(await store.scan(PATH, "any", "p", "", 5)) == []
            head = await created(store, PATH)
            assert list(await store.scan(PATH, head.incarnation, "p", "", 5)) == []
            await applied(store, change(PATH, Guard(head.incarnation), fields={"p": b""}))
            assert list(await store.scan(PATH, "any", "p", "", 5)) == []

    async def test_thousands_of_fields_page_by_page(self) -> None:
        async with self.opened() as store:
            fields = {f"p{n}": b"%d" % n for n in range(3000)}
            head = await created(store, PATH, fields=fields)
            assert await scanned(store, head, "p", "", 700) == sorted(fields.items())

    async def test_due_is_what_has_a_deadline_that_came(self) -> None:
        async with self.opened() as store:
            deadlines = {"never": 0, "past": 1, "later": SOON + 1, "first": SOON - 1, "now": SOON}
            await store.commit(
                [creation(path, new_head(deadline=at)) for path, at in deadlines.items()]
            )
            assert list(await store.due(0, 10)) == []
            assert list(await store.due(SOON - 2, 10)) == ["past"]
            assert list(await store.due(SOON, 10)) == ["past", "first", "now"]
            assert list(await store.due(SOON + 1, 10)) == ["past", "first", "now", "later"]

    async def test_due_follows_every_change_of_a_deadline(self) -> None:
        async with self.opened() as store:
            names = ("renewed", "ended", "removed", "replaced", "sooner", "same")
            heads = {path: new_head(deadline=SOON) for path in names}
            await store.commit([creation(path, head) for path, head in heads.items()])
            guards = {path: Guard(head.incarnation) for path, head in heads.items()}
            await store.commit(
                [
                    change("renewed", guards["renewed"], deadline=SOON + 9),
                    change("ended", guards["ended"], deadline=0),
                    removal("removed", heads["removed"]),
                    change("replaced", guards["replaced"], remove=True, create=new_head()),
                    change("sooner", guards["sooner"], deadline=3),
                    change("same", guards["same"], deadline=SOON + 9),
                    change("same", guards["same"], deadline=SOON),
                ]
            )
            assert list(await store.due(3, 10)) == ["sooner"]
            assert list(await store.due(SOON, 10)) == ["sooner", "same"]
            assert list(await store.due(SOON, 10)) == ["sooner", "same"]
            assert set(await store.due(SOON + 9, 10)) == {"sooner", "same", "renewed"}

    async def test_a_path_created_again_is_due_by_its_new_deadline(self) -> None:
        async with self.opened() as store:
            old = await created(store, PATH, new_head(deadline=SOON))
            await applied(store, removal(PATH, old))
            await created(store, PATH, new_head(deadline=SOON + 5))
            assert list(await store.due(SOON, 10)) == []
            assert list(await store.due(SOON + 5, 10)) == [PATH]

    async def test_whoever_works_off_what_is_due_comes_to_an_end(self) -> None:
        async with self.opened() as store:
            deadlines = {f"due/{n}": SOON - 7 * n % 50 for n in range(50)}
            heads = {path: new_head(deadline=at) for path, at in deadlines.items()}
            await store.commit([creation(path, head) for path, head in heads.items()])
            seen: set[str] = set()
            while some := await store.due(SOON, 7):
                assert len(some) <= 7
                order = [deadlines[path] for path in some]
                assert order == sorted(order)
                assert not seen.intersection(some)
                seen.update(some)
                await store.commit([removal(path, heads[path]) for path in some])
            assert seen == set(deadlines)
