"""Retained messages: MQTT 5.0 section 3.3.1.3, 3.8.3.1, 3.8.4; 3.1 and 3.1.1
likewise.

A SUBACK does not wait for what is retained, so that nothing comes is shown by
what comes behind it: take() asks for a topic of its own last."""

import os
import signal
import threading

import pytest

from support import mqttc, wire
from support.durable import durable, leave
from support.wire import V31, V311, V5

every_version = pytest.mark.parametrize("version", [V31, V311, V5])

needs_own = pytest.mark.skipif(bool(mqttc.FOREIGN), reason="a node of its own")

FENCES = ["fence/%d" % i for i in range(12)]    # some on each of three stores


@pytest.fixture
def topic(node, topic):
    """What a test retained below its topic goes with it."""
    yield topic
    if not mqttc.FOREIGN:
        node.close_clients()
        c = node.client()
        for p in take(node, c, [topic, topic + "/#"]):
            c.send_publish(p.topic, retain=True)
        c.fence()


def fenced(node):
    """Retain what take() waits for, once for each node."""
    if not getattr(node, "fenced", False):
        c = node.client()
        for name in FENCES:
            c.publish(name, b"fence", qos=2, retain=True)
        c.disconnect()
        c.expect_closed()
        node.fenced = True


def take(node, c, filters, qos=0, **how):
    """Subscribe; the messages that are retained there."""
    fenced(node)
    if isinstance(filters, str):
        filters = [filters]
    options = qos | (how.get("retain_as_published", 0) << 3
                     | how.get("retain_handling", 0) << 4)
    props = how.get("props")
    c.subscribe([(f, options) for f in filters], props=props, expect=False)
    mark = 0xfffffff if c.version == V5 else None
    c.subscribe([(f, qos) for f in FENCES], props=mark, expect=False)
    got, left = [], set(FENCES)
    while left:
        p = c.read_until(lambda p: p.kind == wire.PUBLISH)
        c.complete(p)
        if p.topic in left and p.retain and (
                mark is None
                or mark in p.props.get("subscription_identifier", [])):
            left.remove(p.topic)
        else:
            got.append(p)
    c.unsubscribe(FENCES)
    return got


def bodies(packets):
    return sorted((p.topic, p.payload) for p in packets)


def keep(c, topic, body=b"x", qos=1, **opts):
    c.publish(topic, body, qos=qos, retain=True, **opts)


# --- What is kept -----------------------------------------------------------

@every_version
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_the_newest_wins(node, topic, version, qos):        # MQTT-3.3.1-5, -6
    pub = node.client(version=version)
    for i in range(3):
        keep(pub, topic, b"%d" % i, qos)
    for v in (V31, V311, V5):
        for on in (0, 1):
            got = take(node, node.client(version=v, on=on), topic, qos=2)
            assert bodies(got) == [(topic, b"2")]
            assert got[0].retain and got[0].qos == qos      # MQTT-3.3.1-8
            assert not got[0].dup


@every_version
def test_an_empty_one_deletes(node, topic, version):        # MQTT-3.3.1-6, -7
    pub = node.client(version=version)
    there = node.client()
    there.subscribe(topic, qos=1)
    for qos in (0, 1, 2):
        keep(pub, topic, b"x", qos)
        there.complete(there.read_publish())
        keep(pub, topic, b"", qos)
        p = there.read_publish()                # like any other message
        assert p.payload == b"" and not p.retain
        there.complete(p)
        assert take(node, node.client(on=1), topic, qos=2) == []
    keep(pub, topic, b"")                       # of nothing
    assert take(node, node.client(), topic) == []


@every_version
def test_not_retained_leaves_it(node, topic, version):      # MQTT-3.3.1-8
    pub = node.client(version=version)
    keep(pub, topic, b"kept")
    for qos in (0, 1, 2):
        pub.publish(topic, b"passing", qos=qos)
        pub.publish(topic, b"", qos=qos)
    got = take(node, node.client(version=version), topic)
    assert bodies(got) == [(topic, b"kept")]


