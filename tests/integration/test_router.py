"""mqttc-router and mqttc-route: snapshots, generations, acknowledgements,
epochs, widening. Most of it with one real router in a node that is played
(support/rig.py); the end with whole nodes."""

import os
import random
import signal
import time

import pytest

from support import mqttc, wire
from support.rig import DOWN, DRAINING, READY, STARTING, Process, Rig

pytestmark = pytest.mark.skipif(mqttc.FOREIGN is not None,
                                reason="needs the router itself")


@pytest.fixture
def rig():
    with Rig() as r:
        yield r


def taken(rig, name, seq):
    """Until the router has taken everything up to seq from this process."""
    return rig.wait_stats(lambda s: s.get(name + ".seq") == seq)


# --- Learning, switching, serving --------------------------------------------

def test_a_node_without_owners_is_ready_at_once(rig):
    generation = rig.start()
    assert generation > 0
    rig.wait("drop", below=generation)
    assert rig.wait_stats(lambda s: s["phase"] == "serving")["routes"] == 0


def test_a_row_is_in_the_index_when_it_is_acknowledged(rig):
    rig.start()
    a = rig.process("listener.0", 10)
    a.read()
    a.snapshot("a/b", "c/+/d")
    a.wait_ack()
    assert a.match("a/b") == ["listener.0"]
    assert a.match("c/x/d") == ["listener.0"]
    assert a.match("a/c") == []
    b = rig.process("listener.1", 11)
    b.read()
    b.snapshot("a/b")
    b.wait_ack()
    assert a.match("a/b") == ["listener.0", "listener.1"]
    a.delete("a/b")
    a.wait_ack()
    assert b.match("a/b") == ["listener.1"]
    b.routes("-a/b", "+a/c", "-a/c", "+a/d")
    b.wait_ack()
    assert b.match("a/b") == b.match("a/c") == []
    assert a.match("a/d") == ["listener.1"]


def test_a_router_learns_from_every_running_owner_first(rig):
    rig.do("peer", "listener.0", 10, READY)
    rig.do("peer", "listener.1", 11, DRAINING)
    rig.do("peer", "listener.2", 12, STARTING)
    rig.do("peer", "listener.3", 13, DOWN)
    rig.run()
    a = rig.process("listener.0", 10)
    b = rig.process("listener.1", 11, DRAINING)
    a.snapshot("a")
    b.routes("+b", flags="b")                   # not all of it yet
    taken(rig, "listener.1", 1)
    assert rig.stats()["phase"] == "learning"
    assert rig.take("ready") is None and rig.take("segment") is None
    assert rig.route("list", "--owner", "listener.0")[0]["state"] == "learned"
    b.routes("+c", flags="e")
    rig.wait("ready")
    rig.wait("segment")
    assert rig.stats()["phase"] == "switching"  # and nobody has confirmed
    assert rig.stats()["readers_waited"] == 2
    a.read()
    taken(rig, "listener.1", 2)
    s = rig.wait_stats(lambda s: s["readers_waited"] == 1)
    assert s["listener.0.acked"] == s["listener.1.acked"] == 0
    assert rig.take("drop") is None
    b.read()
    a.wait_ack()
    b.wait_ack()
    rig.wait("drop")
    assert a.match("c") == ["listener.1"]


def test_an_owner_that_has_begun_is_waited_for_though_starting(rig):
    rig.do("peer", "listener.0", 10, READY)
    rig.run()
    a = rig.process("listener.0", 10)
    b = rig.process("listener.1", 11, STARTING)
    b.routes("+b", flags="b")
    taken(rig, "listener.1", 1)
    a.snapshot("a")
    taken(rig, "listener.0", 1)
    assert rig.stats()["phase"] == "learning"
    b.routes(flags="e")
    rig.wait("ready")


@pytest.mark.parametrize("tell", [DOWN, 99])
def test_the_death_of_an_owner_ends_the_wait_for_it(rig, tell):
    rig.do("peer", "listener.0", 10, READY)
    rig.do("peer", "listener.1", 11, READY)
    rig.run()
    a = rig.process("listener.0", 10)
    a.snapshot("a")
    taken(rig, "listener.0", 1)
    assert rig.stats()["phase"] == "learning"
    if tell == DOWN:
        rig.peers(listener_1=(11, DOWN))
    else:                                       # it is back already
        rig.peers(listener_1=(12, STARTING))
    rig.wait("ready")


def test_a_reader_that_does_not_confirm_holds_the_switch_until_it_dies(rig):
    rig.do("peer", "listener.0", 10, READY)
    rig.do("peer", "listener.1", 11, READY)
    rig.run()
    a = rig.process("listener.0", 10)
    b = rig.process("listener.1", 11)
    a.snapshot("a")
    b.snapshot("b")
    rig.wait("ready")
    a.read()
    b.map()                                     # stopped before it said so
    rig.wait_stats(lambda s: s["readers_waited"] == 1)
    for i in range(20):
        a.add("more/%d" % i)
    s = taken(rig, "listener.0", 21)
    assert s["listener.0.acked"] == 0 and rig.take("drop") is None
    assert a.match("more/7") == ["listener.0"]  # it is there all the same
    b.die()
    a.wait_ack()
    rig.wait("drop")


def test_somebody_who_is_waited_for_is_named_in_the_log(rig):
    rig.do("peer", "listener.3", 10, READY)
    rig.run()
    rig.logged("router.waiting")
    line = [l for l in rig.log().splitlines() if "router.waiting" in l][0]
    assert "for=listener.3" in line and "what=routes" in line


# --- A router that comes back ---------------------------------------------------

def test_the_old_generation_serves_until_the_new_router_knows_everything(rig):
    first = rig.start()
    a = rig.process("listener.0", 10)
    b = rig.process("listener.1", 11)
    for p, f in ((a, "a"), (b, "b")):
        p.read()
        p.snapshot(f)
    a.wait_ack()
    b.wait_ack()
    assert rig.kill()["signal"] == signal.SIGKILL
    assert a.match("b") == ["listener.1"]       # forwarding goes on
    rig.events.clear()
    rig.run()
    a.connect()
    b.connect()
    a.snapshot("a", "a2")
    taken(rig, "listener.0", 1)
    assert rig.take("ready") is None
    assert a.match("b") == ["listener.1"]
    b.snapshot("b")
    rig.wait("ready")
    assert rig.wait("segment")["generation"] > first
    assert a.match("b") == ["listener.1"]       # still the old one
    assert rig.take("drop") is None
    a.read()
    b.read()
    a.wait_ack()
    assert b.match("a2") == ["listener.0"]
    rig.wait("drop")


