"""What the node says about itself: $SYS topics, client events, and a counter
beside each refusal and drop."""

import json

import pytest

from support import wire
from support.wire import V31, V311, V5


@pytest.fixture
def talks(make_node):
    return make_node(listeners=2, options={"sys.interval": "100ms"})


def test_sys_figures(talks):
    """Version, uptime, date and description of the node, and its numbers."""
    name = "$SYS/brokers/%s/" % talks.name
    sub = talks.client(on=1)
    sub.subscribe("$SYS/#")
    seen = {}
    wanted = {name + w for w in ("version", "uptime", "datetime", "sysdescr")}
    while not (wanted <= set(seen) and "$SYS/brokers" in seen
               and any("/stats/" in t for t in seen)
               and any("/metrics/" in t for t in seen)):
        p = sub.expect(wire.PUBLISH)
        seen[p.topic] = p.payload
        assert p.qos == 0
        assert p.topic == "$SYS/brokers" or p.topic.startswith(name)
    assert seen["$SYS/brokers"].decode() == talks.name


def test_sys_topics_are_not_for_wildcards(talks):           # MQTT-4.7.2-1
    watch, sub = talks.client(), talks.client()
    sub.subscribe(["#", "+/brokers", "+/brokers/#", "+/+/+/version"])
    watch.subscribe("$SYS/brokers")
    for _ in range(3):
        watch.read_publish()
    sub.expect_nothing()


def test_sys_events_of_clients(talks, topic):
    """connected, subscribed, unsubscribed, disconnected; on every listener."""
    watch = [talks.client("watch%d" % i, on=i) for i in (0, 1)]
    for w in watch:
        w.subscribe("$SYS/brokers/+/clients/guest/+")
    c = talks.client("guest", on=0, username="u")
    c.subscribe(topic, qos=1)
    c.unsubscribe(topic)
    c.disconnect()
    c.expect_closed()
    for w in watch:
        for event in ("connected", "subscribed", "unsubscribed",
                      "disconnected"):
            p = w.read_publish()
            assert p.topic == "$SYS/brokers/%s/clients/guest/%s" % (
                talks.name, event)
            said = json.loads(p.payload)
            assert said["clientid"] == "guest"
            if "subscribed" in event:
                assert said["topic"] == topic
        w.expect_nothing()


def test_sys_events_of_odd_client_ids(talks):
    """Nothing a client calls itself makes a topic that is none."""
    watch = talks.client("watch", on=1)
    watch.subscribe("$SYS/brokers/+/clients/#")
    for name in ("a/b", "+", "#", "", 'quo"te', "back\\slash", "\u00e9" * 500,
                 "x" * 60000):
        talks.client(name, on=0).close()
    talks.client("last", on=0)
    while True:
        p = watch.read_publish()        # wire checks topic and UTF-8
        json.loads(p.payload)
        if p.topic.endswith("/clients/last/connected"):
            break


# --- Counters ---------------------------------------------------------------

@pytest.fixture(scope="module")
def counted():
    from support import mqttc
    if mqttc.FOREIGN:
        pytest.skip("needs a node of its own")
    with mqttc.Node(listeners=1, options={"mqtt.max_inflight": "1"}) as n:
        yield n


class Grows:
    """with Grows(node, "name", by): the counter rises by that much."""

    def __init__(self, node, name, by=1):
        self.node, self.name, self.by = node, name, by

    def __enter__(self):
        self.before = self.node.metric(self.name)

    def __exit__(self, kind, exc, tb):
        if exc is None:
            self.node.wait_metric(
                self.name, lambda v: v == self.before + self.by)


@pytest.mark.parametrize("version", [V31, V311, V5])
def test_connections_are_counted(counted, version):
    before = counted.metric("clients_connected")
    with Grows(counted, "connects_total", 3), \
            Grows(counted, "disconnects_total", 1):
        cs = [counted.client("n%d" % i, version) for i in range(3)]
        counted.wait_metric("clients_connected", lambda v: v == before + 3)
        cs[0].disconnect()
        for c in cs:
            c.close()
    counted.wait_metric("clients_connected", lambda v: v == before)