@pytest.mark.parametrize("published", [0, 1, 2])
@pytest.mark.parametrize("subscribed", [0, 1, 2])
def test_qos(node, topic, published, subscribed):           # MQTT-3.8.4-8
    keep(node.client(), topic, b"x", published)
    got = take(node, node.client(on=1), topic, qos=subscribed)
    assert [p.qos for p in got] == [min(published, subscribed)]


def test_properties(node, topic):                           # 3.3.2.3
    props = [("user_property", ("b", "1")), ("content_type", "text"),
             ("user_property", ("a", "2")), ("payload_format_indicator", 1),
             ("response_topic", "r"), ("correlation_data", b"c"),
             ("message_expiry_interval", 1000)]
    keep(node.client(), topic, b"x", props=props)
    p, = take(node, node.client(on=1), topic, props=7)
    assert 900 < p.props.pop("message_expiry_interval") <= 1000
    assert p.props == {
        "user_property": [("b", "1"), ("a", "2")], "content_type": "text",
        "payload_format_indicator": 1, "response_topic": "r",
        "correlation_data": b"c", "subscription_identifier": [7]}
    p, = take(node, node.client(version=V311), topic)
    assert p.payload == b"x"


@pytest.mark.parametrize("size", [1, 60000, 65536, 200000, (1 << 20) - 1000])
def test_sizes(node, topic, size):
    body = bytes(i * 7 & 255 for i in range(1000)) * (size // 1000 + 1)
    keep(node.client(), topic, body[:size])
    keep(node.client(), topic + "/a", b"small")
    for version in (V311, V5):
        c = node.client(version=version, on=1)
        c.subscribe(topic + "/#", qos=1)
        got = c.read_publishes(2)       # maybe on pages of their own
        assert bodies(got) == [(topic, body[:size]), (topic + "/a", b"small")]


def test_too_large_for_the_client(node, topic):             # MQTT-3.1.2-24
    pub = node.client()
    keep(pub, topic + "/1", b"x" * 1000)
    keep(pub, topic + "/2", b"small")
    c = node.client(props={"maximum_packet_size": 500})
    got = take(node, c, topic + "/+", qos=1)
    assert bodies(got) == [(topic + "/2", b"small")]


@every_version
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_subscribers_hear_of_it_once(node, topic, version, qos):
    """Those who are there get it as any message, wherever they are."""
    subs = [node.client(version=v, on=on)
            for v in (V31, V311, V5) for on in (0, 1)]
    for s in subs:
        s.subscribe(topic, qos=qos)
    pub = node.client(version=version)
    for i in range(5):
        keep(pub, topic, b"%d" % i, qos)
    for s in subs:
        got = s.read_publishes(5)
        assert [p.payload for p in got] == [b"%d" % i for i in range(5)]
        assert not any(p.retain for p in got)               # MQTT-3.3.1-9
        s.complete(*got)
        s.expect_nothing()


def test_no_subscriber_is_no_error(node, topic):
    """It is kept; 5.0 may say that nobody matched."""
    c = node.client()
    assert c.publish(topic, b"x", qos=1, retain=True) in (0, 0x10)
    assert c.publish(topic, b"y", qos=2, retain=True) in (0, 0x10)
    assert bodies(take(node, c, topic)) == [(topic, b"y")]


def test_order_with_what_is_not_retained(node, topic):      # MQTT-4.6.0-6
    """Of one publisher and topic: retained and not, in the order sent."""
    subs = [node.client(on=on) for on in (0, 1)]
    for s in subs:
        s.subscribe(topic, qos=1)
    pub = node.client(version=V311)
    pub.send_bytes(b"".join(
        wire.publish_packet(V311, topic, b"%d" % i, 1, i + 1,
                            retain=i % 3 == 0) for i in range(90)))
    for s in subs:
        got = s.read_publishes(90)
        assert [int(p.payload) for p in got] == list(range(90))
        s.complete(*got)
    for _ in range(90):
        pub.expect(wire.PUBACK)


@needs_own
@pytest.mark.xfail(strict=False, reason="what goes by way of a store overtakes "
                   "what went straight to another listener before it")
def test_order_before_a_retained_one(make_node):            # MQTT-4.6.0-6
    node = make_node(listeners=2)
    pid = node.pid("listener.1")
    sub = node.client(on=1)
    sub.subscribe("t", qos=1)
    pub = node.client(version=V311)
    n = 40
    os.kill(pid, signal.SIGSTOP)
    try:
        pub.send_bytes(b"".join(
            wire.publish_packet(V311, "t", b"%02d" % i + b"x" * 70000, 1,
                                i + 1, retain=i == n - 1)
            for i in range(n)))
        node.wait_metric("store_published_total", lambda v: v == 1)
    finally:
        os.kill(pid, signal.SIGCONT)
    got = [int(p.payload[:2]) for p in sub.read_publishes(n)]
    assert sorted(got) == list(range(n))
    assert got == list(range(n))


# --- Who gets it ------------------------------------------------------------

@pytest.mark.parametrize("handling", [0, 1, 2])
def test_retain_handling(node, topic, handling):            # MQTT-3.3.1-9..-11
    keep(node.client(), topic)
    c = node.client(on=1)
    first = take(node, c, topic, retain_handling=handling)
    assert len(first) == (0 if handling == 2 else 1)
    again = take(node, c, topic, retain_handling=handling)
    assert len(again) == (1 if handling == 0 else 0)
    c.unsubscribe(topic)
    anew = take(node, c, topic, retain_handling=handling)
    assert len(anew) == len(first)


@pytest.mark.parametrize("handling", [0, 1, 2])
def test_retain_handling_of_a_stored_session(node, topic, handling):
    """A subscription from before the reconnect exists."""
    keep(node.client(), topic)
    c = durable(node, "h" + topic)
    assert len(take(node, c, topic, 1, retain_handling=handling)) == (
        0 if handling == 2 else 1)
    leave(node, c)
    c = durable(node, "h" + topic, on=1, present=True)
    c.expect_nothing()                          # a resume is no subscription
    again = take(node, c, topic, 1, retain_handling=handling)
    assert len(again) == (1 if handling == 0 else 0)
    leave(node, c, session_expiry_interval=0)


@every_version
def test_subscribing_again_sends_again(node, topic, version):  # MQTT-3.8.4-3
    keep(node.client(), topic)
    c = node.client(version=version)
    for _ in range(3):
        assert bodies(take(node, c, topic)) == [(topic, b"x")]


@pytest.mark.parametrize("rap", [0, 1])
def test_retain_as_published(node, topic, rap):             # MQTT-3.3.1-12, -13
    pub = node.client()
    keep(pub, topic)
    c = node.client(on=1)
    p, = take(node, c, topic, retain_as_published=rap)
    assert p.retain                                         # MQTT-3.3.1-8
    for retain in (True, False):
        pub.publish(topic, b"live", qos=1, retain=retain)
        p = c.read_publish()
        assert p.retain == bool(rap and retain)


def test_several_filters_of_a_subscribe(node, topic):       # MQTT-3.8.4-4
    """Each has its own copies."""
    pub = node.client()
    keep(pub, topic + "/a")
    keep(pub, topic + "/b")
    c = node.client(on=1)
    got = take(node, c, [topic + "/a", topic + "/+", topic + "/#"], props=9)
    assert bodies(got) == 3 * [(topic + "/a", b"x")] + 2 * [
        (topic + "/b", b"x")]
    assert all(p.props["subscription_identifier"] == [9] for p in got)


def test_a_refused_filter_gets_none(node, topic, own):
    keep(node.client(), topic)
    c = node.client()
    got = take(node, c, [topic, "$share//" + topic] if own else [topic])
    assert bodies(got) == [(topic, b"x")]


def test_shared_subscriptions_get_none(node, topic):        # 4.8.2
    pub = node.client()
    keep(pub, topic)
    c = node.client(on=1)
    assert take(node, c, "$share/g/" + topic, qos=1) == []
    pub.publish(topic, b"live", qos=1, retain=True)
    p = c.read_publish()
    assert p.payload == b"live" and not p.retain


def test_no_local(node, topic):
    """A message of one's own is retained for others."""
    c = node.client("n" + topic)
    c.subscribe(topic, no_local=True)
    keep(c, topic)
    c.expect_nothing()
    assert bodies(take(node, node.client(), topic)) == [(topic, b"x")]


NAMES = ["a", "a/b", "a/b/c", "a/c", "a//c", "b", "b/b", "a/b/c/d", "ab", "/",
         "/a", "A"]
FILTERS = {
    "a": ["a"], "a/+": ["a/b", "a/c"], "+": ["a", "b", "ab", "A"],
    "a/#": ["a", "a/b", "a/b/c", "a/c", "a//c", "a/b/c/d"],
    "+/b": ["a/b", "b/b"], "+/b/#": ["a/b", "a/b/c", "b/b", "a/b/c/d"],
    "a/+/c": ["a/b/c", "a//c"], "a//c": ["a//c"], "+/+": [
        "a/b", "a/c", "b/b", "/", "/a"], "/+": ["/", "/a"], "/#": ["/", "/a"],
    "a/b/c/d/e/#": [], "a/b/c/d/#": ["a/b/c/d"], "c/#": [], "#": NAMES,
}


def test_wildcards(node, topic):                            # 4.7.1
    pub = node.client()
    for name in NAMES:
        keep(pub, "%s/%s" % (topic, name), name.encode())
    c = node.client(on=1)
    for f, names in FILTERS.items():
        got = take(node, c, "%s/%s" % (topic, f))
        assert sorted(p.payload.decode() for p in got) == sorted(names), f
        c.unsubscribe("%s/%s" % (topic, f))


@needs_own
@pytest.mark.parametrize("shards", [1, 3])
def test_wildcards_at_the_root(make_node, shards):          # MQTT-4.7.2-1
    """Topics of the broker's kind do not match a wildcard at the front."""
    node = make_node(listeners=2,
                     options={"session_store.processes": str(shards)})
    pub = node.client()
    for name in NAMES + ["$x", "$x/b", "$x/b/c"]:
        keep(pub, name, name.encode())
    filters = dict(FILTERS, **{
        "$x": ["$x"], "$x/#": ["$x", "$x/b", "$x/b/c"], "$x/+": ["$x/b"]})
    c = node.client(on=1)
    for f, names in filters.items():
        got = take(node, c, f)
        got = [p.payload.decode() for p in got if p.topic not in FENCES]
        assert sorted(got) == sorted(names), f
        c.unsubscribe(f)


# --- Live and retained at once ----------------------------------------------

def test_subscribing_while_it_is_published(node, topic):
    """Nobody misses the last one, and nobody gets one twice."""
    stop = threading.Event()
    failed = []
    n = [0]

    def publish():
        try:
            pub = node.client(on=1)
            while not stop.is_set():
                n[0] += 1
                keep(pub, topic, b"%d" % n[0])
        except BaseException as e:
            failed.append(e)

    t = threading.Thread(target=publish)
    t.start()
    clients = []
    try:
        for i in range(40):
            c = node.client(on=i % 2)
            c.subscribe(topic, qos=1)
            clients.append(c)
    finally:
        stop.set()
        t.join()
    assert not failed, failed
    last = b"%d" % n[0]
    for c in clients:
        got = []
        while last not in got:
            p = c.read_publish()
            c.complete(p)
            got.append(p.payload)
        got += [p.payload for p in c.fence()]
        assert len(set(got)) == len(got), got
        # The retained one may come late: it is older than what is live.
        live = sorted(map(int, got))
        assert live == list(range(live[0], n[0] + 1)), got


@every_version
def test_a_subscriber_publishes_at_once(node, topic, version):
    """SUBSCRIBE and a retained PUBLISH in one segment: it comes, once."""
    for i in range(20):
        name = "%s/%d" % (topic, i)
        c = node.client(version=version, on=i % 2)
        c.send_bytes(wire.subscribe_packet(version, 1, [(name, 0)])
                     + wire.publish_packet(version, name, b"x", 1, 2,
                                           retain=True))
        p = c.read_until(lambda p: p.kind == wire.PUBLISH)
        assert p.payload == b"x"
        c.wait_ack(wire.PUBACK, 2)
        assert c.read_until(lambda p: p.kind == wire.SUBACK).pid == 1
        c.pid = 2
        got = take(node, c, topic + "/none")
        assert got == []
        c.close()


# --- Stored sessions --------------------------------------------------------

@every_version
@pytest.mark.parametrize("qos", [1, 2])
def test_a_stored_session(node, topic, version, qos):
    """What is retained comes through its store, and again if it was not
    acknowledged; a reconnect brings no more."""
    pub = node.client()
    for i in range(5):
        keep(pub, "%s/%d" % (topic, i), b"%d" % i, qos=2)
    c = durable(node, "r" + topic, version)
    c.subscribe(topic + "/+", qos=qos)
    got = c.read_publishes(5)
    assert bodies(got) == [("%s/%d" % (topic, i), b"%d" % i)
                           for i in range(5)]
    assert all(p.retain and p.qos == qos for p in got)
    assert len({p.pid for p in got}) == 5
    c.complete(got[1])
    leave(node, c)
    c = durable(node, "r" + topic, version, on=1, present=True)
    again = c.read_publishes(4)
    assert all(p.dup and p.retain for p in again)
    assert [(p.pid, p.payload) for p in again] == [
        (p.pid, p.payload) for p in got if p is not got[1]]
    c.complete(*again)
    c.expect_nothing()
    leave(node, c)
    pub.publish(topic + "/1", b"new", qos=1, retain=True)
    c = durable(node, "r" + topic, version, present=True)
    p = c.read_publish()                        # for it was a subscriber
    assert p.payload == b"new" and not p.retain
    c.complete(p)
    c.expect_nothing()
    c.unsubscribe(topic + "/+")


@pytest.mark.parametrize("window", [1, 3])
def test_receive_maximum(node, topic, window):              # MQTT-3.3.4-7
    pub = node.client()
    for i in range(12):
        keep(pub, "%s/%02d" % (topic, i))
    for c in (node.client(props={"receive_maximum": window}),
              durable(node, "w" + topic, props={"receive_maximum": window})):
        c.subscribe(topic + "/#", qos=1)
        got = []
        while len(got) < 12:
            part = c.read_publishes(min(window, 12 - len(got)))
            c.expect_nothing()
            c.complete(*part)
            got += part
        assert len({p.topic for p in got}) == 12
        c.expect_nothing()
        c.unsubscribe(topic + "/#")


# --- Bounds -----------------------------------------------------------------

@needs_own
def test_expiry(make_node):                                 # MQTT-3.3.2-5
    node = make_node(listeners=1)
    pub = node.client()
    keep(pub, "t/short", props={"message_expiry_interval": 1})
    keep(pub, "t/long", props={"message_expiry_interval": 100})
    keep(pub, "t/ever")
    kept = take(node, node.client(), "t/#")
    assert len(kept) == 3 or node.metric("retained_expired_total") == 1
    node.wait_metric("retained_messages", lambda v: v == 2 + len(FENCES))
    got = {p.topic: p for p in take(node, node.client(), "t/#")}
    assert sorted(got) == ["t/ever", "t/long"]
    assert 50 < got["t/long"].props["message_expiry_interval"] < 100
    assert "message_expiry_interval" not in got["t/ever"].props


@needs_own
def test_too_many(make_node):
    node = make_node(listeners=1, options={"retain.max_messages": "3"})
    pub, sub = node.client(), node.client()
    sub.subscribe("t/#", qos=1)

    def kept():
        c = node.client()
        c.subscribe("t/#")
        got = c.read_publishes(3)
        c.close()
        return {p.topic: p.payload for p in got}

    for i in range(5):
        keep(pub, "t/%d" % i, b"x%d" % i)
        p = sub.read_publish()                  # those who are there get it
        assert p.payload == b"x%d" % i
        sub.complete(p)
    assert node.metric("retained_messages") == 3
    assert kept() == {"t/%d" % i: b"x%d" % i for i in range(3)}
    keep(pub, "t/0", b"new")                    # one that is there changes
    keep(pub, "t/1", b"")                       # one goes, another may come
    keep(pub, "t/4", b"more")
    sub.complete(*sub.read_publishes(3))
    assert kept() == {"t/0": b"new", "t/2": b"x2", "t/4": b"more"}
    assert node.metric("retained_refused_total") == 2


@needs_own
def test_too_large(make_node):
    node = make_node(listeners=1, options={"retain.max_size": "100"})
    pub, sub = node.client(), node.client()
    sub.subscribe("t/#", qos=1)
    keep(pub, "t/most", b"x" * 100)
    keep(pub, "t/more", b"x" * 101)
    sub.complete(*sub.read_publishes(2))
    keep(pub, "t/most/2", b"y" * 100)
    sub.complete(sub.read_publish())
    got = take(node, node.client(), "t/#")
    assert sorted(p.topic for p in got) == ["t/most", "t/most/2"]


@needs_own
@pytest.mark.parametrize("shards", [1, 3])
def test_ten_thousand(make_node, shards):
    """A `#` over many: a page at a time, to a reader that is slow, to one with
    a small window, and to a stored session."""
    n = 10000
    node = make_node(listeners=2,
                     options={"session_store.processes": str(shards)})
    pub = node.client(version=V311)
    for at in range(0, n, 1000):
        pub.send_bytes(b"".join(
            wire.publish_packet(V311, "many/%d/%d" % (i % 7, i),
                                b"%d" % i * 20, 1, i % 1000 + 1, retain=True)
            for i in range(at, at + 1000)))
        for i in range(1000):
            pub.expect(wire.PUBACK)
    slow = node.client(on=1, rcvbuf=4096, mss=536)
    slow.subscribe("#")
    window = node.client(props={"receive_maximum": 10}, auto=True)
    window.subscribe("many/#", qos=1)
    kept = durable(node, "kept", auto=True, on=1)
    kept.subscribe("many/#", qos=1)
    for c in (window, kept, slow):
        got = {}
        while len(got) < n:
            p = c.read_publish()
            assert p.retain and p.topic not in got
            got[p.topic] = p.payload
        assert all(got["many/%d/%d" % (i % 7, i)] == b"%d" % i * 20
                   for i in range(n))
        c.expect_nothing()
    one = node.client()
    one.subscribe("many/3/+")
    assert len({p.topic for p in one.read_publishes(
        len(range(3, n, 7)))}) == len(range(3, n, 7))
    assert node.metric("dropped_queue_full_total") == 0


# --- Processes that die -----------------------------------------------------

def fill(node, n=30):
    for version in (V31, V311, V5):
        pub = node.client(version=version)
        for i in range(n):
            keep(pub, "t/%d/%d" % (version, i), b"%d" % i, qos=i % 3)
        for i in range(0, n, 5):
            keep(pub, "t/%d/%d" % (version, i), b"", qos=i % 3)
        for i in range(1, n, 5):
            keep(pub, "t/%d/%d" % (version, i), b"new", qos=i % 3)
    return sorted(("t/%d/%d" % (v, i), b"new" if i % 5 == 1 else b"%d" % i)
                  for v in (V31, V311, V5) for i in range(n) if i % 5)


@needs_own
@pytest.mark.parametrize("shards", [1, 3])
def test_the_node_starts_again(make_node, shards):
    node = make_node(listeners=2,
                     options={"session_store.processes": str(shards)})
    want = fill(node)
    for _ in range(2):
        assert bodies(take(node, node.client(on=1), "t/#", qos=2)) == want
        node.close_clients()
        assert node.terminate() == 0
        node.proc = None
        node.start()
    keep(node.client(), "t/3/1", b"newer")
    got = dict(bodies(take(node, node.client(on=1), "t/#")))
    assert got["t/3/1"] == b"newer" and len(got) == len(want)


@needs_own
@pytest.mark.parametrize("shards", [1, 3])
def test_the_store_is_killed(make_node, shards):
    node = make_node(listeners=2,
                     options={"session_store.processes": str(shards)})
    want = fill(node)
    fenced(node)
    for i in range(shards):
        node.kill("session_store.%d" % i)
    # Nobody waits for it to subscribe, and all comes when it is back; what it
    # may not have noted as published comes as it came first.
    c = node.client(on=1)
    c.subscribe("t/#")
    state = {}
    while {k: v for k, v in state.items() if v} != dict(want):
        p = c.read_publish()
        state[p.topic] = p.payload
    c.close()
    assert bodies(take(node, node.client(on=1), "t/#", qos=2)) == want


@needs_own
def test_the_store_is_killed_while_it_answers(make_node):
    """Several pages: what is missing comes after the start."""
    node = make_node(listeners=1)
    pub = node.client(version=V311)
    n = 3000
    pub.send_bytes(b"".join(
        wire.publish_packet(V311, "t/%d" % i, b"x" * 500, 1, i + 1,
                            retain=True) for i in range(n)))
    for _ in range(n):
        pub.expect(wire.PUBACK)
    c = node.client(rcvbuf=4096, mss=536)
    c.subscribe("t/#")
    seen = {c.read_publish().topic for _ in range(100)}
    node.kill("session_store.0")
    while len(seen) < n:
        seen.add(c.read_publish().topic)


@needs_own
@pytest.mark.parametrize("qos", [1, 2])
def test_publishing_while_the_store_is_killed(make_node, qos):
    """What was acknowledged is retained, and who is there got each once."""
    node = make_node(listeners=2)
    sub = node.client(on=1)
    sub.subscribe("t/#", qos=2)
    pub = node.client(version=V311)
    n = 120
    for at in range(0, n, 40):
        pub.send_bytes(b"".join(
            wire.publish_packet(V311, "t/%d" % (i % 10), b"%d" % i, qos,
                                i + 1, retain=True)
            for i in range(at, at + 40)))
        node.kill("session_store.0")
        for i in range(at, at + 40):
            if qos == 1:
                pub.wait_ack(wire.PUBACK, i + 1)
            else:
                pub.wait_ack(wire.PUBREC, i + 1)
                pub.pubrel(i + 1)
                pub.wait_ack(wire.PUBCOMP, i + 1)
        node.wait_ready("session_store.0")
    got = sub.read_publishes(n)
    assert [int(p.payload) for p in got] == list(range(n))
    sub.complete(*got)
    sub.expect_nothing()
    assert bodies(take(node, node.client(), "t/#")) == [
        ("t/%d" % i, b"%d" % (n - 10 + i)) for i in range(10)]


@needs_own
def test_qos_2_of_a_stored_session(make_node):
    """The session's store and the topic's are not the same: one delivery, one
    retained, also when the publisher sends again elsewhere."""
    node = make_node(listeners=2, options={"session_store.processes": "3"})
    sub = node.client(on=1)
    sub.subscribe("t/#", qos=2)
    for i in range(12):
        c = durable(node, "pub%d" % i)
        c.send_publish("t/%d" % i, b"%d" % i, qos=2, pid=3, retain=True)
        if i % 2:
            c.expect(wire.PUBREC, 3)
        c.reset()
        c = durable(node, "pub%d" % i, on=1, present=True)
        c.send_publish("t/%d" % i, b"%d" % i, qos=2, pid=3, retain=True,
                       dup=True)
        c.expect(wire.PUBREC, 3)
        c.pubrel(3)
        c.expect(wire.PUBCOMP, 3)
        p = sub.read_publish()
        assert p.payload == b"%d" % i
        sub.complete(p)
    sub.expect_nothing()
    assert bodies(take(node, node.client(), "t/#")) == sorted(
        ("t/%d" % i, b"%d" % i) for i in range(12))


@needs_own
def test_retaining_is_turned_off(make_node):
    """What is there stays unseen, and comes back with the key."""
    node = make_node(listeners=1)
    keep(node.client(), "t")
    node.close_clients()
    assert node.terminate() == 0
    node.proc = None
    node.options["mqtt.retain_available"] = "off"
    node.start()
    c = node.client()
    assert c.connack.props["retain_available"] == 0
    c.subscribe("t")
    c.expect_nothing()
