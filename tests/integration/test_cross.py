"""Two listeners of one node: what is published through one reaches the
subscribers of the other as if there were only one."""

import os
import signal
import threading
import time

import pytest

from support import wire
from support.wire import V31, V311, V5

versions = pytest.mark.parametrize("version", [V31, V311, V5])


@pytest.fixture(autouse=True)
def two_listeners(node):
    if node.foreign:
        pytest.skip("needs listeners of its own")


@versions
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_message_crosses(node, topic, version, qos):        # MQTT-3.3.4-1
    sub = node.client(version=version, on=1)
    sub.subscribe(topic, qos=2)
    pub = node.client(version=version, on=0)
    pub.publish(topic, b"over", qos=qos)
    p = sub.read_publish()
    assert (p.topic, p.payload, p.qos) == (topic, b"over", qos)
    assert not p.dup and not p.retain
    sub.complete(p)
    sub.expect_nothing()


def test_subscription_is_there_at_suback(node, topic):
    """SUBACK waits for the route: a message published elsewhere after it is
    delivered. Many times, for it is a race otherwise."""
    sub = node.client(on=1)
    pub = node.client(on=0)
    for i in range(200):
        name = "%s/%d" % (topic, i)
        sub.subscribe(name if i % 2 else name + "/+")
        pub.send_publish(name if i % 2 else name + "/x", b"%d" % i)
        assert sub.read_publish().payload == b"%d" % i


def test_second_subscriber_waits_for_the_same_route(node, topic):
    """A row that another subscriber has under way counts for both."""
    subs = [node.client(on=1) for _ in range(10)]
    pub = node.client(on=0)
    for i in range(50):
        name = "%s/%d" % (topic, i)
        for s in subs:
            s.send_bytes(wire.subscribe_packet(V5, i + 1, [(name, 0)]))
        for s in reversed(subs):
            s.wait_ack(wire.SUBACK, i + 1)
            pub.send_publish(name, b"x")
            assert s.read_until(lambda p: p.kind == wire.PUBLISH
                                and p.topic == name)
        pub.fence()
        for s in subs:
            s.fence()


def test_route_goes_with_the_last_subscriber(node, topic):
    a, b = node.client(on=1), node.client(on=1)
    a.subscribe(topic)
    b.subscribe(topic)
    pub = node.client(on=0)
    a.unsubscribe(topic)
    pub.publish(topic, b"1", qos=1)
    assert b.read_publish().payload == b"1"
    b.close()
    a.subscribe(topic)
    pub.publish(topic, b"2", qos=1)
    assert a.read_publish().payload == b"2"


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_order_across(node, topic, qos):                    # MQTT-4.6.0-6
    """Per publisher and topic, with publishers on both sides at once."""
    n = 600
    sub = node.client(on=1, auto=True)
    sub.subscribe(topic + "/#", qos=qos)
    pubs = [node.client(on=i % 2, version=V311, auto=True) for i in range(4)]
    got = {}
    for at in range(0, n, 20):
        for who, pub in enumerate(pubs):
            pub.send_bytes(b"".join(
                wire.publish_packet(V311, "%s/%d" % (topic, who), b"%d" % i,
                                    qos, i + 1 if qos else None)
                for i in range(at, at + 20)))
        for pub in pubs:
            if qos == 0:
                pub.fence()
                continue
            for i in range(at, at + 20):
                pub.wait_ack(wire.PUBACK if qos == 1 else wire.PUBREC, i + 1)
                if qos == 2:
                    pub.pubrel(i + 1)
            for i in range(at, at + 20 if qos == 2 else at):
                pub.wait_ack(wire.PUBCOMP, i + 1)
        left = 80           # read as it comes: queues are bounded
        while left:
            p = sub.read_packet()
            if p.kind == wire.PUBLISH:
                got.setdefault(p.topic, []).append(int(p.payload))
                left -= 1
    for who in range(4):
        assert got["%s/%d" % (topic, who)] == list(range(n))


