"""The commands of ``durable-streams``.

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
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import IO, Any, Final, TypeVar

import click
import msgspec
from click.shell_completion import get_completion_class

from durable_streams_client import errors
from durable_streams_client._sync.client import Client
from durable_streams_client._sync.stream import Stream
from durable_streams_client.checkpoints import FileCheckpoint
from durable_streams_client.cli.completing import name_argument, stream_names
from durable_streams_client.cli.terminal import Printer, progress, say, size_of
from durable_streams_client.options import Live, Retry, Timeouts
from durable_streams_client.retry import RetryPolicy
from durable_streams_core.protocol import JSON_CONTENT_TYPE, NOW, START

DEFAULT_URL: Final = "http://127.0.0.1:4437/v1/stream/"

BOM: Final = b"\xef\xbb\xbf"
"""What some editors and shells put before UTF-8 text; it is not JSON."""
CONNECT_SECONDS: Final = 2.5
"""How long to try to connect, unless told to wait."""

PATIENT: Final = RetryPolicy(attempts=sys.maxsize, read_attempts=sys.maxsize)

C = TypeVar("C", bound=Callable[..., Any])


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


class ConnectLimit:
    """Ends the command if its first connection is not made in time, however many tries are left."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self.over = False
        """Whether the server was reached: what breaks then is waited out."""

    def __call__(self, retry: Retry) -> None:
        late = time.monotonic() - self._start + retry.delay > CONNECT_SECONDS
        if late and not self.over and isinstance(retry.error, errors.ConnectFailed):
            raise retry.error


