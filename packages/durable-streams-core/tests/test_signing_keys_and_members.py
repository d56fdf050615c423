"""The stored keys (§6.5) and who of several processes drives which subscriptions."""

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


def test_the_first_who_needs_keys_makes_them_and_all_others_use_them(new_desk):
    desk = new_desk(KEYS_PATH)
    first = desk.do(EnsureKeys("i", b"s1", b"k1"))
    assert first == desk.do(EnsureKeys("j", b"s2", b"k2"))
    assert first.token_secret == b"s1"
    assert first.signing == (SigningKey(b"k1", desk.now),)
    assert decode_keys(desk.facts(KEYS).fields[KEYS]) == first
    assert decode_keys(None) is None


def test_a_new_key_signs_and_old_ones_stay_published_while_they_may_be_needed(new_desk):
    desk = new_desk(KEYS_PATH)
    desk.do(EnsureKeys("i", b"s", b"k1"))
    begun = desk.now
    desk.now += 10
    rotated = desk.do(EnsureKeys("j", b"x", b"k2", rotate_before=desk.now))
    assert rotated.token_secret == b"s"
    assert rotated.signing == (SigningKey(b"k1", begun, desk.now), SigningKey(b"k2", desk.now))
    assert [key.seed for key in published(rotated, desk.now)] == [b"k2", b"k1"]
    # Two who rotate because of age at the same time rotate once.
    assert desk.do(EnsureKeys("j", b"x", b"k3", rotate_before=desk.now)) == rotated

    desk.now += PUBLISHED_MS - 1
    assert [key.seed for key in published(rotated, desk.now)] == [b"k2", b"k1"]
    desk.now += 1
    assert [key.seed for key in published(rotated, desk.now)] == [b"k2"]
    again = desk.do(EnsureKeys("j", b"x", b"k4", rotate_before=desk.now))
    assert [key.seed for key in again.signing] == [b"k2", b"k4"]
    assert again.signing[0].retired == desk.now


def test_a_member_lives_as_long_as_it_says_so(new_desk):
    desk = new_desk("__ds/members/a")
    desk.do(Join("i", desk.now + 10))
    desk.do(Join("j", desk.now + 20))
    assert (desk.head().incarnation, desk.head().deadline) == ("i", desk.now + 20)
    desk.do(Leave(dead=True))
    assert desk.head() is not None
    desk.now += 20
    desk.do(Leave(dead=True))
    assert desk.head() is None
    desk.do(Leave())
    desk.do(Join("k", desk.now + 10))
    desk.do(Leave())
    assert desk.head() is None


def test_shards_are_shared_out_and_only_those_of_who_comes_or_goes_move():
    members = [f"member-{n}" for n in range(4)]
    owners = {shard: owner_of(shard, members) for shard in range(SHARDS)}
    assert set(owners.values()) == set(members)
    without = members[1:]
    for shard, owner in owners.items():
        if owner != members[0]:
            assert owner_of(shard, without) == owner
    assert all(0 <= shard_of(f"s{n}") < SHARDS for n in range(100))
    assert len({shard_of(f"s{n}") for n in range(1000)}) == SHARDS
