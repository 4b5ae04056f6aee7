"""Wills that wait, and wills that outlive the process their client was at:
MQTT 5.0 sections 3.1.2.5, 3.1.3.2.2, 3.14.2.2.2.

That a will does not come is shown by one of the same delay that was armed
later."""

import os
import signal
import time

import pytest

from support import mqttc, wire
from support.durable import durable, leave, settled
from support.wire import V31, V311, V5

every_version = pytest.mark.parametrize("version", [V31, V311, V5])

needs_own = pytest.mark.skipif(bool(mqttc.FOREIGN), reason="a node of its own")

FAR = 3600


def will(topic, payload=b"will", delay=None, **opts):
    w = dict(opts, topic=topic, payload=payload)
    if delay is not None:
        w["props"] = dict(w.get("props") or {}, will_delay_interval=delay)
    return w


def watch(node, topic, on=1, qos=1):
    sub = node.client(on=on)
    sub.subscribe(topic + "/#", qos=qos)
    return sub


def next_will(sub, payload, topic=None):
    p = sub.read_publish()
    assert p.payload == payload, p
    if topic is not None:
        assert p.topic == topic
    sub.complete(p)
    return p


def later(node, topic, sub, delay=1):
    """A will of that delay, armed now, comes; nothing came before it."""
    c = durable(node, "later" + topic, will=will(topic + "/later", b"later",
                                                 delay))
    leave(node, c, 4)
    next_will(sub, b"later")
    sub.expect_nothing()


# --- Delay ------------------------------------------------------------------

def test_a_will_waits(node, topic):                         # MQTT-3.1.3-9
    sub = watch(node, topic)
    c = durable(node, "d" + topic, will=will(topic, b"late", 1))
    now = durable(node, "n" + topic, will=will(topic, b"now", 0))
    leave(node, c, 4)
    leave(node, now, 4)
    next_will(sub, b"now")
    sub.expect_nothing()
    next_will(sub, b"late")
    durable(node, "d" + topic, present=True)    # once
    later(node, topic, sub)


@pytest.mark.parametrize("on", [0, 1])
def test_coming_back_cancels_it(node, topic, on):           # MQTT-3.1.3-9
    sub = watch(node, topic)
    c = durable(node, "d" + topic, will=will(topic, b"never", 1))
    leave(node, c, 4)
    c = durable(node, "d" + topic, on=on, present=True)
    later(node, topic, sub)
    # The new connection has none.
    c.close()
    settled(node, on)
    later(node, topic, sub)


def test_a_new_will_takes_its_place(node, topic):           # 3.1.2.5
    sub = watch(node, topic)
    c = durable(node, "d" + topic, will=will(topic, b"old", 1))
    leave(node, c, 4)
    c = durable(node, "d" + topic, on=1, present=True,
                will=will(topic, b"new", 0))
    leave(node, c, 4)
    next_will(sub, b"new")
    later(node, topic, sub)


@needs_own
def test_it_comes_with_the_end_of_the_session(make_node, topic):  # 3.1.3-9
    """A delay longer than the session: whichever comes first."""
    node = make_node(listeners=2)
    sub = watch(node, topic)
    c = durable(node, "a", expiry=1, will=will(topic, b"a", FAR))
    leave(node, c, 4)
    c = durable(node, "b", expiry=FAR, will=will(topic, b"b", FAR))
    leave(node, c, 4, session_expiry_interval=1)
    c = durable(node, "stays", expiry=FAR, will=will(topic, b"x", FAR))
    leave(node, c, 4)
    got = sorted(p.payload for p in sub.read_publishes(2))
    assert got == [b"a", b"b"]
    durable(node, "a", present=False)
    sub.fence()


def test_expiry_0_in_disconnect_ends_the_delay(node, topic):  # 3.14.2.2.2
    sub = watch(node, topic)
    c = durable(node, "d" + topic, will=will(topic, b"now", FAR))
    leave(node, c, 4, session_expiry_interval=0)
    next_will(sub, b"now")


