"""Makes the deployment that settings speak of."""

from durable_streams_core.errors import StoreError
from durable_streams_redis.clusters import Cluster
from durable_streams_redis.deployments import Deployment, SingleServer
from durable_streams_redis.meter import RedisMeter
from durable_streams_redis.sentinels import Monitored
from durable_streams_redis.settings import Settings


def deploy(
    settings: Settings, *, connections: int, timeout: float, meter: RedisMeter
) -> Deployment:
    """A deployment of the kind that the settings say; nothing is connected yet."""
    if settings.kind == "sentinel":
        return Monitored(
            settings.address,
            settings.seeds,
            settings.service,
            connections=connections,
            timeout=timeout,
            meter=meter,
        )
    if settings.kind == "cluster":
        if settings.address.arguments.get("db"):
            raise StoreError("A Cluster has only database 0: leave the database out.")
        return Cluster(
            settings.address,
            settings.seeds,
            connections=connections,
            timeout=timeout,
            meter=meter,
        )
    return SingleServer(settings.address, connections=connections, timeout=timeout, meter=meter)