def test_what_was_written_for_another_router_is_not_taken(rig):
    rig.start()
    a = rig.process("listener.0", 10)
    a.read()
    a.routes("+ghost", flags="bes", seq=1)
    a.snapshot("a")
    a.wait_ack()
    assert a.match("ghost") == []
    assert [r["filter"] for r in rig.route("list")] == ["a"]


# --- Gaps, snapshots -------------------------------------------------------------

def test_a_gap_is_answered_with_resync(rig):
    rig.start()
    a = rig.process("listener.0", 10)
    a.read()
    a.snapshot("keep", "old")
    a.wait_ack()
    a.routes("+lost", seq=7)
    e = rig.wait("ack", name="listener.0", resync=True)
    assert e["incarnation"] == 10
    a.routes("+ignored", seq=8)                 # until it begins anew
    a.snapshot("keep", "new")
    a.wait_ack()
    rig.wait_stats(lambda s: s["listener.0.routes"] == 2)
    assert a.match("keep") == a.match("new") == ["listener.0"]
    assert a.match("old") == a.match("lost") == a.match("ignored") == []


def test_rows_of_an_unknown_owner_are_answered_with_resync(rig):
    rig.start()
    a = rig.process("listener.0", 10)
    a.routes("+x", seq=5)
    rig.wait("ack", name="listener.0", resync=True)


def test_a_second_snapshot_never_takes_a_row_away_that_it_names(rig):
    rig.start()
    a = rig.process("listener.0", 10)
    a.read()
    a.snapshot(*("k/%d" % i for i in range(500)))
    a.wait_ack()
    a.routes(*("+k/%d" % i for i in range(250)), flags="b")
    taken(rig, "listener.0", 2)
    assert a.match("k/400") == ["listener.0"]   # not swept before the end
    a.routes(flags="e")
    a.wait_ack()
    rig.wait_stats(lambda s: s["routes"] == 250)
    assert a.match("k/400") == [] and a.match("k/100") == ["listener.0"]


def test_rows_that_are_no_filters_are_left_out_and_hurt_nobody(rig):
    rig.start()
    a = rig.process("listener.0", 10)
    a.read()
    a.snapshot("good", "a#", "+b/x", "#/c", "also/good")
    a.wait_ack()
    assert sorted(r["filter"] for r in rig.route("list")) == [
        "also/good", "good"]


ROUTES, ATTACH, ROUTE_ACK, FIB_CONFIRM, QUERY, REPLY = 18, 17, 32, 33, 40, 41


def test_rubbish_is_refused_and_hurts_nobody(rig):
    rig.start()
    a = rig.process("listener.0", 10)
    a.read()
    a.snapshot("a")
    a.wait_ack()
    rng = random.Random(7)
    for body in ["", "00", "ff" * 40, "0801", "220a0a02612f1001",
                 "22ffffffff0f"] + [rng.randbytes(rng.randrange(1, 60)).hex()
                                    for _ in range(200)]:
        for kind in (ROUTES, FIB_CONFIRM):
            rig.do("raw", a.name, kind, body)
    for kind in (ATTACH, ROUTE_ACK, QUERY, REPLY, 99):  # none of a listener's
        rig.do("raw", a.name, kind, "0801")
    a.read()                                    # rubbish may have confirmed
    a.routes("+b", flags="be", seq=a.seq + 1)   # or asked for a resync
    a.wait_ack()
    assert a.match("b") == ["listener.0"] and a.match("a") == []


# --- Owners that die ---------------------------------------------------------------

def test_routes_of_the_dead_are_marked_down_and_go(rig):
    rig.start()
    a = rig.process("listener.0", 10)
    b = rig.process("listener.1", 11)
    a.read()
    b.read()
    a.snapshot("x")
    b.bulk("x/%", 200000, flags="be")
    b.routes("+x")
    b.wait_ack(deadline_s=60)
    assert a.match("x") == ["listener.0", "listener.1"]
    b.die()
    rig.wait_stats(lambda s: s.get("listener.1.owner") == "none")
    # Whoever still finds it is told that it is down.
    assert a.match("x") in (["listener.0"], ["listener.0", "listener.1!"])
    rig.wait_stats(lambda s: s["routes"] == 1, 60)
    assert a.match("x") == ["listener.0"]
    assert a.match("x/77") == []


def test_a_new_incarnation_replaces_the_old_one(rig):
    rig.start()
    a = rig.process("listener.0", 10)
    b = rig.process("listener.1", 11)
    a.read()
    b.read()
    a.snapshot("old")
    a.wait_ack()
    a.die(tell=False)
    a = rig.process("listener.0", 20)           # PEERS never said down
    a.snapshot("new")
    a.read()
    a.wait_ack()
    rig.wait_stats(lambda s: s["routes"] == 1)
    assert b.match("new") == ["listener.0"] and b.match("old") == []


def test_the_word_of_peers_may_come_late(rig):
    """An owner speaks before PEERS has shown it, and PEERS of before come
    after."""
    rig.start()
    rig.do("peer", "listener.0", 5, READY)
    rig.do("open", "listener.0", 10)
    rig.wait("up", name="listener.0")
    a = Process(rig, "listener.0", 10)
    a.snapshot("a")
    taken(rig, "listener.0", 1)
    rig.do("peers")
    rig.fence()
    assert rig.stats()["routes"] == 1
    rig.peers(listener_0=(10, READY))
    a.read()
    a.wait_ack()


def test_who_is_no_longer_in_peers_is_gone(rig):
    rig.start()
    a = rig.process("listener.0", 10)
    b = rig.process("listener.1", 11)
    a.read()
    b.read()
    a.snapshot("a")
    b.snapshot("b")
    a.wait_ack()
    b.wait_ack()
    rig.peers(listener_1=(0, DOWN))             # a new supervisor, say
    rig.fence()
    assert rig.stats()["routes"] == 2
    rig.do("unpeer", "listener.1")
    rig.do("peers")
    rig.wait_stats(lambda s: s["routes"] == 1)
    assert a.match("b") == []