def test_refusals_are_counted(counted):
    with Grows(counted, "connects_refused_total", 2):
        counted.raw().refused(wire.BAD_AUTHENTICATION_METHOD, client_id="x",
                              props={"authentication_method": "x"})
        c = counted.raw()
        c.send_bytes(b"GET / HTTP/1.1\r\n\r\n")
        c.expect_refused(wire.MALFORMED_PACKET, wire.PROTOCOL_ERROR)
    with Grows(counted, "packets_malformed_total"):
        c = counted.client()
        c.send_bytes(b"\x00\x00")
        c.expect_disconnect(wire.MALFORMED_PACKET, wire.PROTOCOL_ERROR)
    with Grows(counted, "takeovers_total"):
        c = counted.client("t")
        counted.client("t")
        c.expect_disconnect(wire.SESSION_TAKEN_OVER)
    with Grows(counted, "keepalive_timeouts_total"):
        counted.client(keepalive=1).drain()
    with Grows(counted, "subscribe_refused_total", 2):
        counted.client().subscribe(
            ["/".join("+" if i >> k & 1 else "x" for k in range(6))
             for i in range(1, 64, 2)] + ["+/x/x/x/x/x/+", "+/x/x/x/x/x/x/+"],
            expect=False)


def test_drops_are_counted(counted, topic):
    pub = counted.client()
    with Grows(counted, "dropped_too_large_total"):
        sub = counted.client(props={"maximum_packet_size": 100})
        sub.subscribe(topic + "/1")
        pub.publish(topic + "/1", b"x" * 200)
    with Grows(counted, "dropped_queue_full_total", 5):
        sub = counted.client()
        sub.subscribe(topic + "/2", qos=1)
        for i in range(1006):               # 1 in flight, 1000 in the queue
            pub.send_publish(topic + "/2", b"", 1, 1)
            pub.expect(wire.PUBACK)
    with Grows(counted, "publish_no_subscribers_total"):
        pub.publish(topic + "/3", b"")


def test_messages_are_counted(counted, topic):
    sub, pub = counted.client(), counted.client()
    sub.subscribe(topic, qos=2)
    for qos in (0, 1, 2):
        with Grows(counted, "publish_received_qos%d_total" % qos), \
                Grows(counted, "publish_sent_qos%d_total" % qos):
            pub.publish(topic, b"x", qos=qos)
            sub.complete(sub.read_publish())
    with Grows(counted, "publish_duplicate_total"):
        pub.send_publish(topic, b"y", 2, 7)
        pub.send_publish(topic, b"y", 2, 7, dup=True)
        pub.expect(wire.PUBREC)
        pub.expect(wire.PUBREC)


def test_one_message_can_be_followed(make_node):
    """Packet id, message id, packet id again: the log has them side by
    side, on every process the message crosses."""
    node = make_node(listeners=2, options={"log.level": "debug"})
    sub = node.client("sub", on=1)
    sub.subscribe("follow/#", qos=2)
    pub = node.client("pub", on=0)
    pub.publish("follow/me", b"x", qos=1, pid=77)
    packet = sub.read_publish().pid
    node.wait_log("publish.out")
    lines = [s for s in node.logs().splitlines() if " publish." in s]

    def one(event, *words):
        found = [s for s in lines if " %s " % event in s
                 and all(w in s for w in words)]
        assert len(found) == 1, found
        return found[0].split(" id=")[1].split()[0]
    ident = one("publish.in", "listener.0", 'client="pub"', "packet=77",
                'topic="follow/me"')
    assert len(ident) == 32
    assert one("publish.forwarded", "listener.0", "peer=listener.1") == ident
    assert one("publish.relayed", "listener.1") == ident
    assert one("publish.out", "listener.1", 'client="sub"',
               "packet=%d" % packet) == ident
