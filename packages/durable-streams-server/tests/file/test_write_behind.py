"""A checkpoint relies on it that bytes which were unsaved when it began are in the files."""

import errno
import random
from collections.abc import Sequence
from typing import cast

import pytest
from inline_worker import InlineWorker

from durable_streams_core.entities import Head
from durable_streams_server.stores.file.data_files import FileWriter, Write, Written
from durable_streams_server.stores.file.sums import extend
from durable_streams_server.stores.file.write_behind import Stored, WriteBehind


class Files:
    """Data files that meet an error on the first write."""

    def __init__(self) -> None:
        self.failures = 1
        self.content: dict[int, bytes] = {}

    def write(self, writes: Sequence[Write]) -> Written:
        if self.failures:
            self.failures -= 1
            return Written([], OSError(errno.EMFILE, "no descriptor is free"))
        for each in writes:
            self.content[each.number] = bytes(each.data)
        return Written([extend(each.sums, each.offset, each.data) for each in writes], None)


async def test_a_save_that_fails_while_a_checkpoint_waits_for_it_fails_the_checkpoint() -> None:
    files = Files()
    worker = InlineWorker(random.Random(1))
    behind = WriteBehind(worker, cast("FileWriter", files), lambda _error: None)
    entity = Stored(Head("i", b"", tail=3), number=1)
    behind.add(entity, 0, b"abc")
    behind.save()
    with pytest.raises(OSError, match="no descriptor"):
        await behind.save_all()
    await behind.save_all()
    assert files.content == {1: b"abc"}
    assert entity.unsaved is None