# --- Session stores ------------------------------------------------------------

def test_a_store_is_an_owner_of_its_own_kind(rig):
    rig.start()
    a = rig.process("listener.3", 10)
    s = rig.process("session_store.3", 11)
    a.read()
    s.read()
    a.snapshot("x/#")
    s.snapshot("x/+")
    a.wait_ack()
    s.wait_ack()
    assert a.match("x/y") == s.match("x/y") == ["listener.3",
                                                "session_store.3"]
    assert a.match("x/y/z") == ["listener.3"]
    assert [r["dest"] for r in rig.route("list", "--owner",
                                         "session_store.3")] == [
        "session_store.3"]
    s.delete("x/+")
    s.wait_ack()
    assert a.match("x/y") == ["listener.3"]


def test_a_store_that_reads_is_waited_for(rig):
    """Its confirmation is one of those that make a generation serve."""
    rig.start()
    a = rig.process("listener.0", 10)
    a.read()
    s = rig.process("session_store.0", 11)
    a.snapshot("a")
    taken(rig, "listener.0", 1)
    rig.fence()
    assert rig.take("ack") is None              # the store reads nothing yet
    assert rig.stats()["readers_waited"] == 1
    s.read()
    a.wait_ack()


def test_routes_of_a_store_stay_while_it_is_away(rig):
    rig.start()
    a = rig.process("listener.0", 10)
    s = rig.process("session_store.0", 11)
    a.read()
    s.read()
    g = rig.group("team", "t")
    a.snapshot()
    s.snapshot("keep", "old", "team@2@t")
    s.wait_ack()
    s.die()
    rig.logged("router.owner_away owner=session_store.0")
    rig.wait_stats(lambda v: v["session_store.0.owner"] == "away")
    for filter in ("keep", "old"):
        assert a.match(filter) == ["session_store.0!"]
    assert a.groups("t") == {g: {"session_store.0!": 2}}
    a.add("new")                                # nobody waits for who is away
    a.wait_ack()
    rig.peers(session_store_0=(20, STARTING))   # it replays
    rig.fence()
    assert a.match("keep") == ["session_store.0!"]
    s = rig.process("session_store.0", 20, STARTING)
    s.routes("+keep", flags="b")
    taken(rig, "session_store.0", 1)
    # Until the end of what it tells, all it had is there.
    assert a.match("keep") == a.match("old") == ["session_store.0"]
    s.routes("+more", flags="e")
    s.wait_ack()                                # it is no reader before ready
    rig.wait_stats(lambda v: v["routes"] == 3)
    assert a.match("keep") == a.match("more") == ["session_store.0"]
    assert a.match("old") == [] and a.groups("t") == {}


def test_a_store_that_dies_as_it_tells_keeps_both(rig):
    rig.start()
    a = rig.process("listener.0", 10)
    a.read()
    s = rig.process("session_store.0", 11, STARTING)
    s.snapshot("one", "two")
    s.wait_ack()
    s.die()
    s = rig.process("session_store.0", 12, STARTING)
    s.routes("+three", flags="b")
    taken(rig, "session_store.0", 1)
    s.die(tell=False)                           # PEERS shows the next one
    s = rig.process("session_store.0", 13, STARTING)
    rig.wait_stats(lambda v: v["session_store.0.owner"] == "away")
    for filter in ("one", "two", "three"):
        assert a.match(filter) == ["session_store.0!"]
    s.add("unasked")                            # not how one begins
    rig.wait("ack", name="session_store.0", resync=True)
    assert a.match("unasked") == []
    s.seq = 0
    s.snapshot("two")
    s.wait_ack()
    rig.wait_stats(lambda v: v["routes"] == 1)
    assert a.match("two") == ["session_store.0"] and a.match("one") == []


def test_a_store_that_the_node_has_no_more_is_gone(rig):
    rig.start()
    a = rig.process("listener.0", 10)
    s = rig.process("session_store.0", 11)
    a.read()
    s.read()
    s.snapshot("x")
    s.wait_ack()
    s.die()
    rig.wait_stats(lambda v: v["session_store.0.owner"] == "away")
    assert a.match("x") == ["session_store.0!"]
    rig.do("unpeer", "session_store.0")
    rig.do("peers")
    rig.wait_stats(lambda v: v["routes"] == 0)
    assert a.match("x") == []


@pytest.mark.parametrize("state", [DOWN, STARTING, READY])
def test_a_new_router_learns_from_every_store_that_ever_ran(rig, state):
    rig.do("peer", "listener.0", 10, READY)
    rig.do("peer", "session_store.0", 11, state)
    rig.do("peer", "session_store.1", 0, DOWN)  # which never did
    rig.run()
    a = rig.process("listener.0", 10)
    a.snapshot("a")
    taken(rig, "listener.0", 1)
    rig.fence()
    assert rig.stats()["phase"] == "learning" and rig.take("segment") is None
    s = rig.process("session_store.0", 12, STARTING)
    s.snapshot("s")
    rig.wait("segment")
    a.read()
    s.wait_ack()
    a.wait_ack()
    assert a.match("s") == ["session_store.0"]


def test_a_store_that_stays_down_is_not_waited_for_for_ever():
    with Rig(supervise__backoff_max="100ms") as rig:
        rig.do("peer", "listener.0", 10, READY)
        rig.do("peer", "session_store.0", 11, DOWN)
        rig.run()
        a = rig.process("listener.0", 10)
        a.snapshot("a")
        taken(rig, "listener.0", 1)
        rig.fence()
        assert rig.stats()["phase"] == "learning"
        rig.wait("segment", deadline_s=30)
        a.read()
        a.wait_ack()


# --- Readers that lag ------------------------------------------------------------------

def grow(p, name, n=100000):
    """So many filters that the index has to split its pieces many times."""
    p.bulk("grow/%s/%%/x" % name, n)


