"""Crashes of every kind, simulated: see `crash_simulation`.

`DURABLE_STREAMS_CRASH_SEEDS=A-B` chooses the seeds: `3-3` replays seed 3.
"""

import os
from typing import Any

import pytest
from crash_simulation import simulate

FIRST, LAST = map(int, os.environ.get("DURABLE_STREAMS_CRASH_SEEDS", "1-20").split("-"))


@pytest.mark.parametrize("seed", range(FIRST, LAST + 1))
def test_whatever_was_acknowledged_is_there_after_a_crash_and_nothing_else(seed: Any) -> None:
    simulate(seed)


def test_a_seed_is_one_life() -> None:
    one, two = simulate(7), simulate(7)
    assert one.commits == two.commits > 0
    assert one.rng.getstate() == two.rng.getstate()
