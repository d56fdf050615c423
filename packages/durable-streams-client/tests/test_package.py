from importlib.metadata import version

import durable_streams_client


def test_it_knows_its_version():
    assert durable_streams_client.__version__ == version("durable-streams-client")
