"""The command ``durable-streams``, for using streams from a shell.

Data goes to standard output unchanged, everything else to standard error. Exit codes:

    0  done                      4  the stream does not allow it: closed, exists, out of order
    1  any other error           5  access denied
    2  wrong usage               6  the server cannot be reached, or the connection broke
    3  no such stream, or gone   7  the server cannot serve the request now
    130  interrupted
"""

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import IO, Any, Final, TypeVar

import click
import msgspec
from click.shell_completion import get_completion_class

from durable_streams_client import errors
from durable_streams_client._sync.client import Client
from durable_streams_client._sync.reader import Reader
from durable_streams_client._sync.stream import Stream
from durable_streams_client.batches import Batch
from durable_streams_client.checkpoints import FileCheckpoint
from durable_streams_client.options import Live, Timeouts
from durable_streams_client.retry import RetryPolicy
from durable_streams_core.protocol import JSON_CONTENT_TYPE, NOW, START

DEFAULT_URL: Final = "http://127.0.0.1:4437/v1/stream/"

BOM: Final = b"\xef\xbb\xbf"
"""What some editors and shells put before UTF-8 text; it is not JSON."""
PROGRESS_BYTES: Final = 1 << 16

PATIENT: Final = RetryPolicy(attempts=sys.maxsize, read_attempts=sys.maxsize)

EXIT_CODES: Final[tuple[tuple[type[errors.ClientError], int], ...]] = (
    (errors.InvalidArgument, 2),
    (errors.NotFound, 3),
    (errors.Gone, 3),
    (errors.Fenced, 4),
    (errors.Conflict, 4),
    (errors.AccessDenied, 5),
    (errors.TransportError, 6),
    (errors.Unavailable, 7),
)

C = TypeVar("C", bound=Callable[..., Any])


def main() -> None:
    """Run the command; print errors as a sentence, and exit with their code."""
    try:
        status = commands.main(prog_name="durable-streams", standalone_mode=False)
    except errors.ClientError as error:
        click.echo(f"durable-streams: {error}", err=True)
        status = exit_code(error)
    except click.exceptions.Abort:
        status = 130
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except OSError as error:
        click.echo(f"durable-streams: {error}", err=True)
        status = 1
    sys.exit(status)


def exit_code(error: errors.ClientError) -> int:
    """The exit code of an error; that of its cause, if a producer failed."""
    cause = error.cause if isinstance(error, errors.NotStored) else error
    return next((code for kind, code in EXIT_CODES if isinstance(cause, kind)), 1)