def test_a_stopped_reader_does_not_make_the_index_grow():
    with Rig(router__reader_lag_max="1MB", router__reader_lag="1m") as rig:
        rig.start()
        a = rig.process("listener.0", 10)
        b = rig.process("listener.1", 11)
        a.read()
        b.read()
        a.snapshot("here")
        a.wait_ack()
        b.enter()                               # and is stopped
        grow(a, "by/bytes", 300000)
        worst = 0
        while True:
            s = rig.stats()
            worst = max(worst, s["fib_held_bytes"])
            if s["listener.0.acked"] == a.seq:
                break
        assert s["fib_evictions"] == 1 and s["fib_splits"] > 16
        assert worst <= (1 << 20) + (4 << 16)
        assert b.leave() is False               # it has to look again
        assert b.match("here") == ["listener.0"]
        assert b.match("grow/by/bytes/299999/x") == ["listener.0"]


def test_a_stopped_reader_holds_memory_for_a_while_only():
    with Rig(router__reader_lag_max="1GB", router__reader_lag="50ms") as rig:
        rig.start()
        a = rig.process("listener.0", 10)
        b = rig.process("listener.1", 11)
        a.read()
        b.read()
        a.snapshot("here")
        a.wait_ack()
        b.enter()
        grow(a, "by/time")
        a.wait_ack()
        # Nothing happens any more, and still it is taken back.
        s = rig.wait_stats(lambda s: s["fib_held_bytes"] == 0)
        assert s["fib_evictions"] == 1
        assert b.leave() is False
        assert b.match("grow/by/time/7/x") == ["listener.0"]


def test_an_epoch_of_the_dead_holds_nothing_back(rig):
    rig.start()
    a = rig.process("listener.0", 10)
    b = rig.process("listener.1", 11)
    a.read()
    b.read()
    a.snapshot("here")
    a.wait_ack()
    b.enter()
    s = rig.wait_stats(lambda s: s["listener.1.epoch"] > 0)
    assert s["fib_readers"] == 2 and s["listener.0.epoch"] == 0
    b.die()
    s = rig.wait_stats(lambda s: s["fib_readers"] == 1)
    grow(a, "dead")
    a.wait_ack()
    s = rig.wait_stats(lambda s: s["fib_held_bytes"] == 0)
    assert s["fib_evictions"] == 0


# --- Many destinations, many shapes ------------------------------------------------------

def test_more_destinations_than_a_word_has_bits(rig):
    rig.start()
    n = 70
    many = [rig.process("listener.%d" % i, 100 + i) for i in range(n)]
    many[0].read()
    many[-1].read()
    for i, p in enumerate(many):
        p.snapshot("all/+", "mine/%d" % i, "odd" if i % 2 else "even")
    rig.wait_stats(lambda s: s["routes"] == 3 * n)
    names = sorted("listener.%d" % i for i in range(n))
    assert many[0].match("all/x") == names
    assert many[-1].match("all/x") == names
    assert many[0].match("mine/69") == ["listener.69"]
    assert many[0].match("mine/3") == ["listener.3"]
    assert many[0].match("odd") == sorted(
        "listener.%d" % i for i in range(1, n, 2))
    for p in many[65:]:
        p.die()
    rig.wait_stats(lambda s: s["routes"] == 3 * 65)
    assert many[0].match("all/x") == sorted(
        "listener.%d" % i for i in range(65))
    again = rig.process("listener.66", 999)
    again.snapshot("all/+")
    rig.wait_stats(lambda s: s["routes"] == 3 * 65 + 1)
    assert "listener.66" in many[0].match("all/x")


def shapes(n, levels=6):
    """n filters at anchor 0, each of another shape."""
    out = []
    for mask in range(1, 1 << levels):
        if len(out) == n:
            break
        level = ["+" if mask >> i & 1 else "l" for i in range(levels)]
        if level[0] == "+":
            out.append("/".join(level))
    assert len(out) == n
    return out


def test_shapes_of_one_owner_widen_nobody_elses(rig):
    rig.start()
    a = rig.process("listener.0", 10)
    b = rig.process("listener.1", 11)
    a.read()
    b.read()
    a.snapshot("+/temperature")                 # one shape, at anchor 0
    a.wait_ack()
    b.snapshot(*shapes(32))
    b.wait_ack()
    rows = rig.wait_stats(lambda s: s["widened_filters"] > 0) and \
        rig.route("list")
    wide = [r for r in rows if r["widened"]]
    assert wide and all(r["dest"] == "listener.1" for r in wide)
    assert all(r["as"] == "#" for r in wide)
    assert a.match("x/y") == ["listener.1"]     # a false positive for it alone
    assert a.match("x/temperature") == ["listener.0", "listener.1"]
    m = rig.route("match", "x/y")
    assert [r for r in m if r["kind"] == "route"] == []
    assert [(r["dest"], r["matched"]) for r in m
            if r["kind"] == "index"] == [("listener.1", False)]
    b.delete(*shapes(32))
    b.wait_ack()
    s = rig.wait_stats(lambda s: s["widened_filters"] == 0)
    assert s["routes"] == 1


def test_adversarial_filters_slow_nobody_else(rig):
    rig.start()
    a = rig.process("listener.0", 10)
    b = rig.process("listener.1", 11)
    a.read()
    b.read()
    a.snapshot("plant/+/temperature", "plant/7/#", "#")
    a.wait_ack()
    assert a.match("plant/7/temperature") == ["listener.0"]
    probes = a.last["probes"]
    b.routes(flags="b")
    every = []
    for mask in range(1 << 16):                 # 65 536 below one anchor
        every.append("evil/" + "/".join(
            "+" if mask >> i & 1 else "e" for i in range(16)))
    for i in range(0, len(every), 2000):
        b.routes(*("+" + f for f in every[i:i + 2000]))
    b.routes(flags="e")
    b.wait_ack(deadline_s=120)
    s = rig.stats()
    assert s["routes"] == 3 + (1 << 16)
    assert s["anchor:evil"] == 1 << 15          # the most crowded of all
    assert len([k for k in s if k.startswith("anchor:")]) == 10
    assert a.match("plant/7/temperature") == ["listener.0"]
    assert a.last["probes"] <= 2 * probes + 4
    assert a.match("evil/" + "/".join("e" * 16)) == ["listener.0",
                                                     "listener.1"]
    assert a.last["probes"] <= 18 * 34          # bounded there, too


# --- The loop is never blocked -------------------------------------------------------------

