"""Runs a command and streams what it prints.

python stream_job.py http://127.0.0.1:4437/v1/stream/jobs/7 make all
"""

import subprocess
import sys

from durable_streams_client import Client


def run_job(url: str, *command: str) -> int:
    with Client() as client:
        output = client.stream(url)
        output.create(content_type="text/plain; charset=utf-8", ttl=24 * 3600)
        with (
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
            ) as job,
            output.producer() as out,
        ):
            while data := job.stdout.read(65536):  # whatever there is
                out.append(data)
            out.close_stream(f"\nended with status {job.wait()}\n")
        return job.returncode


if __name__ == "__main__":
    sys.exit(run_job(*sys.argv[1:]))