@pytest.mark.parametrize("on", [0, 1])
def test_a_clean_start_ends_the_delay(node, topic, on):     # 3.1.3.2.2
    """The session ends, so its will is due."""
    sub = watch(node, topic)
    c = durable(node, "d" + topic, will=will(topic, b"now", FAR))
    leave(node, c, 4)
    node.client("d" + topic, on=on)
    next_will(sub, b"now")
    sub.expect_nothing()


@pytest.mark.parametrize("delay", [None, 0, FAR])
def test_disconnect_withdraws_it(node, topic, delay):       # MQTT-3.14.4-3
    sub = watch(node, topic)
    c = durable(node, "d" + topic, will=will(topic, b"never", delay))
    leave(node, c)
    durable(node, "d" + topic, clean=True)      # not even at the end
    later(node, topic, sub)


def test_disconnect_with_will(node, topic):                 # 3.14.2.1, 0x04
    sub = watch(node, topic)
    for name, delay in (("a", None), ("b", 0), ("c", 1)):
        c = durable(node, name + topic, will=will(topic, name.encode(),
                                                  delay))
        leave(node, c, 4)
        next_will(sub, name.encode())
    sub.expect_nothing()


# --- Takeover ---------------------------------------------------------------

@pytest.mark.parametrize("on", [0, 1])
@pytest.mark.parametrize("delay,clean,comes", [
    (0, False, True), (FAR, False, False), (0, True, True), (FAR, True, True)])
def test_takeover(node, topic, on, delay, clean, comes):    # 3.1.4, MQTT-3.1.3-9
    """A session that goes on in time sends none; one that ends does."""
    sub = watch(node, topic)
    old = durable(node, "d" + topic, will=will(topic, b"old", delay))
    new = durable(node, "d" + topic, on=on, clean=clean, present=not clean,
                  will=will(topic, b"new", 0))
    old.expect_disconnect(wire.SESSION_TAKEN_OVER)
    if comes:
        next_will(sub, b"old")
    leave(node, new, 4)
    next_will(sub, b"new")
    sub.expect_nothing()


@every_version
def test_takeover_of_nothing_kept(node, topic, version):
    """Through the other listener: the will of the connection that ends."""
    sub = watch(node, topic)
    old = node.client("t" + topic, version, will=will(topic, b"old"))
    new = node.client("t" + topic, version, on=1, will=will(topic, b"new"))
    old.drain()
    next_will(sub, b"old")
    new.close()
    next_will(sub, b"new")
    sub.expect_nothing()


# --- What a will is ---------------------------------------------------------

@every_version
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_retained_will(node, topic, version, qos):        # MQTT-3.1.2-15
    sub = watch(node, topic)
    c = node.client("r" + topic, version, will=will(
        topic, b"kept", qos=qos, retain=True))
    c.close()
    p = next_will(sub, b"kept")
    assert not p.retain
    late = node.client(version=version)
    late.subscribe(topic, qos=2)
    p = late.read_publish()
    assert (p.payload, p.retain, p.qos) == (b"kept", True, qos)
    late.complete(p)
    # An empty one deletes it.
    c = node.client("r" + topic, version, will=will(topic, b"", retain=True))
    c.close()
    next_will(sub, b"")
    next_will(late, b"")        # nor is it on its way to that listener
    last = node.client(version=version)
    last.subscribe(topic)
    last.expect_nothing()


@every_version
def test_a_will_that_is_not_retained(node, topic, version):  # MQTT-3.1.2-14
    pub = node.client()
    pub.publish(topic, b"kept", qos=1, retain=True)
    sub = watch(node, topic)
    next_will(sub, b"kept")
    node.client("r" + topic, version, will=will(topic, b"passing")).close()
    next_will(sub, b"passing")
    late = node.client()
    late.subscribe(topic)
    assert late.read_publish().payload == b"kept"
    pub.publish(topic, retain=True)


@every_version
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_will_for_who_is_away(node, topic, version, qos):
    c = durable(node, "away" + topic)
    c.subscribe(topic, qos=2)
    leave(node, c)
    w = node.client("w" + topic, version, will=will(topic, b"x", qos=qos))
    w.close()
    sub = node.client()
    sub.subscribe(topic + "/after", qos=1)
    settled(node)
    node.client("w2" + topic, version,
                will=will(topic + "/after", b"y", qos=1)).close()
    next_will(sub, b"y")                # by then the first one is there too
    c = durable(node, "away" + topic, on=1, present=True)
    if qos > 0:
        p = c.read_publish()
        assert (p.payload, p.qos) == (b"x", qos)
        c.complete(p)
    c.expect_nothing()


