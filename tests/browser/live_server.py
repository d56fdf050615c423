"""A server of its own process, which can be restarted on its port."""

import signal
import subprocess
import sys

import httpx
from ports import free_port


class Server:
    """The command ``durable-streams-server``, restarted on the same port when asked to."""

    def __init__(self, store: str, *options: str) -> None:
        self._command = [
            *(sys.executable, "-m", "durable_streams_server", "--store", store),
            *(*options, "--log-level", "error", "--port", str(free_port())),
        ]
        self._start()

    def _start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.root = self.process.stdout.readline().split()[-1].rstrip("/")
        self.origin = self.root.removesuffix("/v1/stream")

    def restart(self, how: int = signal.SIGTERM) -> None:
        """End the process with one signal, let it drain, and start another on its port."""
        self.process.send_signal(how)
        self._wait()
        self._start()

    def stop(self) -> None:
        self.process.terminate()
        self._wait()

    def _wait(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process.wait(60)

    def request(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        response = httpx.request(
            method, f"{self.root}/{path}", content=body, headers=named, timeout=60
        )
        assert response.is_success, response.text
        return response

    def create(self, path: str, content_type: str = "application/json") -> None:
        self.request("PUT", path, content_type=content_type)

    def append(self, path: str, body: bytes, content_type: str = "application/json") -> None:
        self.request("POST", path, body, content_type=content_type)

    def close_stream(self, path: str) -> None:
        self.request("POST", path, b"", stream_closed="true")
