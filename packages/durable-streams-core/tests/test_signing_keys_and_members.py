"""The stored keys (§6.5) and who of several processes drives which subscriptions."""

from typing import Any

from durable_streams_core.subscriptions.keys import (
    KEYS,
    KEYS_PATH,
    PUBLISHED_MS,
    EnsureKeys,
    SigningKey,
    decode_keys,
    published,
)
from durable_streams_core.subscriptions.members import (
    SHARDS,
    Join,
    Leave,
    owner_of,
    shard_of,
)


def test_the_first_who_needs_keys_makes_them_and_all_others_use_them(new_runner: Any) -> None:
    runner = new_runner(KEYS_PATH)
    first = runner.do(EnsureKeys("i", b"s1", b"k1"))
    assert first == runner.do(EnsureKeys("j", b"s2", b"k2"))
    assert first.token_secret == b"s1"
    assert first.signing == (SigningKey(b"k1", runner.now),)
    assert decode_keys(runner.facts(KEYS).fields[KEYS]) == first
    assert decode_keys(None) is None


def test_a_new_key_signs_and_old_ones_stay_published_while_they_may_be_needed(
    new_runner: Any,
) -> None:
    runner = new_runner(KEYS_PATH)
    runner.do(EnsureKeys("i", b"s", b"k1"))
    begun = runner.now
    runner.now += 10
    rotated = runner.do(EnsureKeys("j", b"x", b"k2", rotate_before=runner.now))
    assert rotated.token_secret == b"s"
    assert rotated.signing == (SigningKey(b"k1", begun, runner.now), SigningKey(b"k2", runner.now))
    assert [key.seed for key in published(rotated, runner.now)] == [b"k2", b"k1"]
    # Two who rotate because of age at the same time rotate once.
    assert runner.do(EnsureKeys("j", b"x", b"k3", rotate_before=runner.now)) == rotated

    runner.now += PUBLISHED_MS - 1
    assert [key.seed for key in published(rotated, runner.now)] == [b"k2", b"k1"]
    runner.now += 1
    assert [key.seed for key in published(rotated, runner.now)] == [b"k2"]
    again = runner.do(EnsureKeys("j", b"x", b"k4", rotate_before=runner.now))
    assert [key.seed for key in again.signing] == [b"k2", b"k4"]
    assert again.signing[0].retired == runner.now


def test_a_member_lives_as_long_as_it_says_so(new_runner: Any) -> None:
    runner = new_runner("__ds/members/a")
    runner.do(Join("i", runner.now + 10))
    runner.do(Join("j", runner.now + 20))
    assert (runner.head().incarnation, runner.head().deadline) == ("i", runner.now + 20)
    runner.do(Leave(dead=True))
    assert runner.head() is not None
    runner.now += 20
    runner.do(Leave(dead=True))
    assert runner.head() is None
    runner.do(Leave())
    runner.do(Join("k", runner.now + 10))
    runner.do(Leave())
    assert runner.head() is None


def test_shards_are_shared_out_and_only_those_of_who_comes_or_goes_move() -> None:
    members = [f"member-{n}" for n in range(4)]
    owners = {shard: owner_of(shard, members) for shard in range(SHARDS)}
    assert set(owners.values()) == set(members)
    without = members[1:]
    for shard, owner in owners.items():
        if owner != members[0]:
            assert owner_of(shard, without) == owner
    assert all(0 <= shard_of(f"s{n}") < SHARDS for n in range(100))
    assert len({shard_of(f"s{n}") for n in range(1000)}) == SHARDS