def test_bulk_is_taken_in_slices(rig):
    rig.start()
    a = rig.process("listener.0", 10)
    a.read()
    a.snapshot("a")
    a.wait_ack()
    a.bulk("bulk/%/x", 300000)
    worst = 0
    while True:
        began = time.monotonic()
        rig.fence()
        worst = max(worst, time.monotonic() - began)
        s = rig.stats()
        if s["listener.0.acked"] == a.seq:
            break
    assert s["routes"] == 300001
    assert worst < 1.0                          # not the seconds it takes
    b = rig.process("listener.1", 11)
    b.read()
    a.die()
    rig.wait_stats(lambda s: s["routes"] == 0, 60)


# --- Anything in any order -----------------------------------------------------------------

def matches(filter, topic):
    """Naive: 4.7."""
    f, t = filter.split("/"), topic.split("/")
    for i, level in enumerate(f):
        if level == "#":
            return True
        if i >= len(t) or level not in ("+", t[i]):
            return False
    return len(f) == len(t)


class World:
    """Some processes around one router, and what has to be true of them."""

    words = ["a", "b", "c", ""]

    def __init__(self, rig, seed):
        self.rig, self.rng = rig, random.Random(seed)
        self.incarnation = 100
        self.live = {}                          # name: Process
        self.want = {}                          # name: set of filters
        rig.start()

    def filter(self):
        levels = [self.rng.choice(self.words + ["+"])
                  for _ in range(self.rng.randint(1, 5))]
        if self.rng.random() < 0.3:
            levels.append("#")
        return "/".join(levels) or "a"

    def topic(self):
        return "/".join(self.rng.choice(self.words) for _ in range(
            self.rng.randint(1, 5))) or "a"

    def born(self):
        name = "listener.%d" % self.rng.randrange(80)
        if name in self.live:
            return
        self.incarnation += 1
        p = self.rig.process(name, self.incarnation)
        self.live[name] = p
        self.want[name] = {self.filter() for _ in range(
            self.rng.randrange(30))}
        p.snapshot(*self.want[name])
        p.read()

    def dies(self):
        if len(self.live) > 1:
            name = self.rng.choice(sorted(self.live))
            del self.want[name]
            self.live.pop(name).die()

    def changes(self):
        if not self.live:
            return
        name = self.rng.choice(sorted(self.live))
        p, want = self.live[name], self.want[name]
        rows = []
        for _ in range(self.rng.randint(1, 20)):
            if want and self.rng.random() < 0.5:
                f = self.rng.choice(sorted(want))
                want.discard(f)
                rows.append("-" + f)
            else:
                f = self.filter()
                want.add(f)
                rows.append("+" + f)
        p.routes(*rows)

    def again(self):
        """A snapshot for no reason, perhaps broken off and begun again."""
        if not self.live:
            return
        name = self.rng.choice(sorted(self.live))
        p = self.live[name]
        if self.rng.random() < 0.5:
            p.routes(*("+" + f for f in list(self.want[name])[:5]), flags="b")
        self.want[name] = {self.filter() for _ in range(
            self.rng.randrange(30))}
        p.snapshot(*self.want[name])

    def router_dies(self):
        self.rig.kill()
        while self.rng.random() < 0.4:          # and again on its way up
            self.rig.events.clear()
            self.rig.run()
            for name in self.rng.sample(sorted(self.live), self.rng.randint(
                    0, len(self.live))):
                self.live[name].connect()
                self.live[name].snapshot(*self.want[name])
                if self.rng.random() < 0.1 and len(self.live) > 1:
                    del self.want[name]
                    self.live.pop(name).die()
            time.sleep(self.rng.random() * 0.02)    # anywhere will do
            self.rig.kill()
        self.rig.events.clear()
        self.rig.run()
        names = sorted(self.live)
        self.rng.shuffle(names)
        for name in names:
            self.live[name].connect()
            self.live[name].snapshot(*self.want[name])
        self.rig.wait("ready")
        for name in names:
            self.live[name].read()

    def check(self):
        for p in self.live.values():
            p.wait_ack()
        if not self.live:
            return
        reader = self.live[self.rng.choice(sorted(self.live))]
        exact = not self.rig.stats()["widened_filters"]
        for _ in range(20):
            t = self.topic()
            want = {n for n, fs in self.want.items()
                    if any(matches(f, t) for f in fs)}
            have = set(reader.match(t))
            have = {n for n in have if not n.endswith("!")}
            assert want <= have, (t, want - have)
            assert not exact or want == have, (t, have - want)
        rows = [(r["filter"], r["dest"]) for r in self.rig.route("list")
                if r["state"] == "installed"]
        assert sorted(rows) == sorted((f, n) for n, fs in self.want.items()
                                      for f in fs)

    def step(self):
        what = self.rng.choices(
            [self.born, self.dies, self.changes, self.again,
             self.router_dies, self.check], [6, 3, 12, 2, 1, 3])[0]
        what()


@pytest.mark.parametrize("seed", range(4))
def test_anything_in_any_order(seed):
    with Rig(router__anchor_shapes=str([32, 3][seed % 2])) as rig:
        w = World(rig, seed)
        for _ in range(150):
            w.step()
        w.check()


# --- Shared groups ------------------------------------------------------------------------------

def test_groups_are_in_the_index_with_their_members(rig):
    rig.start()
    a = rig.process("listener.0", 10)
    b = rig.process("listener.1", 11)
    a.read()
    b.read()
    g = rig.group("g", "t/+")
    h = rig.group("h", "t/+")
    a.snapshot("g@3@t/+", "t/+")
    b.snapshot("g@1@t/+", "h@7@t/+")
    a.wait_ack()
    b.wait_ack()
    assert a.groups("t/x") == {g: {"listener.0": 3, "listener.1": 1},
                               h: {"listener.1": 7}}
    assert a.match("t/x") == ["listener.0"]     # by the plain filter alone
    assert a.groups("u") == {}
    b.routes("+g@5@t/+", "-h@0@t/+")            # counts change, the last goes
    b.wait_ack()
    assert a.groups("t/x") == {g: {"listener.0": 3, "listener.1": 5}}
    a.routes("+g@0@t/+")                        # 0 members is the same
    a.wait_ack()
    assert a.groups("t/x") == {g: {"listener.1": 5}}
    assert a.match("t/x") == ["listener.0"]
    a.delete("t/+")
    a.wait_ack()
    assert b.groups("t/x") == {g: {"listener.1": 5}}
    assert b.match("t/x") == []
    s = rig.stats()
    assert (s["groups"], s["group_rows"], s["fib_groups"]) == (1, 1, 1)
    assert s["listener.1.routes"] == 1


