"""Pages kept for ``If-None-Match`` (§10.1): a repeated catch-up read costs no second transfer.

Bounded by bytes, least recently used first out. A page is used again only when the server has
answered 304 to its ETag, so it is never stale, and access is checked each time.
"""

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

from durable_streams_client import forking
from durable_streams_client.messages import ResponseHead


@dataclass(frozen=True, slots=True)
class CachedPage:
    etag: str
    head: ResponseHead
    body: bytes


class PageCache:
    """Keeps at most ``limit`` bytes of pages by the URL of their request; 0 keeps none."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._pages: OrderedDict[str, CachedPage] = OrderedDict()
        self._mutex = Lock()
        forking.register(self, PageCache.after_fork)

    def after_fork(self) -> None:
        self._mutex = Lock()

    def get(self, url: str) -> CachedPage | None:
        with self._mutex:
            page = self._pages.get(url)
            if page is not None:
                self._pages.move_to_end(url)
            return page

    def put(self, url: str, head: ResponseHead, body: bytes) -> None:
        """Keep a page if it has an ETag and is no more than a quarter of what fits."""
        etag = head.get("etag")
        with self._mutex:
            old = self._pages.pop(url, None)
            if old is not None:
                self._held -= len(old.body)
            if etag is None or not body or len(body) * 4 > self._limit:
                return
            self._pages[url] = CachedPage(etag, head, body)
            self._held += len(body)
            while self._held > self._limit:
                _, out = self._pages.popitem(last=False)
                self._held -= len(out.body)

    def drop(self, url: str) -> None:
        """Forget a page that turned out to be malformed."""
        self.put(url, ResponseHead(0, {}), b"")

    def clear(self) -> None:
        with self._mutex:
            self._pages.clear()
            self._held = 0
