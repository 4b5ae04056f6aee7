"""Retained messages: MQTT 5.0 section 3.3.1.3, 3.8.3.1, 3.8.4; 3.1 and 3.1.1
likewise.

A SUBACK does not wait for what is retained, so that nothing comes is shown by
what comes behind it: take() asks for a topic of its own last."""

import os
import signal
import threading
import time

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
    options = qos | (how.get("no_local", 0) << 2
                     | how.get("retain_as_published", 0) << 3
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
    # With QoS 0 nobody says when the last one is retained: it is when it has
    # come to those who are there, on either listener.
    there = [node.client(on=on) for on in (0, 1)]
    for c in there:
        c.subscribe(topic)
    for i in range(3):
        keep(pub, topic, b"%d" % i, qos)
    for c in there:
        assert [p.payload for p in c.read_publishes(3)] == [b"0", b"1", b"2"]
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


class Busy:
    """Listener 1 of a node stands still for the time of a `with`."""

    def __init__(self, node):
        self.pid = node.pid("listener.1")

    def __enter__(self):
        os.kill(self.pid, signal.SIGSTOP)
        self.since = time.monotonic()
        return self

    def __exit__(self, *exc):
        try:
            os.kill(self.pid, signal.SIGCONT)
        except ProcessLookupError:
            pass                        # it was killed meanwhile
        self.took = time.monotonic() - self.since


@pytest.fixture(scope="module")
def order_node():
    n = mqttc.Node(listeners=2)
    yield n
    n.stop()


@needs_own
@pytest.mark.parametrize("version", [V311, V5])
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("share", ["", "$share/g/"])
def test_order_before_a_retained_one(order_node, topic, version, qos, share):
    """MQTT-4.6.0-6: it waits until a busy listener has what went straight
    there; nothing of it is published before."""
    node = order_node
    sub = node.client(on=1)
    sub.subscribe(share + topic, qos=qos)
    n = 10
    for attempt in range(20):
        pub = node.client(version=version, on=0, keepalive=1)
        published = node.metric("store_published_total")
        parked = node.metric("publishers_parked_total")
        with Busy(node) as busy:
            pub.send_bytes(b"".join(
                wire.publish_packet(version, topic, b"%02d" % i, qos,
                                    i + 1 if qos else None, retain=i == n - 2)
                for i in range(n)))
            node.wait_metric("publishers_parked_total", lambda v: v > parked)
            early = node.metric("store_published_total") - published
        got = sub.read_publishes(n)
        sub.complete(*got)
        got = [int(p.payload) for p in got]
        assert sorted(got) == list(range(n))
        pub.close()
        # With QoS 0 nobody waits longer than a second for who stands still.
        if qos or busy.took < 0.9:
            break
    else:
        pytest.skip("the machine is too slow for it")
    assert early == 0
    assert got == list(range(n))
    sub.close()


@needs_own
def test_other_topics_do_not_wait(make_node):
    """A publisher that is known to retain is held for the same topic alone."""
    node = make_node(listeners=2)
    sub = node.client(on=1)
    sub.subscribe("plain", qos=1)
    pub = node.client(version=V311, on=0)
    n = 300
    pub.send_bytes(b"".join(
        wire.publish_packet(V311, "plain" if i % 2 else "r/%d" % (i % 10),
                            b"%d" % i, 1, i + 1, retain=i % 2 == 0)
        for i in range(n)))
    for i in range(n):
        pub.expect(wire.PUBACK, i + 1)
    got = sub.read_publishes(n // 2)
    assert [int(p.payload) for p in got] == list(range(1, n, 2))
    assert node.metric("store_published_total") == n // 2


@needs_own
@pytest.mark.parametrize("qos", [0, 1])
def test_nobody_waits_for_a_listener_that_died(make_node, qos):
    node = make_node(listeners=2)
    sub, here = node.client(on=1), node.client(on=0)
    sub.subscribe("t/#", qos=1)
    here.subscribe("t/#", qos=1)
    pub = node.client(on=0)
    with Busy(node):
        for i in range(3):
            pub.send_publish("t/a", b"%d" % i, qos=qos, pid=i + 1 if qos else
                             None)
        pub.send_publish("t/a", b"kept", qos=1 if qos else 0,
                         pid=9 if qos else None, retain=True)
        node.wait_metric("publishers_parked_total", lambda v: v > 0)
        os.kill(node.pid("listener.1"), signal.SIGKILL)
    got = here.read_publishes(4)
    assert [p.payload for p in got] == [b"0", b"1", b"2", b"kept"]


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


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("qos", [0, 1])
def test_no_local_when_subscribing(node, topic, stored, qos):  # MQTT-3.8.3-3
    c = (durable if stored else lambda node, who: node.client(who))(
        node, "n" + topic)
    keep(c, topic + "/mine")
    keep(node.client(on=1), topic + "/theirs")
    mine, theirs = (topic + "/mine", b"x"), (topic + "/theirs", b"x")
    got = take(node, c, topic + "/+", qos, no_local=1)
    assert bodies(got) == [theirs]
    keep(node.client(), topic + "/mine")        # not its own any more
    c.complete(c.read_publish())
    got = take(node, c, topic + "/+", qos, no_local=1)
    assert bodies(got) == [mine, theirs]


@needs_own
@pytest.mark.parametrize("stored", [False, True])
def test_unsubscribed_before_it_came(make_node, stored):    # MQTT-3.10.4-2
    """Stores that are stopped answer late."""
    node = make_node(listeners=1,
                     options={"session_store.processes": "3"})
    pub = node.client()
    for i in range(12):
        keep(pub, "t/%d" % i)
    fenced(node)
    c = durable(node, "c") if stored else node.client()
    pids = [node.kill("session_store.%d" % i, signal.SIGSTOP)
            for i in range(3)]
    c.send_bytes(wire.subscribe_packet(V5, 1, [("t/#", 1)])
                 + wire.unsubscribe_packet(V5, 2, ["t/#"]))
    c.inbox.extend(c.fence())
    if not stored:                      # those wait for their store
        c.expect(wire.SUBACK)
        c.expect(wire.UNSUBACK)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    if stored:
        c.expect(wire.SUBACK)
        c.expect(wire.UNSUBACK)
    assert take(node, c, "none", qos=1) == []


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


@needs_own
@pytest.mark.parametrize("qos", [1, 2])
def test_a_stored_session_subscribes_meanwhile(make_node, qos):
    """What its store takes live and what is retained come by two ways: each
    message once, none is missing, on whichever listener and shard."""
    node = make_node(listeners=2, options={"session_store.processes": "3"})
    pub = node.client(on=1, version=V311)
    stop = threading.Event()
    failed = []
    n = [0]

    def publish():
        try:
            while not stop.is_set():
                first = n[0]
                n[0] += 20
                pub.send_bytes(b"".join(
                    wire.publish_packet(V311, "t", b"%d" % i, qos,
                                        i % 60000 + 1, retain=True)
                    for i in range(first, n[0])))
                for i in range(first, n[0]):
                    pid = i % 60000 + 1
                    pub.wait_ack(wire.PUBACK if qos == 1 else wire.PUBREC, pid)
                    if qos == 2:
                        pub.pubrel(pid)
                        pub.wait_ack(wire.PUBCOMP, pid)
        except BaseException as e:
            failed.append(e)

    for round in range(4):
        stop.clear()
        t = threading.Thread(target=publish)
        t.start()
        clients = []
        try:
            while n[0] == 0:
                time.sleep(0.001)
            for i in range(12):
                c = durable(node, "c%d.%d" % (round, i), on=i % 2)
                c.subscribe("t", qos=qos)
                clients.append(c)
        finally:
            stop.set()
            t.join()
        assert not failed, failed
        for c in clients:
            got = []
            while n[0] - 1 not in got:
                p = c.read_publish()
                c.complete(p)
                got.append(int(p.payload))
            got += [int(p.payload) for p in c.fence()]
            assert sorted(set(got)) == sorted(got)
            assert sorted(got) == list(range(min(got), n[0]))
            leave(node, c, session_expiry_interval=0)


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


@pytest.mark.parametrize("qos", [1, 2])
def test_a_stored_session_shares(node, topic, qos):         # 4.8.2
    pub = node.client()
    keep(pub, topic)
    c = durable(node, "s" + topic, on=1)
    for f in ["$share/g/" + topic] + (
            [] if node.foreign else ["$queue/" + topic]):
        assert take(node, c, f, qos=qos) == []
        pub.publish(topic, b"live", qos=qos, retain=True)
        p = c.read_publish()
        assert p.payload == b"live" and not p.retain
        c.complete(p)
        c.unsubscribe(f)
    leave(node, c, session_expiry_interval=0)


@pytest.mark.parametrize("rap", [0, 1])
def test_a_stored_session_as_published(node, topic, rap):   # MQTT-3.3.1-12, -13
    pub = node.client()
    keep(pub, topic)
    c = durable(node, "p" + topic, on=1)
    p, = take(node, c, topic, qos=1, retain_as_published=rap)
    assert p.retain                                         # MQTT-3.3.1-8
    for there in (True, False):
        if not there:
            leave(node, c)
        for retain in (True, False):
            pub.publish(topic, b"live", qos=1, retain=retain)
        if not there:
            c = durable(node, "p" + topic, on=1, present=True)
        for retain in (True, False):
            p = c.read_publish()
            assert p.retain == bool(rap and retain)
            c.complete(p)
    leave(node, c, session_expiry_interval=0)


@needs_own
@pytest.mark.parametrize("shards", [1, 3])
def test_a_stored_session_at_the_root(make_node, shards):   # MQTT-4.7.2-1
    node = make_node(listeners=2,
                     options={"session_store.processes": str(shards)})
    pub = node.client()
    for name in ["a", "a/b", "$x", "$x/b"]:
        keep(pub, name, name.encode())
    c = durable(node, "root", on=1)
    for f, names in {"#": ["a", "a/b"], "+": ["a"], "+/b": ["a/b"],
                     "$x/#": ["$x", "$x/b"], "$x/+": ["$x/b"]}.items():
        got = [p.payload.decode() for p in take(node, c, f, qos=1)
               if p.topic not in FENCES]
        assert sorted(got) == names, f
        c.unsubscribe(f)


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


CANNOT_BE_TOLD = [(V311, 1), (V311, 2), (V5, 0)]


def kept(node, n):
    c = node.client()
    c.subscribe("t/#")
    got = {p.topic: p.payload for p in c.read_publishes(n)}
    c.close()
    return got


@needs_own
@pytest.mark.parametrize("version,qos", CANNOT_BE_TOLD)
def test_too_many(make_node, version, qos):
    """Those who are there get it; it is not kept."""
    node = make_node(listeners=1, options={"retain.max_messages": "3"})
    pub, sub = node.client(version=version), node.client()
    sub.subscribe("t/#", qos=1)
    for i in range(5):
        keep(pub, "t/%d" % i, b"x%d" % i, qos)
        p = sub.read_publish()
        assert p.payload == b"x%d" % i
        sub.complete(p)
    assert node.metric("retained_messages") == 3
    assert kept(node, 3) == {"t/%d" % i: b"x%d" % i for i in range(3)}
    keep(pub, "t/0", b"new", qos)               # one that is there changes
    keep(pub, "t/1", b"", qos)                  # one goes, another may come
    keep(pub, "t/4", b"more", qos)
    sub.complete(*sub.read_publishes(3))
    assert kept(node, 3) == {"t/0": b"new", "t/2": b"x2", "t/4": b"more"}
    assert node.metric("retained_refused_total") == 2
    node.wait_log("retain.refused")


@needs_own
@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("kind", ["clean", "stored"])
def test_too_many_is_an_error(make_node, qos, kind):        # 3.4.2.1, 3.5.2.1
    """MQTT 5 can be told, and then nobody gets it."""
    node = make_node(listeners=2, options={"retain.max_messages": "3"})
    sub = node.client(on=1)
    sub.subscribe("t/#", qos=2)
    pub = node.client() if kind == "clean" else durable(node, "pub")
    for i in range(3):
        assert pub.publish("t/%d" % i, b"x", qos=qos, retain=True) in (0, 0x10)
        sub.complete(sub.read_publish())
    # The store tells that it is full behind the messages themselves.
    there = node.client(on=1)
    there.subscribe("t/#")
    there.read_publishes(3)
    for on in (0, 1, 0):
        c = node.client(on=on)
        c.fence()
        n = node.metric("publish_retain_refused_total")
        assert c.publish("t/new", b"x", qos=qos, retain=True) == 0x97
        assert node.metric("publish_retain_refused_total") == n + 1
        assert c.publish("t/new", b"plain", qos=qos) == 0
        p = sub.read_publish()
        assert p.payload == b"plain"
        sub.complete(p)
    assert pub.publish("t/new", b"x", qos=qos, retain=True) == 0x97
    assert pub.publish("t/0", b"other", qos=qos, retain=True) == 0
    assert pub.publish("t/1", b"", qos=qos, retain=True) == 0
    assert pub.publish("t/new", b"fits", qos=qos, retain=True) == 0
    assert pub.publish("t/newer", b"x", qos=qos, retain=True) == 0x97
    got = sub.read_publishes(3)
    sub.complete(*got)
    assert [p.payload for p in got] == [b"other", b"", b"fits"]
    sub.expect_nothing()
    assert kept(node, 3) == {"t/0": b"other", "t/2": b"x", "t/new": b"fits"}
    assert node.metric("retained_refused_total") == 0
    node.wait_log("retain.refused")


@needs_own
def test_too_many_while_the_store_starts(make_node):
    """The question is asked again, and an upgrade asks it again."""
    node = make_node(listeners=1, options={"retain.max_messages": "2"})
    pub = node.client()
    for i in range(2):
        pub.publish("t/%d" % i, b"x", qos=1, retain=True)
    assert len(kept(node, 2)) == 2
    pid = node.pid("session_store.0")
    parked = node.metric("publishers_parked_total")
    os.kill(pid, signal.SIGSTOP)
    pub.send_publish("t/new", b"x", qos=1, pid=77, retain=True)
    node.wait_metric("publishers_parked_total", lambda v: v > parked,
                     process="listener.0")
    node.upgrade("listener.0")
    os.kill(pid, signal.SIGKILL)
    assert pub.wait_ack(wire.PUBACK, 77).reason == 0x97
    pub.send_publish("t/0", b"x", qos=1, pid=78, retain=True)
    pub.wait_ack(wire.PUBACK, 78)


@needs_own
def test_too_many_bytes(make_node):
    node = make_node(listeners=1, options={"retain.max_bytes": "1MB",
                                           "retain.max_size": "400KB"})
    pub = node.client()
    assert pub.publish("t/0", b"x" * 400000, qos=1, retain=True) in (0, 0x10)
    assert pub.publish("t/1", b"x" * 400000, qos=1, retain=True) in (0, 0x10)
    assert len(kept(node, 2)) == 2
    assert pub.publish("t/2", b"x" * 400000, qos=1, retain=True) == 0x97
    assert pub.publish("t/3", b"x" * 200000, qos=1, retain=True) in (0, 0x10)
    assert pub.publish("t/4", b"x" * 100000, qos=1, retain=True) == 0x97
    assert pub.publish("t/0", b"small", qos=1, retain=True) in (0, 0x10)
    assert pub.publish("t/4", b"x" * 100000, qos=1, retain=True) in (0, 0x10)
    assert len(kept(node, 4)) == 4
    assert node.metric("retained_refused_total") == 0


@needs_own
@pytest.mark.parametrize("version,qos", CANNOT_BE_TOLD)
def test_too_large(make_node, version, qos):
    node = make_node(listeners=1, options={"retain.max_size": "100"})
    pub, sub = node.client(version=version), node.client()
    sub.subscribe("t/#", qos=1)
    keep(pub, "t/most", b"x" * 100, qos)
    keep(pub, "t/more", b"x" * 101, qos)
    sub.complete(*sub.read_publishes(2))
    keep(pub, "t/most/2", b"y" * 100, qos)
    sub.complete(sub.read_publish())
    got = take(node, node.client(), "t/#")
    assert sorted(p.topic for p in got) == ["t/most", "t/most/2"]


@needs_own
@pytest.mark.parametrize("qos", [1, 2])
def test_too_large_is_an_error(make_node, qos):
    node = make_node(listeners=1, options={"retain.max_size": "100"})
    pub, sub = node.client(), node.client()
    sub.subscribe("t/#", qos=1)
    assert pub.publish("t/more", b"x" * 101, qos=qos, retain=True) == 0x97
    assert pub.publish("t/more", b"x" * 101, qos=qos) == 0
    assert pub.publish("t/most", b"x" * 100, qos=qos, retain=True) == 0
    got = sub.read_publishes(2)
    assert [len(p.payload) for p in got] == [101, 100]
    assert [p.topic for p in take(node, node.client(), "t/#")] == ["t/most"]
    assert node.metric("publish_retain_refused_total") == 1


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


@needs_own
@pytest.mark.parametrize("shards", [1, 3])
def test_many_filters_at_once(make_node, shards):
    """Each has its pages, and one queue takes them all."""
    n, k = 2800, 14
    node = make_node(listeners=2,
                     options={"session_store.processes": str(shards)})
    pub = node.client(version=V311)
    for at in range(0, n, 700):
        pub.send_bytes(b"".join(
            wire.publish_packet(V311, "many/%d/%d" % (i % k, i), b"x", 1,
                                i - at + 1, retain=True)
            for i in range(at, at + 700)))
        for _ in range(700):
            pub.expect(wire.PUBACK)
    few = {"receive_maximum": 10}
    for c in (node.client(props=few, auto=True),
              durable(node, "kept", props=few, auto=True, on=1)):
        c.subscribe(["many/%d/#" % i for i in range(k)], qos=1)
        got = {c.read_publish().topic for _ in range(n)}
        assert len(got) == n
        c.expect_nothing()
    assert node.metric("dropped_queue_full_total") == 0
    assert node.metric("dropped_offline_queue_full_total") == 0


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