def test_groups_of_the_dead_are_marked_down_and_go(rig):
    rig.start()
    a = rig.process("listener.0", 10)
    b = rig.process("listener.1", 11)
    a.read()
    b.read()
    g = rig.group("g", "x")
    a.snapshot("g@1@x")
    b.snapshot("g@2@x")
    a.wait_ack()
    b.bulk("h@4@x/%", 50000)
    b.wait_ack(deadline_s=60)
    assert a.groups("x") == {g: {"listener.0": 1, "listener.1": 2}}
    b.die()
    rig.wait_stats(lambda s: s.get("listener.1.owner") == "none")
    assert a.groups("x") in ({g: {"listener.0": 1}},
                             {g: {"listener.0": 1, "listener.1!": 2}})
    s = rig.wait_stats(lambda s: s["routes"] == 1, 60)
    assert a.groups("x") == {g: {"listener.0": 1}}
    assert (s["groups"], s["group_rows"]) == (1, 1)


def test_a_new_router_and_a_new_snapshot_know_the_groups(rig):
    rig.start()
    a = rig.process("listener.0", 10)
    a.read()
    g, h, i = (rig.group(n, "a/#") for n in "ghi")
    a.snapshot("g@3@a/#", "h@1@a/#")
    a.wait_ack()
    rig.kill()
    assert a.groups("a") == {g: {"listener.0": 3}, h: {"listener.0": 1}}
    rig.events.clear()
    rig.run()
    a.connect()
    a.snapshot("g@3@a/#", "h@2@a/#")
    rig.wait("ready")
    rig.wait("segment")
    assert a.groups("a") == {g: {"listener.0": 3}, h: {"listener.0": 1}}
    a.read()
    a.wait_ack()
    assert a.groups("a") == {g: {"listener.0": 3}, h: {"listener.0": 2}}
    a.routes("+g@4@a/#", "+i@1@a/#", flags="b")     # h is not named
    taken(rig, "listener.0", 2)
    assert a.groups("a")[h] == {"listener.0": 2}    # before the end
    a.routes(flags="e")
    a.wait_ack()
    rig.wait_stats(lambda s: s["routes"] == 2)
    assert a.groups("a") == {g: {"listener.0": 4}, i: {"listener.0": 1}}


def test_groups_are_widened_with_their_filters(rig):
    rig.start()
    a = rig.process("listener.0", 10)
    a.read()
    groups = {f: rig.group("g", f) for f in shapes(32)}
    h = rig.group("h", "+/temperature")
    a.snapshot("h@1@+/temperature", *("g@2@" + f for f in groups))
    a.wait_ack()
    wide = rig.wait_stats(lambda s: s["widened_filters"] > 0) and [
        r["filter"] for r in rig.route("list") if r["widened"]]
    assert wide
    found = a.groups("x/temperature")
    assert found[h] == {"listener.0": 1}
    for f in wide:
        if f in groups:                         # a false positive
            assert found[groups[f]] == {"listener.0": 2}
    for f in groups:
        found = a.groups(f.replace("+", "q"))
        assert found[groups[f]] == {"listener.0": 2}
    assert a.last["dests"] == []
    a.routes(*("-g@0@" + f for f in groups))
    a.wait_ack()
    rig.wait_stats(lambda s: s["widened_filters"] == 0)
    assert a.groups("x/temperature") == {h: {"listener.0": 1}}
    assert a.groups("x/y") == {}


def test_a_group_too_many_is_refused_and_hurts_nobody(rig):
    rig.start()
    a = rig.process("listener.0", 10)
    a.read()
    a.snapshot(*("n%d@1@t" % i for i in range(1025)))
    a.routes("+u", "+n7@9@t")
    a.wait_ack()                                # nothing is held back
    a.match("t")
    assert len(a.last["groups"]) == 1024
    rig.logged("router.group_refused")
    assert a.match("u") == ["listener.0"]
    rows = rig.route("match", "t")
    assert len([r for r in rows if r["kind"] == "route"]) == 1024
    index = [r for r in rows if r["kind"] == "group"]
    assert sorted((r["group"], r["members"]) for r in index) == sorted(
        ("n%d" % i, 9 if i == 7 else 1) for i in range(1024))
    assert all(r["filter"] == "t" and r["dest"] == "listener.0" and r["up"]
               and r["matched"] for r in index)


def test_rows_that_are_no_groups_are_left_out(rig):
    rig.start()
    a = rig.process("listener.0", 10)
    a.read()
    a.snapshot("g+@1@t", "#@1@t", "a/b@1@t", "\xff\xfe@1@\x01#", "$queue@1@t",
               "ok@1@a#")
    a.wait_ack()
    assert [(r["group"], r["filter"]) for r in rig.route("list")] == [
        ("$queue", "t")]


def test_route_list_shows_groups(rig):
    rig.start()
    a = rig.process("listener.0", 10)
    b = rig.process("listener.1", 11)
    for p in (a, b):
        p.read()
    for p in (a, b):
        p.snapshot("g@3@t/+", "h@1@t/+", "t/+", "u")
        p.wait_ack()
    rows = rig.route("list")
    want = [("t/+", "g", 3, None), ("t/+", "h", 1, None), ("t/+", None, None, 1),
            ("u", None, None, 1)]
    for name in ("listener.0", "listener.1"):
        for some in (rows, rig.route("list", "--owner", name)):
            assert sorted(((r["filter"], r["group"], r["members"], r["qos"])
                           for r in some if r["dest"] == name), key=str) == \
                sorted(want, key=str)
    a.bulk("k@2@one/%", 3000)
    a.wait_ack()
    assert len(rig.route("list", "--owner", "listener.0")) == 3004
    assert len(rig.route("list")) == 3008
    rows = rig.route("match", "t/x")
    assert sorted((r["group"], r["dest"], r["members"], r["matched"], r["up"])
                  for r in rows if r["kind"] == "group") == [
        (g, "listener.%d" % i, n, True, True)
        for g, n in (("g", 3), ("h", 1)) for i in range(2)]


# --- mqttc-route ----------------------------------------------------------------------------