@pytest.mark.parametrize("assigned", [False, True])
def test_no_local_when_away(node, topic, assigned):         # MQTT-3.8.3-3
    """One's own will does not wait for one, whoever gave the client id."""
    c = durable(node, "" if assigned else "nl" + topic,
                will=will(topic, qos=1))
    who = c.connack.props["assigned_client_identifier"] if assigned else \
        "nl" + topic
    c.subscribe(topic, qos=1, no_local=True)
    sub = watch(node, topic)
    c.close()
    next_will(sub, b"will")
    node.client().publish(topic, b"other", qos=1)
    c = durable(node, who, present=True)
    p = c.read_publish()
    assert p.payload == b"other"
    c.complete(p)
    c.expect_nothing()


@pytest.mark.parametrize("size", [0, 1, 60000, 65535])
def test_sizes(node, topic, size):
    sub = watch(node, topic)
    c = durable(node, "s" + topic, will=will(
        topic, b"w" * size, 0, qos=1,
        props={"user_property": [("k", "v" * 5000)] * 3}))
    leave(node, c, 4)
    p = next_will(sub, b"w" * size)
    assert p.props["user_property"] == [("k", "v" * 5000)] * 3
    assert "will_delay_interval" not in p.props


@needs_own
def test_expiry_counts_from_its_publication(make_node, topic):  # 3.1.3.2.4
    node = make_node(listeners=1)
    away = durable(node, "away")
    away.subscribe(topic, qos=1)
    sub = watch(node, topic, on=0)
    c = durable(node, "w", will=will(
        topic, b"x", 1, qos=1, props={"message_expiry_interval": 100}))
    leave(node, c, 4)
    p = next_will(sub, b"x")
    assert p.props["message_expiry_interval"] in (99, 100)
    p = away.read_publish()
    assert p.props["message_expiry_interval"] in (99, 100)


def test_a_will_to_a_group(node, topic):                    # 4.8.2
    members = [node.client(on=i % 2) for i in range(4)]
    for m in members:
        m.subscribe("$share/g/" + topic, qos=1)
    n = 20
    for i in range(n):
        node.client("g%d" % i + topic, on=i % 2,
                    will=will(topic, b"%d" % i, qos=1)).close()
    sub = watch(node, topic + "/end")
    settled(node, 0)
    settled(node, 1)
    got = []
    for _ in range(2000):
        for m in members:
            got += [p.payload for p in m.fence()]
        if len(got) >= n:
            break
    assert sorted(got) == sorted(b"%d" % i for i in range(n))
    sub.expect_nothing()


@needs_own
def test_a_will_comes_behind_the_rest(make_node):           # MQTT-4.6.0-6
    node = make_node(listeners=2)
    pid = node.pid("listener.1")
    sub = node.client(on=1)
    sub.subscribe("t")
    n = 20000
    c = node.client("w", will=will("t", b"%d" % n))
    os.kill(pid, signal.SIGSTOP)
    try:
        c.send_bytes(b"".join(wire.publish_packet(V5, "t", b"%d" % i)
                              for i in range(n)))
        c.close()
        node.wait_metric("publish_received_total", lambda v: v >= n)
    finally:
        os.kill(pid, signal.SIGCONT)
    got = [int(p.payload) for p in sub.read_publishes(n + 1)]
    assert sorted(got) == list(range(n + 1))
    assert got == list(range(n + 1))


# --- Processes that die -----------------------------------------------------