def reached() -> None:
    """Note that the server was reached."""
    click.get_current_context().find_root().meta[ConnectLimit.__name__].over = True


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
    limit = context.meta[ConnectLimit.__name__] = ConnectLimit()
    patient = wait or timeout is not None
    client = Client(
        url,
        headers=headers,
        # A person waits: report within 3 seconds that the server cannot be reached.
        timeouts=Timeouts(total=timeout, connect=10.0 if patient else CONNECT_SECONDS),
        retry=PATIENT if patient else RetryPolicy(attempts=5, read_attempts=5),
        on_retry=None if patient else limit,
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
@name_argument()
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
@name_argument()
@click.argument("data", required=False)
@click.option("--file", "-f", type=click.File("rb"), help="File to append; - is standard input.")
@click.option("--whole", is_flag=True, help="Append all of the input at once, not line by line.")
@click.option("--create", "creates", is_flag=True, help="Create the stream if there is none.")
@type_option
@json_option
@click.option("--seq", help="Stream-Seq, which must be greater than that of the last append.")
@click.option(
    "--expected", metavar="OFFSET", help="Append only if this is the tail (our server's extension)."
)
@click.pass_obj
def append(
    client: Client,
    *,
    name: str,
    data: str | None,
    file: IO[bytes] | None,
    whole: bool,
    creates: bool,
    content_type: str | None,
    is_json: bool,
    seq: str | None,
    expected: str | None,
) -> None:
    """Append DATA, or the lines of a file or of standard input, to the stream NAME.

    On a JSON stream DATA and each line are JSON text. Lines are sent in batches, and each is stored
    exactly once.
    """
    content_type = _type(content_type, is_json=is_json)
    stream = client.stream(name, content_type=None if creates else content_type)
    if data is not None and file is not None:
        raise click.UsageError("Give DATA or --file, not both.")
    by_line = data is None and not whole
    if by_line and (seq is not None or expected is not None):
        raise click.UsageError(
            "--seq and --expected need DATA or --whole: lines are appended by a producer, which"
            " numbers them."
        )
    if creates:
        create_if_missing(stream, content_type)
    source = file or sys.stdin.buffer
    if by_line:
        count = _append_lines(stream, source)
        say("appended", f"{count} line{'' if count == 1 else 's'}")
        return
    content = source.read() if data is None else data.encode(errors="surrogateescape")
    if is_json_stream(stream):
        content = content.removeprefix(BOM)
    say("appended", stream.append(content, seq=seq, expected=expected).offset)


def create_if_missing(stream: Stream, content_type: str | None) -> None:
    """Create the stream unless it exists, whatever its configuration then is."""
    try:
        stream.head()
    except errors.NotFound:
        made = stream.create(content_type=content_type)
        say("created", made.content_type)


def is_json_stream(stream: Stream) -> bool:
    """Whether the stream takes JSON; asks the server if that is not known yet."""
    if stream.content_type is None:
        stream.head()
    return (stream.content_type or "").startswith(JSON_CONTENT_TYPE)


def _append_lines(stream: Stream, source: IO[bytes]) -> int:
    is_json = is_json_stream(stream)
    reached()
    count = 0
    with progress("appending", size_of(source)) as advance, stream.producer() as producer:
        for count, line in enumerate(source, 1):
            advance(len(line))
            if count == 1 and is_json:
                line = line.removeprefix(BOM)  # noqa: PLW2901 - the same line without its mark
            if line.strip() or not is_json:
                producer.append(line)
    return count


def with_output(command: C) -> C:
    """The options that say how messages are printed, as one argument ``output``."""
    for option in (
        click.option(
            "--output",
            "-o",
            type=click.Choice(["json", "jsonl", "raw"]),
            help="How to print messages of a JSON stream: indented, one on each line, or as arrays"
            " that the server sent.  [default: json on a terminal, jsonl elsewhere]",
        ),
        click.option("--json", "output", flag_value="json", help="The same as --output json."),
        click.option("--raw", "output", flag_value="raw", help="The same as --output raw."),
    ):
        command = option(command)
    return command


from_option = click.option(
    "--from", "offset", default=START, metavar="OFFSET", help="-1 is the start."
)
last_option = click.option(
    "--last",
    type=click.IntRange(min=1),
    metavar="COUNT",
    help="Only the last messages, or lines of a text. The protocol reads forwards, so all before"
    " them is read too.",
)


@commands.command()
@name_argument()
@from_option
@last_option
@with_output
@click.pass_obj
def read(client: Client, *, name: str, offset: str, last: int | None, output: str | None) -> None:
    """Print what the stream NAME holds now."""
    printer = Printer(output)
    with client.stream(name).read(offset) as reader:
        if last is not None:
            printer.show_last(reader, last)
            return
        in_file = sys.stderr.isatty() and not sys.stdout.isatty()
        size = stored_size(client, name) if in_file and offset == START else None
        with progress("reading", size) if in_file else nullcontext(no_progress) as advance:
            printer.show(reader, advance)


def no_progress(_: int) -> None:
    """Where output goes to a terminal, a bar would be in its way."""


def stored_size(client: Client, name: str) -> int | None:
    """How many bytes the stream holds, if the server says so."""
    with suppress(errors.ClientError):
        for listed in client.list(name):
            return listed.size if listed.path == name else None
    return None


@commands.command()
@name_argument()
@from_option
@click.option("--now", is_flag=True, help="Print only data that is appended from now on.")
@last_option
@click.option("--sse", "live", flag_value="sse", help="Use SSE only.")
@click.option("--long-poll", "live", flag_value="long-poll", help="Use long-polling only.")
@click.option(
    "--checkpoint",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Begin at the offset in FILE, and save the offset there on the way.",
)
@with_output
@click.pass_obj
def follow(
    client: Client,
    *,
    name: str,
    offset: str,
    now: bool,
    last: int | None,
    live: Live | None,
    checkpoint: str | None,
    output: str | None,
) -> None:
    """Print the stream NAME as it grows, until it is closed."""
    if last is not None and (now or checkpoint is not None):
        raise click.UsageError("Give --last without --now and --checkpoint.")
    printer = Printer(output)
    file = None if checkpoint is None else FileCheckpoint(checkpoint)
    stream = client.stream(name)
    stream.head()  # A reader would wait for ever for a server that cannot be reached.
    reached()
    if last is not None:
        with stream.read(offset) as stored:
            printer.show_last(stored, last)
            offset = stored.offset
    with stream.follow(NOW if now else offset, live=live or "auto", checkpoint=file) as reader:
        printer.show(reader, no_progress)


@commands.command()
@click.argument("prefix", default="", shell_complete=stream_names)
@click.option("--long", "-l", "is_long", is_flag=True, help="Print size, state and content type.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object on each line.")
@click.pass_obj
def ls(client: Client, *, prefix: str, is_long: bool, as_json: bool) -> None:
    """List the streams whose names begin with PREFIX."""
    for listed in client.list(prefix):
        if as_json:
            click.echo(msgspec.json.encode(listed))
        elif is_long:
            state = "closed" if listed.closed else "open"
            click.echo(
                f"{listed.size:>14,}  {state:<6}  {listed.created_at[:19]}  {listed.path}"
                f"  {listed.content_type}"
            )
        else:
            click.echo(listed.path)


@commands.command()
@name_argument()
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
@name_argument()
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
@name_argument("source")
@name_argument()
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
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=stream_names)
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