def test_acks_keep_their_order(node, topic):                # MQTT-4.6.0-2
    """Local, remote and nobody's messages mixed: answers in arrival order."""
    here, there = node.client(on=0), node.client(on=1)
    here.subscribe(topic + "/here", qos=1)
    there.subscribe(topic + "/there", qos=1)
    pub = node.client(on=0)
    names = ["here", "there", "none", "there", "here", "none"] * 15
    pub.send_bytes(b"".join(
        wire.publish_packet(V5, topic + "/" + w, b"", 1, i + 1)
        for i, w in enumerate(names)))
    assert [pub.expect(wire.PUBACK).pid for _ in names] == list(
        range(1, len(names) + 1))


@pytest.mark.parametrize("size", [511, 513, 4096, 61000, 61440, 61441, 65535,
                                  65536, 66000, 200000, 1000000])
def test_sizes_across(node, topic, size):
    body = os.urandom(size)
    sub = node.client(on=1)
    sub.subscribe(topic, qos=2)
    old = node.client(on=1, version=V311)
    old.subscribe(topic, qos=1)
    pub = node.client(on=0)
    for qos in (0, 1, 2):
        pub.publish(topic, body, qos=qos)
        for s in (sub, old):
            p = s.read_publish()
            assert p.payload == body
            s.complete(p)


def test_many_large_messages_across(node, topic):
    """More bytes than a stream is granted; they wait, none is lost."""
    sub = node.client(on=1)
    sub.subscribe(topic, qos=1)
    pub = node.client(on=0)
    body = os.urandom(900000)
    window = 12                     # below mqtt.max_mqueue_bytes
    for i in range(48 + window):
        if i < 48:
            pub.send_publish(topic, b"%3d" % i + body, 1, i + 1)
        if i >= window:
            p = sub.read_publish()
            assert p.payload == b"%3d" % (i - window) + body
            sub.puback(p.pid)
            pub.expect(wire.PUBACK, i - window + 1)


def test_large_topics_and_properties_across(node, topic):
    name = topic + "/" + "x" * 60000
    props = [("user_property", ("k%d" % i, "v" * 1000)) for i in range(100)]
    sub = node.client(on=1)
    sub.subscribe(topic + "/#", qos=1, props=3)
    node.client(on=0).publish(name, b"p", qos=1, props=props + [
        ("correlation_data", b"c" * 65535), ("content_type", "t")])
    p = sub.read_publish()
    assert p.topic == name and p.payload == b"p"
    assert p.props["user_property"] == [v for _, v in props]
    assert p.props["correlation_data"] == b"c" * 65535
    assert p.props["subscription_identifier"] == [3]
    assert p.props["content_type"] == "t"


def test_empty_payloads_across(node, topic):
    sub = node.client(on=1)
    sub.subscribe(topic, qos=2)
    pub = node.client(on=0)
    for qos in (0, 1, 2):
        pub.publish(topic, b"", qos=qos)
        p = sub.read_publish()
        assert p.payload == b""
        sub.complete(p)


def test_client_id_is_taken_over_across(node, topic):       # MQTT-3.1.4-3
    for i in range(20):
        old = node.client("roams", on=i % 2,
                          will={"topic": topic, "payload": b"%d" % i})
        if i:
            last.expect_disconnect(wire.SESSION_TAKEN_OVER)
        last = old
    last.expect_nothing()


@pytest.mark.parametrize("version", [V31, V311])
def test_3x_client_id_is_taken_over_across(node, version):
    old = node.client("roams3", version, on=0)
    new = node.client("roams3", version, on=1)
    old.expect_closed()
    new.expect_nothing()


def test_one_client_id_everywhere_at_once(node):
    from test_connect import still_served, survivors
    for _ in range(5):
        cs = [node.raw(on=i % 2) for i in range(40)]
        for c in cs:
            c.send_bytes(wire.connect_packet(client_id="everywhere"))
        alive = survivors(cs)
        end = time.monotonic() + 20
        while len(alive) > 1 and time.monotonic() < end:
            alive = still_served(alive)     # the other listener hears of it
        assert len(alive) == 1
        last = node.client("everywhere", on=1)
        for c in cs:
            c.drain()
        last.expect_nothing()
        node.close_clients()


def test_will_crosses(node, topic):                         # MQTT-3.1.2-8
    sub = node.client(on=1)
    sub.subscribe(topic, qos=2)
    for qos in (0, 1, 2):
        node.client("w", on=0, will={
            "topic": topic, "payload": b"%d" % qos, "qos": qos,
            "props": {"content_type": "c"}}).close()
        p = sub.read_publish()
        assert p.payload == b"%d" % qos and p.qos == qos
        assert p.props["content_type"] == "c"
        sub.complete(p)