def test_route_list(rig):
    rig.start()
    a = rig.process("listener.0", 10)
    b = rig.process("listener.1", 11)
    a.read()
    b.read()
    a.snapshot("plant/1", "plant/+/x", "other")
    b.snapshot("plant/1")
    a.wait_ack()
    b.wait_ack()
    rows = rig.route("list")
    assert sorted((r["filter"], r["dest"]) for r in rows) == [
        ("other", "listener.0"), ("plant/+/x", "listener.0"),
        ("plant/1", "listener.0"), ("plant/1", "listener.1")]
    assert all(r["qos"] == 1 and r["state"] == "installed"
               and r["widened"] is False and r["as"] is None for r in rows)
    assert sorted(r["filter"] for r in rig.route("list", "--prefix",
                                                 "plant/")) == [
        "plant/+/x", "plant/1", "plant/1"]
    assert [r["filter"] for r in rig.route("list", "--owner",
                                           "listener.1")] == ["plant/1"]
    assert rig.route("list", "--owner", "listener.7") == []
    out = rig.tool("mqttc-route", "list").stdout.splitlines()
    assert out[0].split() == ["FILTER", "DEST", "GROUP", "MEMBERS",
                              "QOS", "STATE", "AS"]
    assert len(out) == 5


def test_route_list_comes_in_pages(rig):
    rig.start()
    a = rig.process("listener.0", 10)
    b = rig.process("listener.1", 11)
    a.read()
    b.read()
    a.snapshot()
    b.snapshot()
    a.bulk("p/%", 7000)
    b.bulk("p/%", 7000)
    a.routes("+" + "long/" * 12000 + "end")
    a.wait_ack()
    b.wait_ack()
    rows = [(r["filter"], r["dest"]) for r in rig.route("list")]
    assert len(rows) == len(set(rows)) == 14001
    assert len(rig.route("list", "--owner", "listener.1")) == 7000
    assert len(rig.route("list", "--prefix", "p/69")) == 2 * 111
    assert len(rig.route("list", "--prefix", "long/")) == 1


def test_route_stats_of_many_processes(rig):
    rig.start()
    for i in range(400):
        rig.do("peer", "listener.%d" % i, 1000 + i, READY)
    rig.do("peers")
    s = rig.wait_stats(lambda s: s["readers_waited"] == 400)
    assert [s["listener.%d.incarnation" % i] for i in range(400)] == list(
        range(1000, 1400))


def test_route_match(rig):
    rig.start()
    a = rig.process("listener.0", 10)
    a.read()
    a.snapshot("a/b", "a/+", "a/#", "#", "b")
    a.wait_ack()
    rows = rig.route("match", "a/b")
    assert sorted(r["filter"] for r in rows if r["kind"] == "route") == [
        "#", "a/#", "a/+", "a/b"]
    assert [(r["dest"], r["matched"], r["up"]) for r in rows
            if r["kind"] == "index"] == [("listener.0", True, True)]
    assert [r["value"] > 0 for r in rows if r["kind"] == "probes"] == [True]
    a.delete("#")
    a.wait_ack()
    done = rig.tool("mqttc-route", "match", "nothing/here", check=False)
    assert done.returncode == 1
    assert rig.tool("mqttc-route", "match", "a/+",
                    check=False).returncode == os.EX_USAGE


def test_route_match_with_more_routes_than_a_page(rig):
    rig.start()
    many = [rig.process("listener.%d" % i, 100 + i) for i in range(5)]
    for p in many:
        p.snapshot(*("/".join("+" if m >> i & 1 else "x" for i in range(10))
                     for m in range(1 << 10)))
    rig.wait_stats(lambda s: s["routes"] == 5 << 10)
    rows = [(r["filter"], r["dest"])
            for r in rig.route("match", "/".join("x" * 10))
            if r["kind"] == "route"]
    assert len(rows) == len(set(rows)) == 5 << 10


def test_route_usage(rig):
    for args in ((), ("frobnicate",), ("match",), ("match", "a", "b"),
                 ("stats", "--owner", "x"), ("list", "more")):
        done = rig.tool("mqttc-route", *args, check=False)
        assert done.returncode == os.EX_USAGE, args
        assert "usage:" in done.stderr
    done = rig.tool("mqttc-route", "stats", check=False)
    assert done.returncode == os.EX_UNAVAILABLE     # the router is not there
    assert "router" in done.stderr
    rig.start()
    rig.do("signal", int(signal.SIGSTOP))
    done = rig.tool("mqttc-route", "stats", check=False)
    assert done.returncode == os.EX_TEMPFAIL
    assert "does not answer" in done.stderr


# --- Signals -----------------------------------------------------------------------------------

def test_signals(rig):
    rig.start()
    a = rig.process("listener.0", 10)
    a.read()
    a.snapshot("a")
    a.wait_ack()
    rig.do("signal", int(signal.SIGUSR1))
    rig.logged("router.summary")
    rig.logged("router.member")
    e = rig.kill(signal.SIGTERM)
    assert (e["code"], e["signal"]) == (0, 0)
    assert a.match("a") == ["listener.0"]       # the index stays


# --- Whole nodes ----------------------------------------------------------------------------------

def replaced(node, name, sig=signal.SIGKILL):
    pid = node.pid(name)
    node.kill(name, sig)
    return node.wait_ready(name, not_pid=pid)


def test_forwarding_goes_on_while_the_router_is_killed(make_node):
    node = make_node(listeners=2)
    sub, pub = node.client("sub", on=0), node.client("pub", on=1)
    sub.subscribe("t/#", qos=1)
    pub.publish("t/0", b"0", qos=1)
    assert sub.read_publish().payload == b"0"
    for round in range(3):
        pid = node.pid("router")
        node.kill("router", signal.SIGKILL)
        for i in range(50):
            pub.publish("t/x", b"%d" % i, qos=1)
            assert sub.read_publish().payload == b"%d" % i
        node.wait_ready("router", not_pid=pid)
        pub.publish("t/y", b"y", qos=1)
        assert sub.read_publish().payload == b"y"


