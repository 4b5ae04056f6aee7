"""Shared subscriptions of sessions that are stored, MQTT 5.0 section 4.8.2: who
is connected comes first, what waits is given once, and what a member that goes
had not finished is given to the rest."""

import collections
import signal

import pytest

from support import mqttc, wire
from support.durable import Receiver, durable, leave, settled

pytestmark = pytest.mark.skipif(bool(mqttc.FOREIGN),
                                reason="a node of its own")

QOS = pytest.mark.parametrize("qos", [1, 2])
SHARDS = pytest.mark.parametrize("shards", [1, 3])


@pytest.fixture
def start(make_node):
    def start(shards=1, **options):
        opts = {"session_store.processes": str(shards)}
        opts.update((k.replace("__", "."), v) for k, v in options.items())
        return make_node(listeners=2, options=opts)
    return start


def member(node, name, qos=1, on=0, group="g", auto=True, filt="t/#", **opts):
    c = durable(node, name, on=on, auto=auto, **opts)
    c.subscribe("$share/%s/%s" % (group, filt), qos=qos)
    return c


def publish(pub, n, qos, first=0, topic="t/x"):
    for i in range(first, first + n):
        pub.publish(topic, b"%d" % i, qos=qos)


def is_publish(p):
    return p.kind == wire.PUBLISH


def read(c, n):
    """n messages, acknowledged by a client with auto."""
    return [c.read_until(is_publish).payload for _ in range(n)]


def more(c):
    return [p.payload for p in c.fence() if is_publish(p)]


def gather(members, n):
    """What each of them gets until there are n in all, and after that."""
    got = [[] for _ in members]
    while sum(map(len, got)) < n:
        for m, g in zip(members, got):
            g += more(m)
    for m, g in zip(members, got):
        g += more(m)
    return got


def restart(node, victim):
    node.wait_ready(victim, node.kill(victim))


def once_each(got, n):
    count = collections.Counter(p for g in got for p in g)
    assert sorted(count, key=int) == [b"%d" % i for i in range(n)]
    assert set(count.values()) == {1}, count


# --- Whose it is ------------------------------------------------------------

@QOS
@SHARDS
def test_nobody_who_is_away_while_another_is_connected(start, shards, qos):
    node = start(shards)
    for i in range(5):
        leave(node, member(node, "away%d" % i, 2))
    here = member(node, "here", 2, on=1)
    clean = node.client(on=0, auto=True)
    clean.subscribe("$share/g/t/#", qos=2)
    pub = node.client(on=1)
    publish(pub, 60, qos)
    got = gather([here, clean], 60)
    once_each(got, 60)
    assert all(len(g) > 5 for g in got)
    for i in range(5):
        assert more(durable(node, "away%d" % i, present=True)) == []


@QOS
@SHARDS
def test_it_waits_for_those_who_are_away(start, shards, qos):
    node = start(shards)
    names = ["a", "b", "c", "d"]
    for name in names:
        leave(node, member(node, name, 2))
    publish(node.client(), 30, qos)
    restart(node, "session_store.0")
    publish(node.client(on=1), 30, qos, first=30)
    back = [durable(node, name, on=i % 2, auto=True, present=True)
            for i, name in enumerate(names)]
    got = gather(back, 60)
    once_each(got, 60)
    assert all(g == sorted(g, key=int) for g in got)


@SHARDS
def test_even_over_members_wherever_they_are(start, shards):
    node = start(shards)
    members = [member(node, "m%d" % i, 1, on=i % 2) for i in range(3)]
    members.append(node.client(on=0, auto=True))
    members[3].subscribe("$share/g/t/#", qos=1)
    publish(node.client(on=1), 400, 1)
    got = gather(members, 400)
    once_each(got, 400)
    assert all(60 <= len(g) <= 140 for g in got), [len(g) for g in got]


def test_one_after_the_other_in_a_shard(start):
    node = start(1)
    members = [member(node, "m%d" % i, 1, on=i % 2) for i in range(3)]
    publish(node.client(), 60, 1)
    got = gather(members, 60)
    once_each(got, 60)
    assert [len(g) for g in got] == [20, 20, 20]


@pytest.mark.parametrize("on", [0, 1])
def test_qos_0_is_for_who_is_connected(start, on):
    node = start(1)
    leave(node, member(node, "away", 2))
    pub = node.client(on=on)
    pub.publish("t/x", b"nobody's")
    here = member(node, "here", 2)
    pub.publish("t/x", b"here", qos=0)
    p = here.read_publish()
    assert (p.payload, p.qos) == (b"here", 0)
    assert more(durable(node, "away", present=True)) == []


@pytest.mark.parametrize("on", [0, 1])
def test_the_lesser_qos_counts(start, on):
    """A member of QoS 0 gets it from its listener, and misses it when away."""
    node = start(1)
    zero = member(node, "zero", 0)
    pub = node.client(on=on)
    pub.publish("t/x", b"1", qos=1)
    p = zero.read_publish()
    assert (p.payload, p.qos) == (b"1", 0)
    leave(node, zero)
    pub.publish("t/x", b"2", qos=1)
    one = member(node, "one", 1)
    pub.publish("t/x", b"3", qos=2)
    p = one.read_publish()
    assert (p.payload, p.qos) == (b"3", 1)
    assert more(durable(node, "zero", present=True)) == []


