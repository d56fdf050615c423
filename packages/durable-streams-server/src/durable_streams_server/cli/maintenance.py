"""The subcommands ``check``, ``export`` and ``import``: a store without its server."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import click

from durable_streams_core.errors import DurableStreamsError
from durable_streams_core.registry import create_store
from durable_streams_core.store import Store
from durable_streams_server.stores.archive import Progress, export_store, import_store


def bar(label: str) -> "tuple[Progress, Callable[[], None]]":
    """A progress bar on standard error that shows itself once there is something to show, and what
    ends it.
    """
    shown: list[click._termui_impl.ProgressBar[int]] = []

    def progress(done: int, everything: int) -> None:
        if not shown and everything:
            shown.append(click.progressbar(length=everything, label=label, file=sys.stderr))
        if shown:
            shown[0].update(done - shown[0].pos)

    def end() -> None:
        if shown:
            shown[0].render_finish()

    return progress, end


@click.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False))
def check(directory: str) -> None:
    """Verify every checksum and proof of a file store that no server has open.

    Changes nothing. Ends with status 1 if anything is damaged.
    """
    from durable_streams_server.stores.file.check import check as look

    progress, end = bar("Reading")
    try:
        checked = look(directory, progress)
    except DurableStreamsError as error:
        raise click.ClickException(str(error)) from error
    finally:
        end()
    report = checked.report
    click.echo(
        f"{report.streams:,} streams with {checked.bytes:,} bytes in data files; "
        f"{report.commits:,} commits in {report.groups:,} groups since the last checkpoint; "
        f"a torn tail of {report.torn_bytes:,} bytes."
    )
    for problem in checked.problems:
        click.echo(problem)
    if checked.problems:
        raise click.ClickException(
            f"{len(checked.problems)} problems found. Restore from a backup, or start the server "
            "with ?corruption=set-aside to go on without what is damaged."
        )
    click.echo("Everything is as it was stored.")


@click.command("export")
@click.argument("store", metavar="STORE")
@click.argument("archive", type=click.Path(dir_okay=False, path_type=Path))
def export(store: str, archive: Path) -> None:
    """Write everything in STORE, a URL such as file:./data, to the file ARCHIVE.

    A file store must not be in use.
    """
    aside = archive.with_name(archive.name + ".new")
    try:
        with aside.open("wb") as file:
            count = _run(store, "Exporting", lambda s, p: export_store(s, file, p))
            # A name in place of another must not outlive its content in a loss of power.
            file.flush()
            os.fsync(file.fileno())
        aside.replace(archive)
    except OSError as error:
        raise click.ClickException(f"{archive} cannot be written: {error.strerror}.") from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
    click.echo(f"{count:,} streams and subscriptions are in {archive}.")


@click.command("import")
@click.argument("archive", type=click.File("rb"))
@click.argument("store", metavar="STORE")
def import_(archive: IO[bytes], store: str) -> None:
    """Put everything of the file ARCHIVE into STORE, a URL such as file:./data.

    Offsets, forks and producers stay as they were. Stops at a path that is taken.
    """
    count = _run(store, "Importing", lambda s, p: import_store(s, archive, p))
    click.echo(f"{count:,} streams and subscriptions are in {store.rsplit('@', maxsplit=1)[-1]}.")


def _run(url: str, label: str, work: Callable[[Store, Progress], Awaitable[int]]) -> int:
    progress, end = bar(label)

    async def run() -> int:
        store = create_store(url)
        await store.open()
        try:
            return await work(store, progress)
        finally:
            await store.close()

    try:
        return asyncio.run(run())
    except DurableStreamsError as error:
        raise click.ClickException(str(error)) from error
    finally:
        end()