@needs_own
@every_version
def test_the_listener_is_killed(make_node, topic, version):
    """Its clients are gone: their wills come, those of others do not."""
    node = make_node(listeners=2)
    sub = watch(node, topic, on=1)
    n = 20
    for i in range(n):
        node.client("c%d" % i, version,
                    will=will("%s/%d" % (topic, i), b"%d" % i, qos=1))
    node.client("safe", version, on=1, will=will(topic, b"never"))
    left = node.client("left", version, will=will(topic, b"never"))
    left.disconnect()
    left.expect_closed()
    settled(node)
    pid = node.kill("listener.0")
    got = set()
    for _ in range(n):
        p = sub.read_publish()
        sub.complete(p)
        got.add(p.payload)
    assert got == {b"%d" % i for i in range(n)}
    node.wait_ready("listener.0", not_pid=pid)
    sub.expect_nothing()


@needs_own
def test_the_listener_is_killed_and_they_come_back(make_node, topic):
    """In time, through the other one: no will."""
    node = make_node(listeners=2)
    sub = watch(node, topic)
    c = durable(node, "back", will=will(topic, b"never", 1))
    gone = durable(node, "gone", will=will(topic, b"gone", 1))
    node.kill("listener.0")
    c.drain()
    gone.drain()
    durable(node, "back", on=1, present=True)
    next_will(sub, b"gone")
    node.wait_ready("listener.0")
    later(node, topic, sub)


@needs_own
@every_version
def test_the_store_is_killed_before(make_node, topic, version):
    """It has the will from CONNECT, so it may die before the client."""
    node = make_node(listeners=2)
    sub = watch(node, topic)
    c = node.client("c", version, will=will(topic, b"x", qos=1))
    d = node.client("d", version, will=will(topic, b"never", qos=1))
    settled(node)
    pid = node.kill("session_store.0")
    c.close()                           # while it is away
    d.disconnect()
    d.expect_closed()
    next_will(sub, b"x")
    node.wait_ready("session_store.0", not_pid=pid)
    settled(node)
    sub.expect_nothing()
    # And after it came back.
    e = node.client("e", version, will=will(topic, b"y", qos=1))
    settled(node)
    pid = node.kill("session_store.0")
    node.wait_ready("session_store.0", not_pid=pid)
    settled(node)
    e.close()
    next_will(sub, b"y")
    sub.expect_nothing()


@needs_own
def test_the_store_is_killed_during_the_delay(make_node, topic):
    node = make_node(listeners=2)
    sub = watch(node, topic)
    c = durable(node, "c", will=will(topic, b"x", 2, qos=1))
    e = durable(node, "e", expiry=2, will=will(topic, b"end", FAR, qos=1))
    b = durable(node, "b", will=will(topic, b"never", 2, qos=1))
    for x in (c, e, b):
        leave(node, x, 4)
    pid = node.kill("session_store.0")
    durable(node, "b", on=1, present=True)
    got = sorted(p.payload for p in sub.read_publishes(2))
    assert got == [b"end", b"x"]
    node.wait_ready("session_store.0", not_pid=pid)
    later(node, topic, sub)


@needs_own
def test_disconnect_while_the_store_is_away(make_node, topic):
    """No will, and the session ends as DISCONNECT said."""
    node = make_node(listeners=2)
    sub = watch(node, topic)
    c = durable(node, "c", will=will(topic, b"never", 0))
    d = durable(node, "d", will=will(topic, b"now", FAR))
    e = durable(node, "e", will=will(topic, b"never", 0))
    pid = node.kill("session_store.0")
    for x, reason, props in (
            (c, 0, {"session_expiry_interval": 0}),
            (d, 4, {"session_expiry_interval": 0}), (e, None, None)):
        x.disconnect(reason, props)
        x.expect_closed()
    next_will(sub, b"now")
    node.wait_ready("session_store.0", not_pid=pid)
    durable(node, "c", present=False)
    durable(node, "d", present=False)
    durable(node, "e", present=True)
    later(node, topic, sub)


@needs_own
def test_both_are_killed(make_node, topic):
    """The listener while there is no store to hear of it."""
    node = make_node(listeners=2)
    sub = watch(node, topic)
    for i in range(10):
        node.client("c%d" % i, will=will(topic, b"%d" % i, qos=1))
    settled(node)
    node.kill("session_store.0")
    node.kill("listener.0")
    got = sorted(next_one(sub) for _ in range(10))
    assert got == sorted(b"%d" % i for i in range(10))
    node.wait_ready("session_store.0")
    settled(node, 1)
    sub.expect_nothing()


