"""The servers that are measured, each a process of its own on one core."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CONFORMANCE = ROOT / "conformance"
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")

# What each is started with; PORT and DIR are filled in.
OURS = [sys.executable, "-m", "durable_streams_server", "--port", "PORT", "--sse-rotation", "3600"]
NODE = ["node", "reference.mjs", "--port", "PORT"]
UVICORN = ["--host", "127.0.0.1", "--port", "PORT", "--no-access-log", "--log-level", "warning"]
FASTAPI = [sys.executable, "-m", "uvicorn", "--app-dir", str(HERE), "fastapi_app:app"]
CADDY = ["ds-caddy", "run", "--adapter", "caddyfile", "--config", str(HERE / "Caddyfile")]
# Both crates call their program durable-streams-server: link the one of `durable-streams` as
# ds-electric, that of `durable-streams-server` as ds-axum.
ELECTRIC = ["ds-electric", "--port", "PORT", "--data-dir", "DIR", "--worker-threads", "1"]
AXUM = {
    "DS_SERVER__BIND_ADDRESS": "127.0.0.1:PORT",
    "DS_LIMITS__MAX_MEMORY_BYTES": "4000000000",
    "DS_LIMITS__MAX_STREAM_BYTES": "2000000000",
    "DS_OBSERVABILITY__RUST_LOG": "error",
    "TOKIO_WORKER_THREADS": "1",
}


@dataclass(frozen=True)
class Kind:
    """One server: its name in tables, its command, and what must be there to run it."""

    name: str
    command: list[str]
    needs: str = ""
    root: str = "/v1/stream"
    durable: bool = False
    environment: dict[str, str] = field(default_factory=dict)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("ours", [*OURS, "--store", "memory:"]),
        Kind("ours-aiohttp", [*OURS, "--store", "memory:", "--front-end", "aiohttp"]),
        Kind("ours-fastapi", [*FASTAPI, *UVICORN]),
        Kind("ours-file", [*OURS, "--store", "file:DIR"], durable=True),
        Kind("node", NODE, "node"),
        Kind("node-file", [*NODE, "--data-dir", "DIR"], "node", durable=True),
        Kind("caddy", CADDY, "ds-caddy", environment={"BENCH_PORT": "PORT"}),
        Kind("rakaia", [sys.executable, "-m", "uvicorn", "rakaia:app", *UVICORN]),
        Kind("rust-electric", [*ELECTRIC, "--durability", "memory"], "ds-electric"),
        Kind("rust-axum", ["ds-axum"], "ds-axum", environment=AXUM),
        Kind("rust-electric-wal", [*ELECTRIC, "--durability", "wal"], "ds-electric", durable=True),
    )
}


class Server:
    """A running server and what it has used so far."""

    def __init__(self, kind: Kind, core: int) -> None:
        self.kind = kind
        self.name = kind.name
        self.streams = 0
        """How many streams the realistic load has created here."""
        self.directory = tempfile.TemporaryDirectory(prefix="durable-streams-bench-")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}{kind.root}"
        filled = [
            word.replace("PORT", str(port)).replace("DIR", self.directory.name)
            for word in kind.command
        ]
        environment = {
            name: value.replace("PORT", str(port)) for name, value in kind.environment.items()
        }
        self.log = Path(self.directory.name + ".log").open("wb")
        self.process = subprocess.Popen(
            ["taskset", "-c", str(core), *filled],
            cwd=CONFORMANCE,
            env={**os.environ, **environment},
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    self.stop()
                    raise
                time.sleep(0.05)

    def cpu(self) -> float:
        """Seconds of processor time, of all threads."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def memory(self) -> int:
        """Bytes resident."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
        Path(self.log.name).unlink(missing_ok=True)
        self.directory.cleanup()


def available(name: str) -> bool:
    """Whether what the server needs is installed."""
    kind = KINDS[name]
    if kind.needs == "node" and not (CONFORMANCE / "node_modules").exists():
        return False
    if name == "rakaia":
        probe = [sys.executable, "-c", "import rakaia, uvicorn"]
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0
    return not kind.needs or shutil.which(kind.needs) is not None
