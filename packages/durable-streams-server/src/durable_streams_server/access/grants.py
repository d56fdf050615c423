"""Grants: who somebody is and what that permits, once their credentials are verified."""

from typing import Final

from durable_streams_server.access.refusals import Forbidden
from durable_streams_server.access.rights import Permissions
from durable_streams_server.http.options import Principal

OVERHEAD: Final = 700
"""Bytes that a grant takes which is remembered, without its patterns."""


class Grant:
    """A verified principal and what it may do."""

    __slots__ = ("_permissions", "_rules", "principal")

    def __init__(self, principal: str, permissions: Permissions) -> None:
        self.principal = Principal(principal)
        self._permissions = permissions
        self._rules = permissions.rules

    @property
    def size(self) -> int:
        """About how many bytes of memory it takes where it is remembered."""
        return OVERHEAD + 4 * len(self.principal.name) + self._permissions.size

    def require(self, action: str, path: str) -> Principal:
        """The principal if it may do this; raises :class:`ProtocolError` (403)."""
        rules = self._rules.get(action)
        if rules is not None and rules.mean(path):
            return self.principal
        if not self._permissions.permits(action, path):
            raise Forbidden(self.principal.name)
        return self.principal