def test_no_local_across(node, topic):                      # MQTT-3.8.3-3
    """Of the same client only, never of a whole listener."""
    a = node.client("a", on=0)
    b = node.client("b", on=1)
    a.subscribe(topic, no_local=True)
    b.subscribe(topic, no_local=True)
    a.publish(topic, b"a", qos=1)
    b.publish(topic, b"b", qos=1)
    assert a.read_publish().payload == b"b"
    assert b.read_publish().payload == b"a"
    a.expect_nothing()
    b.expect_nothing()


def test_overlapping_across(node, topic):                   # MQTT-3.3.4-4
    sub = node.client(on=1)
    sub.subscribe(topic + "/+", qos=1, props=1)
    sub.subscribe(topic + "/#", qos=2, props=2)
    sub.subscribe(topic + "/a", qos=0, props=3)
    node.client(on=0).publish(topic + "/a", b"x", qos=2)
    p = sub.read_publish()
    assert p.qos == 2
    assert sorted(p.props["subscription_identifier"]) == [1, 2, 3]
    sub.complete(p)
    sub.expect_nothing()


def test_matching_across(node, topic):
    """The index has false positives at most; nobody gets what he did not
    ask for, nobody misses anything."""
    from test_subscribe import MATCHES
    pub, mark = node.client(on=0), node.client(on=1)
    for f in sorted({f for f, _, _ in MATCHES}):
        with wire.connect(node.addr(1)) as c:
            c.subscribe(f)
            for _, t, _ in MATCHES:
                pub.send_publish(t, f.encode())
            # What was acknowledged on the way there is behind all of these.
            mark.subscribe("$mark")
            pub.publish("$mark", b"", qos=1)
            mark.read_publish()
            got = {p.topic for p in c.fence() if p.payload == f.encode()}
            for g, t, wanted in MATCHES:
                if g == f:
                    assert (t in got) == wanted, (f, t)


def test_fan_out_across(node, topic):
    subs = [node.client(on=i % 2) for i in range(40)]
    for s in subs:
        s.subscribe(topic, qos=1)
    pub = node.client(on=0)
    for i in range(50):
        pub.publish(topic, b"%d" % i, qos=1)
    for s in subs:
        got = []
        while len(got) < 50:
            p = s.read_publish()
            s.puback(p.pid)
            got.append(int(p.payload))
        assert got == list(range(50))


def test_dollar_topics_across(node, topic):                 # MQTT-4.7.2-1
    sub, exact = node.client(on=1), node.client(on=1)
    sub.subscribe(["#", "+/#"])
    exact.subscribe("$" + topic)
    node.client(on=0).publish("$" + topic, b"x", qos=1)
    assert exact.read_publish().payload == b"x"
    assert [p for p in sub.fence() if p.topic == "$" + topic] == []


def test_both_ways_at_once(node, topic):
    """Two clients that answer each other across listeners."""
    a, b = node.client(on=0), node.client(on=1)
    a.subscribe(topic + "/a")
    b.subscribe(topic + "/b")
    a.publish(topic + "/b", b"0")
    for i in range(200):
        p = b.read_publish()
        b.send_publish(topic + "/a", p.payload)
        p = a.read_publish()
        assert p.payload == b"%d" % i
        a.send_publish(topic + "/b", b"%d" % (i + 1))


def test_no_ack_before_the_other_listener_has_it(make_node, topic):
    """PUBACK and PUBREC when every destination took it."""
    node = make_node(listeners=2)
    sub, pub = node.client(on=1), node.client(on=0)
    sub.subscribe(topic, qos=2)
    local = node.client(on=0)
    local.subscribe(topic, qos=2)
    pid = node.kill("listener.1", signal.SIGSTOP)
    try:
        pub.send_publish(topic, b"1", 1, 1)
        pub.send_publish(topic, b"2", 2, 2)
        pub.send_publish(topic + "/nobody", b"", 1, 3)
        got = local.read_publishes(2)           # who is up is served
        assert [p.payload for p in got] == [b"1", b"2"]
        assert [p.kind for p in pub.fence()] == []
    finally:
        os.kill(pid, signal.SIGCONT)
    pub.expect(wire.PUBACK, 1)
    pub.expect(wire.PUBREC, 2)
    pub.expect(wire.PUBACK, 3)
    assert [p.payload for p in sub.read_publishes(2)] == [b"1", b"2"]


