"""The secrets of the configuration file, which may change while the server runs."""

import logging

import click

from durable_streams_server.cli.config_file import ConfigFile
from durable_streams_server.cli.logs import hide_secrets, secrets_of
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.signing import ReadSigner

log = logging.getLogger("durable_streams_server.cli")


class ConfiguredSecrets:
    """The token and the signing keys of a configuration file, as a mount uses them.

    A secret that a flag or a variable sets stays. Every other option of the file takes effect at
    the next start.
    """

    def __init__(self, file: ConfigFile, mount: Mount) -> None:
        self._file = file
        self._mount = mount

    @property
    def label(self) -> str:
        """The name of the part, for people."""
        return f"the configuration file {self._file.path}"

    def reload(self) -> str:
        """Take the secrets of the file as it is now; raises ``ValueError`` and keeps the old."""
        before = self._file
        try:
            after = before.read_again()
        except click.ClickException as error:
            raise ValueError(error.message) from error
        hide_secrets(before.path, secrets_of(after.values))
        if after.tables and not before.tables:
            raise ValueError(
                f"it has a table [{next(iter(after.tables))}] now, and had none at the start. "
                "Restart the server to put it in force."
            )
        signer = self._mount.engine.signer
        if before.may_change("signing_key"):
            keys = after.values.get("signing_key", ())
            signer = ReadSigner(keys) if keys else None
        if before.may_change("token"):
            token = after.values.get("token")
            if token is None and "token" in before.values:
                raise ValueError(
                    "the token is gone from it, which would let everybody in. Restart the server "
                    "if that is what you want."
                )
            if token is not None and self._mount.handler.options.authorize is not None:
                raise ValueError(
                    "it has a token now, and access rules are in force: give the token an entry in "
                    "[[access.tokens]] instead."
                )
            self._mount.handler.replace_token(token)
        self._mount.engine.signer = signer
        self._file = after
        others = (before.values.keys() | after.values.keys()) - {"token", "signing_key"}
        changed = [
            name.replace("_", "-")
            for name in sorted(others)
            if before.values.get(name) != after.values.get(name)
        ]
        return f"{', '.join(changed)} will change at the next start" if changed else ""
