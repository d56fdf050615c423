"""Tests of a program that writes a report to a stream, and of one that reads it."""

from durable_streams_client import Client
from pytest_durable_streams import Faults, StreamsClock, StreamsServer


def write_report(url: str) -> None:
    """The program to test: all that it knows is a URL."""
    with Client(url) as client:
        report = client.stream("report")
        report.create(content_type="application/json", ttl=3600)
        for percent in 0, 50, 100:
            report.append({"percent": percent})
        report.close_stream()


def test_a_report_ends_with_all_of_it(
    streams_server: StreamsServer, streams_client: Client
) -> None:
    write_report(streams_server.url)
    assert streams_client.stream("report").follow().read_items()[-1] == {"percent": 100}


def test_a_report_is_whole_after_a_bad_network(
    streams_faults: Faults, streams_client: Client
) -> None:
    lost = streams_faults.lose_response(method="POST")  # the server stores it and cannot say so
    busy = streams_faults.refuse(503, retry_after=0, method="POST")
    write_report(streams_faults.url)
    assert (lost.happened, busy.happened) == (1, 1)
    assert len(streams_client.stream("report").read().read_items()) == 3


def test_a_report_is_gone_after_its_lifetime(
    streams_server: StreamsServer, streams_client: Client, streams_clock: StreamsClock
) -> None:
    write_report(streams_server.url)
    streams_clock.advance(2 * 3600)  # a lifetime may last a tenth longer
    assert not streams_client.stream("report").exists()