# --- Little credit ----------------------------------------------------------

def test_message_larger_than_the_credit(make_node, topic):
    """16 MiB through streams that were granted 64 KiB."""
    node = make_node(listeners=2, options={
        "mqtt.max_packet_size": "32MB", "bus.credit": "64KB",
        "listener.output_max": "64MB"})
    body = os.urandom(16 << 20)
    sub = node.client(on=1, auto=True)
    sub.subscribe(topic, qos=2)
    pub = node.client(on=0)
    for qos in (0, 1, 2):
        pub.publish(topic, body, qos=qos)
        p = sub.read_until(lambda p: p.kind == wire.PUBLISH)
        assert p.payload == body and p.qos == qos


def test_both_listeners_out_of_credit(make_node, topic):
    """Each floods the other: both drain, nothing of QoS 1 is lost."""
    node = make_node(listeners=2, options={"bus.credit": "64KB"})
    n, size = 150, 20000
    cs = [node.client(on=i, version=V5) for i in (0, 1)]
    for i, c in enumerate(cs):
        c.subscribe("%s/%d" % (topic, i), qos=1)
    flying = [0, 0]
    sent = [0, 0]
    got = [[], []]
    while min(len(got[0]), len(got[1])) < n or max(flying):
        for i, c in enumerate(cs):
            while flying[i] < 50 and sent[i] < n:
                c.send_publish("%s/%d" % (topic, 1 - i),
                               b"%5d" % sent[i] + b"z" * size, 1)
                sent[i] += 1
                flying[i] += 1
            for p in c.fence():
                if p.kind == wire.PUBACK:
                    flying[i] -= 1
                else:
                    got[i].append(int(p.payload[:5]))
                    c.puback(p.pid)
    assert got == [list(range(n))] * 2


def test_3x_publisher_that_is_paused_is_not_timed_out(make_node, topic):
    """Out of credit the broker stops reading a 3.x publisher; its keep-alive
    does not run meanwhile."""
    node = make_node(listeners=2, options={"bus.credit": "64KB"})
    sub = node.client(on=1, rcvbuf=4096)
    sub.subscribe(topic, qos=1)
    pub = node.client(version=V311, on=0, keepalive=1)
    pid = node.kill("listener.1", signal.SIGSTOP)
    began = time.monotonic()
    body = b"z" * 30000
    pid_out = 0
    pub.sock.setblocking(False)
    pending = b""
    while time.monotonic() - began < 3:
        if not pending:
            pid_out += 1
            pending = wire.publish_packet(V311, topic, body, 1, pid_out)
        if wire.ready(pub.sock, False, True, 0.1)[1]:
            pending = pending[pub.sock.send(pending):]
        if pid_out > 1000:
            break
    os.kill(pid, signal.SIGCONT)
    pub.send_bytes(pending)
    for i in range(1, pid_out + 1):
        pub.expect(wire.PUBACK, i)
    pub.expect_nothing()


# --- The external port ------------------------------------------------------

def test_external_port(node, topic):
    """Any listener may take a connection; it makes no difference."""
    cs = [node.client(on="external") for _ in range(20)]
    for c in cs:
        c.subscribe(topic, qos=1)
    cs[0].publish(topic, b"x", qos=1)
    for c in cs:
        assert c.read_publish().payload == b"x"


def test_three_listeners(make_node, topic):
    node = make_node(listeners=3)
    cs = [node.client(on=i) for i in range(3)]
    for c in cs:
        c.subscribe(topic + "/#", qos=2)
    for i, c in enumerate(cs):
        c.publish("%s/%d" % (topic, i), b"%d" % i, qos=2)
    for c in cs:
        got = [c.read_until(lambda p: p.kind == wire.PUBLISH)
               for _ in range(3)]
        assert sorted(p.payload for p in got) == [b"0", b"1", b"2"]