def test_a_member_that_subscribes_directly_as_well(start):
    """It gets one of each, with the identifier of each."""
    node = start(1)
    c = durable(node, "both", on=1)
    c.subscribe("$share/g/t/#", qos=1, props=3)
    c.subscribe("$share/h/t/#", qos=1, props=4)
    c.subscribe("t/#", qos=1, props=5)
    leave(node, c)
    node.client().publish("t/x", b"x", qos=1)
    restart(node, "session_store.0")
    c = durable(node, "both", present=True, auto=True)
    ids = sorted(c.read_publish().props["subscription_identifier"][0]
                 for _ in range(3))
    assert ids == [3, 4, 5]
    assert more(c) == []


# --- Who goes ---------------------------------------------------------------

@SHARDS
@pytest.mark.parametrize("other", ["clean", "stored"])
@pytest.mark.parametrize("how", ["leaves", "dies", "expires"])
def test_qos_1_of_who_goes_is_for_the_rest(start, shards, other, how):
    node = start(shards)
    a = member(node, "a", 1, auto=False, props={"receive_maximum": 2},
               expiry=0xffffffff)
    pub = node.client(on=1)
    publish(pub, 10, 1)
    sent = read(a, 2)
    assert more(a) == []
    assert sent == [b"0", b"1"]
    b = (member(node, "b", 1, on=1) if other == "stored" else
         node.client(on=1, auto=True))
    if other == "clean":
        b.subscribe("$share/g/t/#", qos=1)
    if how == "leaves":
        a.disconnect()
    elif how == "expires":
        a.disconnect(props={"session_expiry_interval": 0})
    a.close()
    assert sorted(read(b, 10), key=int) == [b"%d" % i for i in range(10)]
    assert more(b) == []
    if how != "expires":
        assert more(durable(node, "a", present=True)) == []


@SHARDS
def test_qos_2_that_was_sent_stays(start, shards):           # MQTT-4.8.2-5
    node = start(shards)
    a = member(node, "a", 2, auto=False, props={"receive_maximum": 2})
    publish(node.client(on=1), 10, 2)
    assert read(a, 2) == [b"0", b"1"]
    b = member(node, "b", 2, on=1)
    a.close()
    assert sorted(read(b, 8), key=int) == [b"%d" % i for i in range(2, 10)]
    assert more(b) == []
    a = durable(node, "a", present=True, auto=True)
    assert read(a, 2) == [b"0", b"1"]
    assert more(a) == []


@QOS
def test_it_stays_when_nobody_else_is_connected(start, qos):
    node = start(1)
    leave(node, member(node, "b", 2))
    a = member(node, "a", 2, auto=False, props={"receive_maximum": 2})
    publish(node.client(on=1), 10, qos)
    assert read(a, 2) == [b"0", b"1"]
    a.close()
    settled(node)
    a = durable(node, "a", present=True, auto=True)
    assert read(a, 10) == [b"%d" % i for i in range(10)]
    assert more(durable(node, "b", present=True)) == []


@QOS
def test_of_a_session_that_ends_it_waits_for_the_rest(start, qos):
    """Also if they are away."""
    node = start(3)
    leave(node, member(node, "a", 2))
    publish(node.client(on=1), 10, qos)
    b = member(node, "b", 2)
    assert more(b) == []
    leave(node, b)
    node.client("a", on=1)              # a clean start
    b = durable(node, "b", present=True, auto=True)
    assert sorted(read(b, 10), key=int) == [b"%d" % i for i in range(10)]
    assert more(b) == []


def test_of_a_clean_member_it_waits_for_one_who_is_away(start):
    node = start(1)
    leave(node, member(node, "a", 1))
    b = node.client(on=1, props={"receive_maximum": 2})
    b.subscribe("$share/g/t/#", qos=1)
    publish(node.client(), 10, 1)
    assert read(b, 2) == [b"0", b"1"]
    b.close()
    settled(node, 1)
    a = durable(node, "a", present=True, auto=True)
    assert sorted(read(a, 10), key=int) == [b"%d" % i for i in range(10)]


def test_who_comes_back_in_the_same_moment_goes_on(start):
    """A takeover is not an end: it stays the member's."""
    node = start(1)
    a = member(node, "a", 2, auto=False, props={"receive_maximum": 2})
    publish(node.client(on=1), 6, 2)
    assert read(a, 2) == [b"0", b"1"]
    b = member(node, "b", 2, on=1)
    a = durable(node, "a", on=1, present=True, auto=True)
    assert read(a, 6) == [b"%d" % i for i in range(6)]
    assert more(b) == []


# --- Processes that die -----------------------------------------------------

@QOS
@pytest.mark.parametrize("victim", ["session_store.0", "session_store.1",
                                    "listener.1"])
def test_nothing_is_lost_or_doubled_by_a_kill(start, qos, victim):
    """Publisher and half the members are at a listener that stays."""
    node = start(2)
    names = ["m%d" % i for i in range(6)]
    members = [Receiver() for _ in names]
    for i, m in enumerate(members):
        m.serve(member(node, names[i], 2, on=i % 2, auto=False))
    pub = node.client(on=0)
    n = 0

    def take():
        for i, m in enumerate(members):
            try:
                for p in m.c.fence():
                    m.take(p)
            except (wire.Closed, OSError):
                m.drain()
                m.serve(durable(node, names[i], on=i % 2, present=True))

    for _ in range(3):
        publish(pub, 40, qos, first=n)
        pid = node.kill(victim)
        publish(pub, 40, qos, first=n + 40)
        n += 80
        node.wait_ready(victim, pid)
        take()
    while len({p for m in members for p in m.got}) < n:
        take()
    take()
    count = collections.Counter(p for m in members for p in m.got)
    assert sorted(count, key=int) == [b"%d" % i for i in range(n)]
    if qos == 2:
        assert set(count.values()) == {1}, count
