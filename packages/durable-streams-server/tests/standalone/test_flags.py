"""The command's flags that are the standalone server's."""

from typing import Any

import pytest
from click.testing import CliRunner

from durable_streams_server.cli.command import main


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--tls-key", __file__], "needs --tls-cert"),
        (["--tls-cert", __file__], "PEM"),
        (["--tls-cert", "/nowhere.pem"], "does not exist"),
        (["--uds", "/nowhere/socket"], "/nowhere/socket"),
        (["--max-connections", "0"], "--max-connections"),
    ],
)
def test_what_cannot_work_is_said_in_a_sentence(flags: Any, says: str) -> None:
    result = CliRunner().invoke(main, ["--store", "memory:", *flags])
    assert result.exit_code != 0
    assert says in result.output
    assert "Traceback" not in result.output