def next_one(sub):
    p = sub.read_publish()
    sub.complete(p)
    return p.payload


@needs_own
@pytest.mark.parametrize("shards", [1, 3])
def test_the_node_starts_again(make_node, topic, shards):
    """What waits goes on waiting; what was connected has gone."""
    node = make_node(listeners=2,
                     options={"session_store.processes": str(shards)})
    keeps = durable(node, "keeps")
    keeps.subscribe(topic + "/#", qos=1)
    leave(node, keeps)
    for i in range(6):
        c = durable(node, "w%d" % i, on=i % 2, will=will(
            topic, b"%d" % i, 1 if i < 3 else 0, qos=1))
        if i < 3:
            leave(node, c, 4)
    node.close_clients()
    assert node.terminate() == 0
    node.proc = None
    node.start()
    keeps = durable(node, "keeps", on=1, present=True)
    got = sorted(next_one(keeps) for _ in range(6))
    assert got == [b"%d" % i for i in range(6)]
    keeps.expect_nothing()


@needs_own
@pytest.mark.parametrize("shards", [1, 3])
def test_it_was_due_while_the_node_was_away(make_node, topic, shards):
    """Who comes back after the delay comes too late to cancel it, even as the
    first one."""                                           # MQTT-3.1.2-8
    node = make_node(listeners=2,
                     options={"session_store.processes": str(shards)})
    keeps = durable(node, "keeps")
    keeps.subscribe(topic + "/#", qos=1)
    leave(node, keeps)
    for i in range(6):
        c = durable(node, "w%d" % i, on=i % 2, will=will(
            topic, b"%d" % i, 1, qos=1))
        leave(node, c, 4)
    node.close_clients()
    assert node.terminate() == 0
    node.proc = None
    time.sleep(1.1)                             # the delay must pass
    node.start()
    cs = [node.raw(on=i % 2) for i in range(6)]
    for i, c in enumerate(cs):
        c.send_bytes(wire.connect_packet(
            client_id="w%d" % i, clean=False,
            props={"session_expiry_interval": 60}))
    assert all(c.expect(wire.CONNACK).session_present for c in cs)
    keeps = durable(node, "keeps", on=1, present=True)
    got = sorted(next_one(keeps) for _ in range(6))
    assert got == [b"%d" % i for i in range(6)]


# --- One whose store hears of it late ---------------------------------------

@needs_own
@pytest.mark.parametrize("version", [V311, V5])
def test_of_a_connection_heard_of_after_the_next(make_node, version):
    """Clean ones are served before their store hears of them. What listener 1
    said waits behind a lot, so the store hears of the second client first."""
    n = 3
    node = make_node(listeners=2)
    sub = watch(node, "w", on=0)
    busy = node.client(on=1)
    settled(node, 0)
    settled(node, 1)
    pid = node.kill("session_store.0", signal.SIGSTOP)
    try:
        for i in range(100):
            busy.subscribe("busy/%d" % i)   # asks for what is retained
        firsts = [node.client("c%d" % i, version=version, on=1,
                              will=will("w/%d" % i, qos=i % 3))
                  for i in range(n)]
        seconds = [node.client("c%d" % i, version=version) for i in range(n)]
    finally:
        os.kill(pid, signal.SIGCONT)
    assert {sub.read_publish().topic for _ in range(n)} == {
        "w/%d" % i for i in range(n)}
    for c in firsts:
        if version == V5:
            assert c.expect(wire.DISCONNECT).reason == 0x8E
        c.expect_closed()
    for c in seconds:
        c.fence()
    sub.expect_nothing()


@needs_own
def test_it_is_kept_when_connack_leaves(make_node):
    """Killed with the listener in that moment, the client has a will."""
    node = make_node(listeners=2)
    sub = watch(node, "w", on=0)
    for i in range(8):
        node.client("c%d" % i, version=V311, on=1, will=will("w/%d" % i))
        pid = node.kill("listener.1")
        next_will(sub, b"will", "w/%d" % i)
        node.wait_ready("listener.1", pid)