def test_subscription_made_while_there_is_no_router(make_node):
    """It works on its own listener at once, elsewhere when it is back."""
    node = make_node(listeners=2, options={"cluster.suback_timeout": "300ms"})
    sub, near = node.client("sub", on=0), node.client("near", on=0)
    far = node.client("far", on=1)
    node.kill("router", signal.SIGSTOP)
    sub.subscribe("t", qos=1)                   # after the timeout
    near.publish("t", b"near", qos=1)
    assert sub.read_publish().payload == b"near"
    far.publish("t", b"lost", qos=1)
    sub.expect_nothing()
    pid = node.pid("router")
    node.kill("router", signal.SIGKILL)
    node.wait_ready("router", not_pid=pid)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if any(r["filter"] == "t" and r["state"] == "installed"
               for r in node.tool_json("mqttc-route", "list")):
            break
    other = node.client("other", on=0)
    other.subscribe("u", qos=1)                 # every reader has changed
    far.publish("t", b"far", qos=1)
    assert sub.read_publish().payload == b"far"


def test_a_stopped_listener_holds_the_switch_and_no_memory(make_node):
    node = make_node(listeners=2, options={"supervise.hang_timeout": "60s",
                                           "cluster.suback_timeout": "200ms"})
    sub, pub = node.client("sub", on=0), node.client("pub", on=0)
    sub.subscribe("t/#")
    stopped = node.pid("listener.1")
    os.kill(stopped, signal.SIGSTOP)
    try:
        pid = node.pid("router")
        node.kill("router", signal.SIGKILL)
        # It runs, but it has not heard from everybody.
        node.wait(lambda s: s["router"]["pid"] not in (0, pid, None))
        for i in range(5):
            sub.subscribe("more/%d" % i)
        pub.publish("t/x", b"on", qos=1)
        assert sub.read_publish().payload == b"on"
        s = {r["key"]: r["value"]
             for r in node.tool_json("mqttc-route", "stats")}
        assert s["phase"] == "learning"
    finally:
        os.kill(stopped, signal.SIGCONT)
    node.wait_ready("router", not_pid=pid)
    sub.subscribe("last")
    s = {r["key"]: r["value"] for r in node.tool_json("mqttc-route", "stats")}
    assert s["phase"] == "serving"


def test_routes_stay_while_the_supervisor_is_replaced(make_node):
    """The next one knows nobody at first; that is no word of a death."""
    node = make_node(listeners=2)
    sub, pub = node.client("sub", on=0), node.client("pub", on=1)
    sub.subscribe("t/#", qos=1)
    before = node.status()
    for _ in range(2):
        node.kill("supervise", signal.SIGKILL)
        node.proc.wait()
        for i in range(20):
            pub.publish("t/x", b"%d" % i, qos=1)
            assert sub.read_publish().payload == b"%d" % i
        node.start_once()
        for i in range(20):
            pub.publish("t/y", b"%d" % i, qos=1)
            assert sub.read_publish().payload == b"%d" % i
        s = node.status()
        for name in ("router", "listener.0", "listener.1"):
            assert s[name]["pid"] == before[name]["pid"]
        stats = {r["key"]: r["value"]
                 for r in node.tool_json("mqttc-route", "stats")}
        assert stats["listener.0.owner"] == "synced"
        assert stats["listener.0.state"] == "ready"
        sub.subscribe("u/%d" % time.monotonic_ns(), qos=1)
    assert node.metric("router_snapshots_total") == 3   # one each, no more
    assert node.metric("router_owners_gone_total") == 0


def test_one_client_with_too_many_shapes_widens_nobody(make_node):
    node = make_node(listeners=2)
    a, b = node.client("a", on=0), node.client("b", on=1)
    a.subscribe("+/temperature", qos=1)
    codes = []
    for f in shapes(32) + ["+/x/y/z/a/b/c/d"]:
        codes += b.subscribe(f, expect=False)
    assert codes[:32] == [0] * 32
    assert codes[32] == wire.QUOTA_EXCEEDED     # 32 a client
    rows = node.tool_json("mqttc-route", "list")
    assert [r["dest"] for r in rows if r["widened"]
            and r["dest"] != "listener.1"] == []
    assert all(not r["widened"] for r in rows
               if r["filter"] == "+/temperature")


# --- mqttc-clients ------------------------------------------------------------------------------------

def test_clients(make_node):
    node = make_node(listeners=2)
    a = node.client("alpha", on=0, keepalive=77)
    b = node.client("beta", version=wire.V311, on=1)
    a.subscribe("t/+", qos=1)
    a.subscribe("u", qos=2)
    rows = {r["client_id"]: r
            for r in node.tool_json("mqttc-clients", "list")}
    assert set(rows) == {"alpha", "beta"}
    assert rows["alpha"]["listener"] == "listener.0"
    assert rows["alpha"]["version"] == 5
    assert rows["alpha"]["keepalive_s"] == 77
    assert rows["alpha"]["subscriptions"] == 2
    assert rows["beta"]["listener"] == "listener.1"
    assert rows["beta"]["version"] == 4
    assert rows["beta"]["peer"].startswith("127.0.0.1:")
    client, *subs = node.tool_json("mqttc-clients", "show", "alpha")
    assert client["client_id"] == "alpha"
    assert sorted((s["filter"], s["qos"]) for s in subs) == [
        ("t/+", 1), ("u", 2)]
    assert "alpha" in node.tool("mqttc-clients", "show", "alpha")
    done = node.tool("mqttc-clients", "show", "nobody", check=False)
    assert done.returncode == 1 and "nobody" in done.stderr
    assert node.tool_json("mqttc-clients", "kick",
                          "alpha")[0]["client_id"] == "alpha"
    a.expect_disconnect(0x98)
    done = node.tool("mqttc-clients", "kick", "alpha", check=False)
    assert done.returncode == 1
    node.tool("mqttc-clients", "kick", "beta")
    b.expect_closed()
    assert node.tool_json("mqttc-clients", "list") == []
    node.client("gamma", on=0)
    os.kill(node.pid("listener.1"), signal.SIGSTOP)
    try:
        done = node.tool("mqttc-clients", "list", check=False)
    finally:
        os.kill(node.pid("listener.1"), signal.SIGCONT)
    assert done.returncode == os.EX_TEMPFAIL
    assert "listener.1 does not answer" in done.stderr
    assert "gamma" in done.stdout               # what the others said
    for args in ((), ("show",), ("kick",), ("list", "x"), ("what",)):
        assert node.tool("mqttc-clients", *args,
                         check=False).returncode == os.EX_USAGE