def _headers(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    headers = {}
    for value in values:
        name, colon, rest = value.partition(":")
        if not colon or not name.strip():
            raise click.BadParameter(f"{value!r} is not NAME: VALUE")
        headers[name.strip()] = rest.strip()
    return headers


class Commands(click.Group):
    """A group of commands that ends with status 0 when nobody reads its output any more.

    A reader such as ``head`` closes the pipe early. click would end with status 1, which fails a
    whole pipeline.
    """

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _until_nobody_reads():
            return super().make_context(*args, **extra)

    def invoke(self, context: click.Context) -> Any:
        with _until_nobody_reads():
            return super().invoke(context)


@contextmanager
def _until_nobody_reads() -> Iterator[None]:
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Nothing is left to flush when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.exceptions.Exit(0) from None


@click.group(cls=Commands, context_settings={"show_default": True, "max_content_width": 100})
@click.option(
    "--url",
    envvar=["DURABLE_STREAMS_URL", "STREAM_URL"],
    default=DEFAULT_URL,
    show_envvar=True,
    help="URL of the stream root. NAME may also be the whole URL of a stream.",
)
@click.option(
    "--token",
    envvar="DURABLE_STREAMS_TOKEN",
    show_envvar=True,
    metavar="SECRET",
    help="Bearer token. Other users can see it here; set the variable instead.",
)
@click.option(
    "--auth",
    envvar="STREAM_AUTH",
    show_envvar=True,
    metavar="VALUE",
    help="The whole Authorization header, such as 'Bearer SECRET'.",
)
@click.option(
    "--header",
    "-H",
    "headers",
    multiple=True,
    callback=_headers,
    metavar="NAME: VALUE",
    help="Header to send with every request. May be repeated.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    envvar="DURABLE_STREAMS_TIMEOUT",
    show_envvar=True,
    metavar="SECONDS",
    help="Keep trying for this long.  [default: give up after 5 attempts]",
)
@click.option("--wait", is_flag=True, help="Keep trying until the server can be reached.")
@click.version_option(package_name="durable-streams-client")
@click.pass_context
def commands(
    context: click.Context,
    *,
    url: str,
    token: str | None,
    auth: str | None,
    headers: dict[str, str],
    timeout: float | None,
    wait: bool,
) -> None:
    """Create, write, read and follow durable streams."""
    if token is not None:
        headers.setdefault("Authorization", f"Bearer {token}")
    elif auth is not None:
        headers.setdefault("Authorization", auth)
    client = Client(
        url,
        headers=headers,
        timeouts=Timeouts(total=timeout),
        # A person waits: report within 2 seconds that the server cannot be reached.
        retry=PATIENT if wait or timeout is not None else RetryPolicy(attempts=5, read_attempts=5),
    )
    context.obj = client
    context.call_on_close(client.close)


lifetime = [
    click.option(
        "--ttl", type=click.IntRange(min=0), metavar="SECONDS", help="Lifetime after the last use."
    ),
    click.option(
        "--expires-at", metavar="TIME", help="End of life, for example 2030-01-31T12:00:00Z."
    ),
]


def with_lifetime(command: C) -> C:
    for option in reversed(lifetime):
        command = option(command)
    return command


json_option = click.option("--json", "is_json", is_flag=True, help="Content type application/json.")
type_option = click.option("--content-type", metavar="TYPE", help="Content type of the stream.")


def _type(content_type: str | None, *, is_json: bool) -> str | None:
    return content_type or (JSON_CONTENT_TYPE if is_json else None)


@commands.command()
@click.argument("name")
@type_option
@json_option
@with_lifetime
@click.option("--data", help="First content of the stream.")
@click.option("--closed", is_flag=True, help="Create it closed: it takes no more data.")
@click.pass_obj
def create(
    client: Client,
    *,
    name: str,
    content_type: str | None,
    is_json: bool,
    ttl: int | None,
    expires_at: str | None,
    data: str | None,
    closed: bool,
) -> None:
    """Create the stream NAME, or check that it exists with the same configuration."""
    made = client.stream(name).create(
        content_type=_type(content_type, is_json=is_json),
        ttl=ttl,
        expires_at=expires_at,
        closed=closed,
        data=None if data is None else data.encode(errors="surrogateescape"),
    )
    say("created" if made.created else "exists", made.offset)


@commands.command()
@click.argument("name")
@click.argument("data", required=False)
@click.option("--file", "-f", type=click.File("rb"), help="File to append; - is standard input.")
@click.option("--whole", is_flag=True, help="Append all of the input at once, not line by line.")
@json_option
@click.option("--seq", help="Stream-Seq, which must be greater than that of the last append.")
@click.pass_obj
def append(
    client: Client,
    *,
    name: str,
    data: str | None,
    file: IO[bytes] | None,
    whole: bool,
    is_json: bool,
    seq: str | None,
) -> None:
    """Append DATA, or the lines of a file or of standard input, to the stream NAME.

    On a JSON stream DATA and each line are JSON text. Lines are sent in batches, and each is stored
    exactly once.
    """
    stream = client.stream(name, content_type=JSON_CONTENT_TYPE if is_json else None)
    if data is not None and file is not None:
        raise click.UsageError("Give DATA or --file, not both.")
    if data is not None or whole:
        source = file or sys.stdin.buffer
        content = source.read() if data is None else data.encode(errors="surrogateescape")
        if is_json_stream(stream):
            content = content.removeprefix(BOM)
        say("appended", stream.append(content, seq=seq).offset)
        return
    if seq is not None:
        raise click.UsageError(
            "--seq needs DATA or --whole: lines are appended by a producer, which numbers them."
        )
    count = _append_lines(stream, file or sys.stdin.buffer)
    say("appended", f"{count} line{'' if count == 1 else 's'}")


def is_json_stream(stream: Stream) -> bool:
    """Whether the stream takes JSON; asks the server if that is not known yet."""
    if stream.content_type is None:
        stream.head()
    return (stream.content_type or "").startswith(JSON_CONTENT_TYPE)


def _append_lines(stream: Stream, source: IO[bytes]) -> int:
    is_json = is_json_stream(stream)
    count = 0
    with stream.producer() as producer, progress(source) as advance:
        for count, line in enumerate(source, 1):
            advance(len(line))
            if count == 1 and is_json:
                line = line.removeprefix(BOM)  # noqa: PLW2901 - the same line without its mark
            if line.strip() or not is_json:
                producer.append(line)
    return count


@contextmanager
def progress(source: IO[bytes]) -> Iterator[Callable[[int], None]]:
    """Show progress on a terminal: a bar for a file, a count for a pipe of unknown length."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    size = os.fstat(source.fileno()).st_size
    held = 0
    if size:
        with click.progressbar(length=size, file=sys.stderr, label="appending") as bar:

            def advance(count: int) -> None:
                nonlocal held
                held += count
                if held >= PROGRESS_BYTES:
                    bar.update(held)
                    held = 0

            yield advance
            bar.update(held)
        return

    def tell(count: int) -> None:
        nonlocal held
        if held // PROGRESS_BYTES != (held + count) // PROGRESS_BYTES:
            click.echo(f"\rappending {(held + count) / 1e6:,.1f} MB", nl=False, err=True)
        held += count

    yield tell
    if held >= PROGRESS_BYTES:
        click.echo(err=True)


@commands.command()
@click.argument("name")
@click.option("--from", "offset", default=START, metavar="OFFSET", help="-1 is the start.")
@click.option(
    "--raw",
    is_flag=True,
    help="Print JSON as the server sends it: arrays, not one message on each line.",
)
@click.pass_obj
def read(client: Client, *, name: str, offset: str, raw: bool) -> None:
    """Print what the stream NAME holds now."""
    with client.stream(name).read(offset) as reader:
        show(reader, raw=raw)


@commands.command()
@click.argument("name")
@click.option("--from", "offset", default=START, metavar="OFFSET", help="-1 is the start.")
@click.option("--now", is_flag=True, help="Print only data that is appended from now on.")
@click.option("--sse", "live", flag_value="sse", help="Use SSE only.")
@click.option("--long-poll", "live", flag_value="long-poll", help="Use long-polling only.")
@click.option(
    "--checkpoint",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Begin at the offset in FILE, and save the offset there on the way.",
)
@click.option(
    "--raw",
    is_flag=True,
    help="Print JSON as the server sends it: arrays, not one message on each line.",
)
@click.pass_obj
def follow(
    client: Client,
    *,
    name: str,
    offset: str,
    now: bool,
    live: Live | None,
    checkpoint: str | None,
    raw: bool,
) -> None:
    """Print the stream NAME as it grows, until it is closed."""
    file = None if checkpoint is None else FileCheckpoint(checkpoint)
    stream = client.stream(name)
    stream.head()  # A reader would wait for ever for a server that cannot be reached.
    with stream.follow(NOW if now else offset, live=live or "auto", checkpoint=file) as reader:
        show(reader, raw=raw)


def show(reader: Reader[Any], *, raw: bool) -> None:
    """Print batches; JSON as one message on each line, or indented on a terminal."""
    out = sys.stdout.buffer
    pretty = sys.stdout.isatty()
    for batch in reader:
        out.write(batch.data if raw or not batch.is_json else lines_of(batch, pretty=pretty))
        if raw and batch.is_json and batch.data:
            out.write(b"\n")
        out.flush()


def lines_of(batch: Batch[Any], *, pretty: bool) -> bytes:
    """The text of each message, on one line or indented."""
    texts = batch.messages()
    if pretty:
        texts = [_indented(text) for text in texts]
    else:
        # JSON has line breaks between tokens only.
        texts = [text.replace(b"\r", b" ").replace(b"\n", b" ") for text in texts]
    return b"".join(b"%b\n" % text for text in texts)


def _indented(text: bytes) -> bytes:
    try:
        return msgspec.json.format(text, indent=2)
    except (ValueError, RecursionError):
        return text


@commands.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def head(client: Client, *, name: str, as_json: bool) -> None:
    """Print the content type, tail, state and lifetime of the stream NAME."""
    info = client.stream(name).head()
    facts = {
        "content-type": info.content_type,
        "offset": info.offset,
        "closed": info.closed,
        "ttl": info.ttl,
        "expires-at": info.expires_at,
    }
    if as_json:
        click.echo(msgspec.json.encode(facts))
        return
    for key, value in facts.items():
        if value is not None:
            click.echo(f"{key}: {str(value).lower() if isinstance(value, bool) else value}")


@commands.command()
@click.argument("name")
@click.argument("data", required=False)
@json_option
@click.pass_obj
def close(client: Client, *, name: str, data: str | None, is_json: bool) -> None:
    """Close the stream NAME for ever, with DATA as its last content if given."""
    stream = client.stream(name, content_type=JSON_CONTENT_TYPE if is_json else None)
    say(
        "closed",
        stream.close_stream(None if data is None else data.encode(errors="surrogateescape")).offset,
    )


@commands.command()
@click.argument("source")
@click.argument("name")
@click.option("--offset", help="Offset where the fork leaves SOURCE.  [default: its tail]")
@click.option("--sub-offset", type=click.IntRange(min=0), help="This many more messages, or bytes.")
@with_lifetime
@click.pass_obj
def fork(
    client: Client,
    *,
    source: str,
    name: str,
    offset: str | None,
    sub_offset: int | None,
    ttl: int | None,
    expires_at: str | None,
) -> None:
    """Create the stream NAME as a fork, which begins with the data of SOURCE."""
    made = client.stream(name).fork(
        client.stream(source),
        offset=offset,
        sub_offset=sub_offset,
        ttl=ttl,
        expires_at=expires_at,
    )
    say("forked" if made.created else "exists", made.offset)


@commands.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--missing-ok", is_flag=True, help="Succeed if there is no such stream.")
@click.pass_obj
def delete(client: Client, *, names: tuple[str, ...], missing_ok: bool) -> None:
    """Delete streams and their data."""
    for name in names:
        client.stream(name).delete(missing_ok=missing_ok)
        say("deleted", name)


@commands.command()
@click.option("--count", default=100_000, type=click.IntRange(min=1), help="Number of messages.")
@click.option("--size", default=100, type=click.IntRange(min=2), help="Bytes of each message.")
@click.pass_obj
def bench(client: Client, *, count: int, size: int) -> None:
    """Measure appends, a producer and a catch-up read on a new stream, which is deleted."""
    stream = client.stream(f"bench-{secrets.token_hex(6)}")
    stream.create(content_type=JSON_CONTENT_TYPE)
    try:
        message = b'"' + b"x" * (size - 2) + b'"'
        appends = min(count, 200)
        took = timed(lambda: [stream.append(message) for _ in range(appends)])
        click.echo(f"append, one by one   {took / appends * 1000:10.2f} ms each")
        took = timed(partial(_produce, stream, message, count))
        click.echo(f"producer             {count / took:10,.0f} messages/s")
        took = timed(lambda: [len(batch.data) for batch in stream.read()])
        click.echo(f"catch-up             {(count + appends) * size / took / 1e6:10.1f} MB/s")
    finally:
        stream.delete(missing_ok=True)


def _produce(stream: Stream, message: bytes, count: int) -> None:
    with stream.producer() as producer:
        for _ in range(count):
            producer.append(message)


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@commands.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script for SHELL: eval "$(durable-streams completion bash)"."""
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(commands, {}, "durable-streams", "_DURABLE_STREAMS_COMPLETE").source())


def say(what: str, detail: str) -> None:
    """Print what was done, for a person. Scripts use the exit code and standard output."""
    click.echo(f"{what} {detail}", err=True)
