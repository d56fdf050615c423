"""Grants: who somebody is and what that permits, once their credentials are verified."""

from durable_streams_server.access.refusals import forbidden
from durable_streams_server.access.rights import Permissions
from durable_streams_server.http.options import Principal


class Grant:
    """A verified principal and what it may do."""

    __slots__ = ("_permissions", "principal")

    def __init__(self, principal: str, permissions: Permissions) -> None:
        self.principal = Principal(principal)
        self._permissions = permissions

    def require(self, action: str, path: str) -> Principal:
        """The principal if it may do this; raises :class:`ProtocolError` (403)."""
        if not self._permissions.permits(action, path):
            raise forbidden()
        return self.principal