def test_more_listeners_than_a_word_has_bits(make_node, topic):
    """Beyond 63 destinations the index keeps interned sets."""
    n = 70
    node = make_node(listeners=n)
    cs = [node.client("c%d" % i, on=i) for i in range(n)]
    for i, c in enumerate(cs):
        c.subscribe([topic + "/all/#", "%s/some/%d" % (topic, i % 7),
                     "%s/own/%d" % (topic, i)], qos=1)
    for k in (0, 35, 69):
        cs[k].publish(topic + "/all/x", b"%d" % k, qos=1)
        for c in cs:
            p = c.read_publish()
            assert p.payload == b"%d" % k
            c.puback(p.pid)
    cs[0].publish(topic + "/some/3", b"some", qos=1)
    for i, c in enumerate(cs):
        if i % 7 == 3:
            p = c.read_publish()
            assert p.payload == b"some"
            c.puback(p.pid)
        else:
            c.expect_nothing()
    for i in range(n):
        cs[(i + 1) % n].publish("%s/own/%d" % (topic, i), b"own", qos=1)
    for i, c in enumerate(cs):
        p = c.read_publish()
        assert p.topic == "%s/own/%d" % (topic, i)
        c.puback(p.pid)
        c.expect_nothing()


def test_one_listener(make_node, topic):
    node = make_node(listeners=1)
    c = node.client()
    c.subscribe(topic, qos=2)
    c.publish(topic, b"x", qos=2)
    assert c.read_publish().payload == b"x"


@pytest.mark.parametrize("version", [V311, V5])
def test_a_busy_listener_loses_no_qos0(make_node, version):
    """Far more than the credit in one go: the publisher rests, nothing is
    dropped between listeners that are at work."""
    node = make_node(listeners=2, options={"bus.credit": "64KB"})
    sub = node.client(on=1, version=V311)
    sub.subscribe("b", qos=0)
    pub = node.client(on=0, version=version)
    n = 20000
    blast = b"".join(wire.publish_packet(version, "b", b"%06d" % i, 0, None)
                     for i in range(n))
    feeder = threading.Thread(target=pub.send_bytes, args=(blast,))
    feeder.start()
    assert [int(p.payload) for p in sub.read_publishes(n)] == list(range(n))
    feeder.join()
    pub.fence()
    assert node.metric("dropped_no_credit_total") == 0


def test_a_stopped_listener_stops_no_qos0_publisher(make_node):
    """What it has no credit for is dropped and counted; others get all."""
    node = make_node(listeners=2, options={"bus.credit": "64KB"})
    there = node.client(on=1, version=V311)
    there.subscribe("b", qos=0)
    here = node.client(on=0, version=V311)
    here.subscribe("b", qos=0)
    node.kill("listener.1", signal.SIGSTOP)
    pub = node.client(on=0, version=V311)
    n = 5000
    blast = b"".join(wire.publish_packet(V311, "b", b"%06d" % i, 0, None)
                     for i in range(n))
    feeder = threading.Thread(target=pub.send_bytes, args=(blast,))
    feeder.start()
    assert [int(p.payload) for p in here.read_publishes(n)] == list(range(n))
    feeder.join()
    pub.fence()
    assert node.metric("dropped_no_credit_total") > 0
    node.kill("listener.1", signal.SIGCONT)


def test_a_3x_publisher_without_answers_is_not_let_go_on(make_node):
    """As many unanswered as it may have, and no more while the listener they
    wait for stands still, however long."""
    node = make_node(listeners=2)
    sub = node.client(on=1, version=V311, auto=True)
    sub.subscribe("b", qos=1)
    pub = node.client(on=0, version=V311)
    node.kill("listener.1", signal.SIGSTOP)
    n = 3000
    blast = b"".join(wire.publish_packet(V311, "b", b"x", 1, i + 1)
                     for i in range(n))
    feeder = threading.Thread(target=pub.send_bytes, args=(blast,))
    feeder.start()
    node.wait_metric("publishers_parked_total", lambda v: v > 0)
    # Nothing tells of a tick: several of them must change nothing.
    time.sleep(1)
    assert node.metric("publish_received_qos1_total") == 1024
    node.kill("listener.1", signal.SIGCONT)
    feeder.join()
    for i in range(n):
        pub.expect(wire.PUBACK, i + 1)
    assert node.metric("publish_received_qos1_total") == n
