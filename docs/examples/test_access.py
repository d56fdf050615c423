"""The examples of access rules and limits."""

import tomllib
from pathlib import Path

import access_app
import httpx

from durable_streams_server import PrefixQuota, StreamQuota
from durable_streams_server.access.config import read_access, read_limits

HERE = Path(__file__).parent


def test_the_file_of_rules_is_one() -> None:
    tables = tomllib.loads((HERE / "access.toml").read_text())
    assert tables.keys() == {"access", "limits"}
    read_access(tables["access"], HERE)
    assert {type(quota) for quota in read_limits(tables["limits"]).quotas} == {
        StreamQuota,
        PrefixQuota,
    }


async def test_the_application_lets_in_who_has_the_token() -> None:
    transport = httpx.ASGITransport(access_app.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        own = {"authorization": f"Bearer {access_app.secret}"}
        assert (await client.put("/logs/a", headers=own)).status_code == 201
        assert (await client.put("/other/a", headers=own)).status_code == 403
        assert (await client.put("/logs/a")).status_code == 401
    await access_app.app.close()
