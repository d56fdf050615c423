"""The command, as a shell sees it: output, messages, exit codes."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hostile import Fault, Hostile, refuse

from durable_streams_client.cli import main

JSON = "application/json"
Run = Callable[..., tuple[int, str, str]]
INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from durable_streams_client.cli import main
main()
"""
"""The command, although what starts it ignores interrupts, as a shell's background jobs do."""


@pytest.fixture
def run(server: Hostile, monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in [name for name in os.environ if name.startswith(("STREAM_", "DURABLE_STREAMS"))]:
        monkeypatch.delenv(name)

    def run(*arguments: str, stdin: str = "", **environment: str) -> tuple[int, str, str]:
        """Run the command in this process, as a start of Python takes longer than the command."""
        streams = [
            io.TextIOWrapper(io.BytesIO(text), "utf-8") for text in (stdin.encode(), b"", b"")
        ]
        with monkeypatch.context() as patch:
            for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
                patch.setattr(sys, name, stream)
            patch.setattr(sys, "argv", ["durable-streams", *arguments])
            for name, value in {"STREAM_URL": server.url, **environment}.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main()
        _, out, err = ([stream.flush(), stream.buffer.getvalue().decode()][1] for stream in streams)
        return ended.value.code or 0, out, err

    return run


def test_a_stream_from_beginning_to_end(server: Hostile, run: Run, tmp_path: Path) -> None:
    assert run("create", "a", "--json", "--ttl", "60") == (0, "", "created 00000000\n")
    assert run("create", "a", "--json")[2].startswith("exists")
    assert run("append", "a", '{"n":1}') == (0, "", "appended 00000001\n")
    assert run("append", "a", stdin='{"n":2}\n\n[3]\n')[2] == "appended 3 lines\n"
    (tmp_path / "x").write_text('"4"\n')
    assert run("append", "a", "--json", "--file", str(tmp_path / "x"))[2] == "appended 1 line\n"
    assert run("read", "a")[1] == '{"n":1}\n{"n":2}\n[3]\n"4"\n'
    assert run("read", "a", "--raw", "--from", "00000002")[1] == '[[3],"4"]\n'
    assert json.loads(run("head", "a", "--json")[1])["ttl"] == 60
    assert "closed: false" in run("head", "a")[1]
    assert run("fork", "a", "b", "--offset", "00000001", "--sub-offset", "1")[0] == 0
    assert run("read", "b")[1] == '{"n":1}\n{"n":2}\n'
    assert run("close", "a", "5") == (0, "", "closed 00000005\n")
    assert run("follow", "a", "--from", "00000004")[1] == "5\n"
    assert run("delete", "a", "b") == (0, "", "deleted a\ndeleted b\n")
    assert run("delete", "a", "--missing-ok")[0] == 0


def test_bytes_stay_bytes(server: Hostile, run: Run) -> None:
    server.put("a")
    run("append", "a", stdin="one\n\ntwo")
    run("append", "a", "--whole", stdin="\nthree\n")
    assert run("read", "a")[1] == "one\n\ntwo\nthree\n"


def test_messages_are_printed_as_the_server_has_them(server: Hostile, run: Run) -> None:
    odd = [rb'{"delta":"\ud83d"}', b"1e400", b"1" * 5000, b'{"a": 1.0,\r\n "a":2}', b"[ ]"]
    server.put("a", *odd, content_type=JSON).closed = True
    lines = [message.replace(b"\r\n", b"  ").decode() for message in odd]
    for command in ("read", "follow"):
        assert run(command, "a") == (0, "\n".join(lines) + "\n", "")


def test_exit_codes(server: Hostile, run: Run) -> None:
    server.put("c").closed = True
    assert run("read", "a")[0] == 3
    assert run("append", "c", "x")[0] == 4
    assert run("append", "c", stdin="x\n")[0] == 4
    assert run("create", "c", "--json")[0] == 4
    assert run("append", "c", "x", "--file", "/dev/null")[0] == 2
    assert run("append", "c", "--seq", "1")[0] == 2
    assert run("create", "n", "--ttl", "1", "--expires-at", "2030-01-01T00:00:00Z")[0] == 2
    assert run("nonsense")[0] == 2
    assert run("-H", "nonsense", "head", "c")[0] == 2
    assert run("head", "a", STREAM_URL="http://127.0.0.1:9/", DURABLE_STREAMS_TIMEOUT="0.3")[0] == 6
    server.faults = lambda asked: refuse(401)
    status, _, told = run("head", "c")
    assert status == 5
    assert "credentials" in told
    server.faults = lambda asked: refuse(507)
    assert run("--timeout", "0.3", "head", "c")[0] in (6, 7)
    server.faults = lambda asked: Fault(drop=["Stream-Next-Offset"])
    assert run("head", "c")[0] == 1


@pytest.mark.parametrize(
    "arguments,environment,sent",
    [
        (["--token", "t"], {}, "Bearer t"),
        ([], {"DURABLE_STREAMS_TOKEN": "e"}, "Bearer e"),
        ([], {"STREAM_AUTH": "Basic x"}, "Basic x"),
        (["--auth", "ApiKey k"], {"STREAM_AUTH": "Basic x"}, "ApiKey k"),
        (["-H", "Authorization: Mine m"], {"DURABLE_STREAMS_TOKEN": "e"}, "Mine m"),
    ],
)
def test_credentials(
    server: Hostile, run: Run, arguments: list[str], environment: dict[str, str], sent: str
) -> None:
    server.put("a")
    assert run(*arguments, "head", "a", **environment)[0] == 0
    assert server.asked[-1].headers["authorization"] == sent


@pytest.mark.parametrize("live", ["--sse", "--long-poll"])
def test_follow_prints_as_it_comes_and_remembers(
    server: Hostile, run: Run, tmp_path: Path, live: str
) -> None:
    server.put("a", b"1", content_type=JSON)
    kept = tmp_path / "offset"
    command = [sys.executable, "-c", INTERRUPTIBLE, "--url", server.url]
    with subprocess.Popen(
        [*command, "follow", "a", live, "--checkpoint", str(kept)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        server.write("a", b"2")
        assert process.stdout.readline() == "2\n"
        server.wait_until(lambda: kept.exists() and kept.read_text() == "00000002\n")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    server.write("a", b"3", close=True)
    assert run("follow", "a", "--checkpoint", str(kept))[1] == "3\n"


def test_who_reads_us_may_leave(server: Hostile, run: Run) -> None:
    server.put("a", *[b'"%d"' % n for n in range(50_000)], content_type=JSON)
    with subprocess.Popen(
        [sys.executable, "-m", "durable_streams_client", "--url", server.url, "read", "a"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b'"0"\n'
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == b""


@pytest.mark.parametrize("arguments", [["read", "a"], ["head", "a"], ["--help"], ["--version"]])
def test_output_that_nobody_reads_is_no_failure(
    server: Hostile, run: Run, arguments: list[str]
) -> None:
    """A shell with `pipefail` would take any other status for a failure of the whole pipeline."""
    server.put("a", b"1" * 100_000)
    reading, writing = os.pipe()
    os.close(reading)
    with subprocess.Popen(
        [sys.executable, "-m", "durable_streams_client", "--url", server.url, *arguments],
        stdout=writing,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(writing)
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


def test_a_byte_order_mark_is_not_json_but_is_text(server: Hostile, run: Run) -> None:
    server.put("a", content_type=JSON)
    server.put("t", content_type="text/plain")
    assert run("append", "a", stdin='\ufeff{"n":1}\n2\n')[0] == 0
    assert run("append", "a", "--whole", stdin="\ufeff3")[0] == 0
    assert run("append", "a", "\ufeff4")[0] == 0
    assert run("append", "t", stdin="\ufeff5\n")[0] == 0
    assert run("read", "a")[1] == '{"n":1}\n2\n3\n4\n'
    assert run("read", "t")[1] == "\ufeff5\n"


def test_a_name_that_is_not_unicode_is_wrong_usage(server: Hostile, run: Run) -> None:
    status, _, told = run("head", os.fsdecode(b"\xff"))
    assert status == 2
    assert "not Unicode" in told
    assert "Traceback" not in told


def test_it_waits_for_a_server_only_when_told_to(server: Hostile, run: Run) -> None:
    server.put("a", b"1")
    server.stop()
    for arguments in (["read", "a"], ["follow", "a"]):
        status, _, told = run(*arguments)
        assert status == 6
        assert told.count("trying again") < 5
    command = [sys.executable, "-m", "durable_streams_client", "--url", server.url, "--wait"]
    with subprocess.Popen(
        [*command, "read", "a"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        for _ in range(6):
            assert b"trying again" in process.stderr.readline()
        server.start()
        assert process.communicate(timeout=60)[0] == b"1"
        assert process.returncode == 0


def test_bench_cleans_up(server: Hostile, run: Run) -> None:
    status, out, _ = run("bench", "--count", "500")
    assert status == 0
    assert "messages/s" in out
    assert not server.streams


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(run: Run, shell: str) -> None:
    assert "_DURABLE_STREAMS_COMPLETE" in run("completion", shell)[1]


def test_version(run: Run) -> None:
    assert "0.1" in run("--version")[1]


def test_a_refused_connection_is_told_of_soon(run: Run) -> None:
    """Every command, and not after half a minute of tries."""
    for command in (["head", "a"], ["append", "a", "x"], ["read", "a"], ["follow", "a"]):
        status, out, err = run("--url", "http://127.0.0.1:9/", *command)
        assert (status, out) == (6, "")
        assert "Check the address" in err
        assert err.count("trying again") <= 4


# -- what a person sees ----------------------------------------------------------------------------


def test_append_creates_a_stream_when_told_to(server: Hostile, run: Run) -> None:
    assert run("append", "a", "1")[0] == 3
    status, _, told = run("append", "a", "--create", "--json", '{"n":1}')
    assert (status, told) == (0, "created application/json\nappended 00000001\n")
    assert run("append", "a", "--create", stdin="2\n3\n")[2] == "appended 2 lines\n"
    assert run("append", "t", "--create", "--content-type", "text/plain", "x")[0] == 0
    assert server.streams["/t"].content_type == "text/plain"
    assert server.streams["/a"].messages == [b'{"n":1}', b"2", b"3"]


def test_append_expects_a_tail(server: Hostile, run: Run) -> None:
    server.extended = True
    server.put("a", b"1")
    assert run("append", "a", "2", "--expected", "00000001")[0] == 0
    status, _, told = run("append", "a", "3", "--expected", "00000001")
    assert status == 4
    assert "The tail of the stream is 00000002" in told
    assert run("append", "a", "--expected", "00000002")[0] == 2


def test_ls_lists_streams(server: Hostile, run: Run) -> None:
    server.extended = True
    server.put("chats/1", b"1", content_type=JSON)
    server.put("chats/2")
    server.put("jobs")
    assert run("ls") == (0, "chats/1\nchats/2\njobs\n", "")
    assert run("ls", "chats/", "-l")[1].splitlines()[0].split() == [
        *("1", "open", "2026-01-01T00:00:00", "chats/1", JSON)
    ]
    [line] = run("ls", "jobs", "--json")[1].splitlines()
    assert json.loads(line)["path"] == "jobs"
    server.extended = False
    status, _, told = run("ls")
    assert status == 1
    assert "does not list its streams" in told


def test_the_shell_completes_the_names_of_streams(server: Hostile, run: Run) -> None:
    server.extended = True
    for name in ("chats/1", "chats/2", "jobs"):
        server.put(name)
    complete = {"_DURABLE_STREAMS_COMPLETE": "bash_complete", "COMP_CWORD": "2"}
    for words in ("read chats/", "fork chats/", "delete chats/"):
        done = run(**complete, COMP_WORDS=f"durable-streams {words}")
        assert done[1:] == ("plain,chats/1\nplain,chats/2\n", "")
    server.stop()
    assert run(**complete, COMP_WORDS="durable-streams read ")[1].strip() == ""


def test_the_last_messages_or_lines(server: Hostile, run: Run) -> None:
    server.page = 2
    server.put("a", *[b"%d" % n for n in range(9)], content_type=JSON).closed = True
    server.put("t", b"one\ntwo\nth", b"ree\nfour", content_type="text/plain").closed = True
    for command in ("read", "follow"):
        assert run(command, "a", "--last", "2")[1] == "7\n8\n"
        assert run(command, "a", "--last", "100")[1].split() == [str(n) for n in range(9)]
        assert run(command, "t", "--last", "2")[1] == "three\nfour"
    assert run("follow", "a", "--last", "2", "--now")[0] == 2
    # A line over many pages, and a break at the very end of one.
    server.put("u", *[b"ab"] * 9, b"c\n", b"d\n\n", content_type="text/plain").closed = True
    assert run("read", "u", "--last", "1")[1] == "\n"
    assert run("read", "u", "--last", "3")[1] == "ab" * 9 + "c\nd\n\n"


@pytest.mark.parametrize(
    "options,printed",
    [
        ([], '{"n":[1,2]}\n3\n'),
        (["--output", "jsonl"], '{"n":[1,2]}\n3\n'),
        (["--json"], '{\n  "n": [\n    1,\n    2\n  ]\n}\n3\n'),
        (["-o", "raw"], '[{"n":[1,2]},3]\n'),
    ],
)
def test_how_messages_are_printed(
    server: Hostile, run: Run, options: list[str], printed: str
) -> None:
    server.put("a", b'{"n":[1,2]}', b"3", content_type=JSON).closed = True
    for command in ("read", "follow"):
        assert run(command, "a", *options) == (0, printed, "")


def test_errors_say_what_to_type_next(server: Hostile, run: Run) -> None:
    server.put("c").closed = True
    assert "durable-streams create NAME" in run("read", "a")[2]
    assert "durable-streams read NAME" in run("append", "c", "x")[2]
    assert "durable-streams read NAME" in run("append", "c", stdin="x\n")[2]
    assert "--wait" in run("--url", "http://127.0.0.1:9/", "head", "a")[2]
    server.faults = lambda asked: refuse(401)
    assert "DURABLE_STREAMS_TOKEN" in run("head", "c")[2]


@pytest.mark.skipif(sys.platform == "win32", reason="terminals of POSIX")
@pytest.mark.parametrize(
    "arguments,shown",
    [
        (["follow", "a"], ['\x1b[34m"n"\x1b[0m: \x1b[36m1\x1b[0m', '\x1b[32m"x"\x1b[0m']),
        (["read", "a", "-o", "jsonl"], ['{"n":1}\r\n"x"\r\n']),
        (["append", "b", "-f", "FILE"], ["appending: 100%", "appended 3 lines"]),
    ],
)
def test_a_terminal_shows_colours_and_progress(
    server: Hostile, tmp_path: Path, arguments: list[str], shown: list[str]
) -> None:
    import fcntl
    import pty
    import struct
    import termios

    server.put("a", b'{"n":1}', b'"x"', content_type=JSON).closed = True
    server.put("b", content_type="text/plain")
    (tmp_path / "file").write_text("one\ntwo\nthree\n")
    arguments = [str(tmp_path / "file") if each == "FILE" else each for each in arguments]
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    with subprocess.Popen(
        [sys.executable, "-m", "durable_streams_client", "--url", server.url, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=environment,
    ) as process:
        os.close(theirs)
        printed = b""
        with suppress(OSError):  # what Linux says when the other side is closed
            while piece := os.read(ours, 4096):
                printed += piece
        assert process.wait(60) == 0
    os.close(ours)
    for text in shown:
        assert text in printed.decode()
