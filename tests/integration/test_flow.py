"""Flow control, limits of size and number, queues and what they drop.
MQTT 5.0 sections 3.1.2.11.3, 3.1.2.11.4, 3.2.2.3.6 and 4.9."""

import socket

import pytest

from support import wire
from support.wire import V31, V311, V5

every_version = pytest.mark.parametrize("version", [V31, V311, V5])


# --- Receive Maximum of the client ------------------------------------------

@pytest.mark.parametrize("limit", [1, 2, 7])
def test_send_quota_stops_at_receive_maximum(node, topic, limit):
    sub = node.client(props={"receive_maximum": limit})     # MQTT-3.3.4-9
    sub.subscribe(topic, qos=2)
    pub = node.client()
    n = limit * 2 + 3
    for i in range(n):
        pub.publish(topic, b"%d" % i, qos=1 + i % 2)
    flying = sub.read_publishes(limit)
    sub.expect_nothing()                                    # MQTT-4.9.0-2
    got = []
    while flying:
        p = flying.pop(0)
        got.append(int(p.payload))
        sub.complete(p)
        if len(got) + len(flying) < n:
            flying.append(sub.read_publish())
        sub.expect_nothing()
    assert got == list(range(n))                            # MQTT-4.6.0-6


def test_pubrec_does_not_free_the_quota(node, topic):       # MQTT-4.9.0-2
    sub = node.client(props={"receive_maximum": 1})
    sub.subscribe(topic, qos=2)
    pub = node.client()
    pub.publish(topic, b"1", qos=2)
    pub.publish(topic, b"2", qos=2)
    p = sub.read_publish()
    sub.pubrec(p.pid)
    sub.expect(wire.PUBREL, p.pid)
    sub.expect_nothing()
    sub.pubcomp(p.pid)
    assert sub.read_publish().payload == b"2"


def test_quota_does_not_delay_other_packets(node, topic):   # MQTT-4.9.0-3
    sub = node.client(props={"receive_maximum": 1})
    sub.subscribe(topic, qos=1)
    pub = node.client()
    pub.publish(topic, b"1", qos=1)
    pub.publish(topic, b"2", qos=1)
    p = sub.read_publish()
    sub.subscribe(topic + "/x", qos=1)                      # MQTT-3.3.4-10
    sub.unsubscribe(topic + "/x")
    assert sub.publish(topic + "/y", b"", qos=2) in (0, 0x10)
    sub.expect_nothing()
    sub.puback(p.pid)
    assert sub.read_publish().payload == b"2"


def test_quota_is_for_qos_1_and_2_only(node, topic, own):   # 4.9
    """QoS 0 may pass a full window or wait behind it, never get lost."""
    sub = node.client(props={"receive_maximum": 1})
    sub.subscribe(topic, qos=1)
    pub = node.client()
    pub.publish(topic, b"1", qos=1)
    p = sub.read_publish()
    pub.publish(topic, b"0", qos=0)
    got = sub.fence()
    sub.puback(p.pid)
    if not got:
        got = [sub.read_publish()]
    assert [g.payload for g in got] == [b"0"]


@pytest.mark.parametrize("version", [V311, V5])
def test_default_receive_maximum(node, topic, version, own):  # 3.1.2.11.3
    """65535 unless told: the broker's own window is what bounds it."""
    sub = node.client(version=version)
    sub.subscribe(topic, qos=1)
    pub = node.client()
    for i in range(40):
        pub.publish(topic, b"%d" % i, qos=1)
    got = [p for p in sub.fence() if p.kind == wire.PUBLISH]
    assert 1 <= len(got) <= 40
    while len(got) < 40:
        at = len(got)
        for p in got[-1:]:
            sub.puback(p.pid)
        got.append(sub.read_publish())
        assert len(got) == at + 1
    assert [int(p.payload) for p in got] == list(range(40))


# --- Receive Maximum of the broker ------------------------------------------

def test_broker_receive_maximum_exceeded(node, topic):      # MQTT-3.3.4-7, 0x93
    c = node.client()
    most = c.connack.props.get("receive_maximum", 65535)
    for pid in range(1, most + 1):
        c.send_publish(topic, b"", 2, pid)
    for pid in range(1, most + 1):
        assert c.expect(wire.PUBREC, pid).reason < 0x80
    c.send_publish(topic, b"", 2, most + 1)
    c.expect_disconnect(wire.RECEIVE_MAXIMUM_EXCEEDED)


def test_broker_receive_maximum_is_given_back(node, topic):
    c = node.client()
    most = c.connack.props.get("receive_maximum", 65535)
    for _ in range(3):
        for pid in range(1, most + 1):
            c.send_publish(topic, b"", 1 + pid % 2, pid)
        for pid in range(1, most + 1):
            c.wait_ack(wire.PUBREC if pid % 2 else wire.PUBACK, pid)
        for pid in range(1, most + 1, 2):
            c.pubrel(pid)
        for pid in range(1, most + 1, 2):
            c.expect(wire.PUBCOMP, pid)
    # A repeated PUBLISH takes no second place.
    for pid in range(1, most + 1):
        c.send_publish(topic, b"", 2, pid)
    for pid in range(1, most + 1):
        c.expect(wire.PUBREC, pid)
    c.send_publish(topic, b"", 2, 1, dup=True)
    c.expect(wire.PUBREC, 1)
    c.expect_nothing()


def test_key_receive_maximum(make_node, topic):
    node = make_node(listeners=1, options={"mqtt.receive_maximum": "3"})
    c = node.client()
    assert c.connack.props["receive_maximum"] == 3
    for pid in (1, 2, 3):
        c.send_publish(topic, b"", 2, pid)
        c.expect(wire.PUBREC, pid)
    c.send_publish(topic, b"", 2, 4)
    c.expect_disconnect(wire.RECEIVE_MAXIMUM_EXCEEDED)


@pytest.mark.parametrize("version", [V31, V311])
def test_3x_knows_no_receive_maximum(node, topic, version):
    sub = node.client()
    sub.subscribe(topic)
    c = node.client(version=version)
    n = 300
    for pid in range(1, n + 1):
        c.send_publish(topic, b"%d" % pid, 2, pid)
    for pid in range(1, n + 1):
        c.expect(wire.PUBREC, pid)
        c.pubrel(pid)
    for pid in range(1, n + 1):
        c.expect(wire.PUBCOMP, pid)
    assert len(sub.read_publishes(n)) == n


# --- Maximum Packet Size of the client --------------------------------------

@pytest.mark.parametrize("qos", [0, 1, 2])
def test_larger_packets_are_not_sent(node, topic, qos):     # MQTT-3.1.2-24
    limit = 200
    sub = node.client(props={"maximum_packet_size": limit,
                             "receive_maximum": 1})
    sub.subscribe(topic, qos=2)
    pub = node.client()
    head = len(wire.publish_packet(V5, topic, b"z" * 130, qos,
                                   1 if qos else None)) - 130
    for size, fits in ((limit, True), (limit + 1, False), (limit - 1, True),
                       (5000, False), (100000, False), (limit, True)):
        pub.publish(topic, b"z" * (size - head), qos=qos)
        if fits:
            p = sub.read_publish()
            assert p.size == size                           # to the byte
            sub.complete(p)
        sub.expect_nothing()                                # MQTT-3.1.2-25


def test_size_is_judged_with_what_is_added(node, topic):
    """The subscription identifiers count, they are part of the packet."""
    limit = 120
    sub = node.client(props={"maximum_packet_size": limit})
    sub.subscribe(topic, props=268435455)
    plain = node.client(props={"maximum_packet_size": limit})
    plain.subscribe(topic)
    head = len(wire.publish_packet(V5, topic, b""))
    node.client().publish(topic, b"z" * (limit - head))
    assert plain.read_publish().size == limit
    sub.expect_nothing()
    node.client().publish(topic, b"z" * (limit - head - 5))
    assert sub.read_publish().size == limit


def test_alias_makes_nothing_too_large(node, topic):        # MQTT-3.1.2-24
    limit = 120
    sub = node.client(props={"maximum_packet_size": limit,
                             "topic_alias_maximum": 5})
    sub.subscribe(topic)
    head = len(wire.publish_packet(V5, topic, b""))
    pub = node.client()
    for size in (limit - head, limit - head + 1, limit - head - 3):
        pub.publish(topic, b"z" * size)
        if size <= limit - head:
            assert len(sub.read_publish().payload) == size
    sub.expect_nothing()


def test_size_of_answers(node, topic):                      # MQTT-3.2.2-19 ..
    """A client that takes next to nothing still gets its answers."""
    c = node.client("s", props={"maximum_packet_size": 30})
    assert c.connack.size <= 30
    c.subscribe("t", qos=1)
    c.pubrel(77)
    assert c.expect(wire.PUBCOMP).size <= 30
    c.publish(topic, b"", qos=1)
    c.expect_nothing()


@pytest.mark.parametrize("limit", [1, 4, 10, 15])
def test_size_of_connack(node, topic, limit):               # MQTT-3.1.2-24
    """What does not fit is not sent, a connection that needs it ends; it never
    was one, so its will is not published."""
    watch = node.client()
    watch.subscribe(topic)
    c = node.raw()
    c.send_bytes(wire.connect_packet(
        client_id="", props={"maximum_packet_size": limit},
        will={"topic": topic, "payload": b"x"}))
    try:
        assert c.read_packet().size <= limit
    except wire.Closed:
        watch.expect_nothing()


@pytest.mark.parametrize("limit", [1, 4])
def test_size_of_a_refusal(node, limit):                    # MQTT-3.1.2-24
    c = node.raw()
    c.send_bytes(wire.connect_packet(V5, "small", props={
        "maximum_packet_size": limit, "authentication_method": "none"}))
    c.expect_closed()


# --- Maximum Packet Size of the broker --------------------------------------

def just(version, topic, size, qos=0):
    """A PUBLISH of exactly so many bytes."""
    pid = 1 if qos else None
    body = size
    while True:
        b = wire.publish_packet(version, topic, b"z" * body, qos, pid)
        if len(b) == size:
            return b
        body -= len(b) - size


@every_version
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_broker_maximum_packet_size(node, topic, version, qos, own):
    most = node.client().connack.props.get("maximum_packet_size")
    if most is None:
        pytest.skip("this broker has no limit")
    sub = node.client(version=version, auto=True)           # MQTT-3.2.2-15
    sub.subscribe(topic, qos=0)
    c = node.client(version=version)
    c.send_bytes(just(version, topic, most, qos))
    if qos:
        c.expect(wire.PUBACK if qos == 1 else wire.PUBREC, 1)
    p = sub.read_publish()
    assert p.payload == b"z" * len(p.payload) and p.size > most - 16
    c.try_send(just(version, topic, most + 1, qos))
    c.expect_disconnect(wire.PACKET_TOO_LARGE)              # 0x95
    sub.expect_nothing()


@every_version
def test_16_mib_is_too_large(node, topic, version, own):
    if not own:
        pytest.skip("limits differ")
    c = node.client(version=version)
    head = b"\x30" + wire.varint(16 << 20)
    c.try_send(head + wire.text(topic) + b"\0" * (1 << 20))
    c.expect_disconnect(wire.PACKET_TOO_LARGE)


@every_version
def test_too_large_is_seen_in_the_header(node, version, own):
    """Nobody has to send 256 MB to be told."""
    if not own:
        pytest.skip("limits differ")
    c = node.client(version=version)
    c.send_bytes(b"\x30\xff\xff\xff\x7f")
    c.expect_disconnect(wire.PACKET_TOO_LARGE)


def test_key_max_packet_size(make_node, topic):
    node = make_node(listeners=1, options={"mqtt.max_packet_size": "1KB"})
    c = node.client()
    assert c.connack.props["maximum_packet_size"] == 1024
    c.send_bytes(just(V5, topic, 1024, 1))
    c.expect(wire.PUBACK, 1)
    c.send_bytes(just(V5, topic, 1025, 1))
    c.expect_disconnect(wire.PACKET_TOO_LARGE)
    node.raw().refused(wire.PACKET_TOO_LARGE, wire.MALFORMED_PACKET,
                       client_id="x" * 1024, v3=(2, 3))


# --- The message queue ------------------------------------------------------

def test_queue_drops_qos0_first_then_the_oldest(make_node, topic):
    node = make_node(listeners=1, options={
        "mqtt.max_mqueue_len": "5", "mqtt.max_inflight": "1"})
    sub = node.client()
    sub.subscribe(topic, qos=1)
    pub = node.client()
    pub.publish(topic, b"flying", qos=1)
    first = sub.read_publish()
    for i in range(4):
        pub.publish(topic, b"%d" % i, qos=1)
    early = [p.payload for p in sub.fence()]
    assert early == []
    for i in range(4, 12):
        pub.publish(topic, b"%d" % i, qos=1)
    sub.puback(first.pid)
    got = []
    for _ in range(5):
        p = sub.read_publish()
        got.append(int(p.payload))
        sub.puback(p.pid)
    assert got == [7, 8, 9, 10, 11]                 # the oldest went
    sub.expect_nothing()


def test_queue_of_mixed_qos(make_node, topic):
    """QoS 0 messages that wait go before any of QoS 1."""
    node = make_node(listeners=1, options={
        "mqtt.max_mqueue_len": "5", "mqtt.max_inflight": "1"})
    sub = node.client()
    sub.subscribe(topic, qos=1)
    pub = node.client()
    pub.publish(topic, b"flying", qos=1)
    flying = [sub.read_publish()]
    for i, qos in enumerate([1, 0, 1, 0, 1, 1, 1]):
        pub.publish(topic, b"%d.%d" % (qos, i), qos=qos)
    got = [p.payload for p in sub.fence()]
    while flying:
        sub.puback(flying.pop().pid)
        for p in sub.fence():
            got.append(p.payload)
            if p.qos:
                flying.append(p)
    ones = [g for g in got if g.startswith(b"1")]
    assert ones == [b"1.0", b"1.2", b"1.4", b"1.5", b"1.6"]


def test_queue_is_bounded_in_bytes(make_node, topic):
    node = make_node(listeners=1, options={
        "mqtt.max_mqueue_bytes": "64KB", "mqtt.max_inflight": "1"})
    sub = node.client()
    sub.subscribe(topic, qos=1)
    pub = node.client()
    for i in range(100):
        pub.publish(topic, b"%3d" % i + b"z" * 9997, qos=1)
    got = []
    p = sub.read_publish()
    while p:
        got.append(int(p.payload[:3]))
        sub.puback(p.pid)
        more = sub.fence()
        assert len(more) <= 1
        p = more[0] if more else None
    assert got[0] == 0 and got[-1] == 99
    assert 3 <= len(got) <= 8
    assert got[1:] == list(range(100 - len(got) + 1, 100))


def test_drops_are_counted(make_node, topic):               # S7, queue_full
    node = make_node(listeners=1, options={
        "mqtt.max_mqueue_len": "5", "mqtt.max_inflight": "1"})
    sub = node.client()
    sub.subscribe(topic, qos=1)
    pub = node.client()
    before = node.metrics()
    for i in range(16):
        pub.publish(topic, b"%d" % i, qos=1)
    after = node.metrics()
    grown = {m: after[p, m] - before.get((p, m), 0) for p, m in after}
    assert 10 in [n for m, n in grown.items()
                  if "queue" in m and ("full" in m or "drop" in m)], grown
    sub.close()


def test_inflight_window_of_the_broker(make_node, topic):
    node = make_node(listeners=1, options={"mqtt.max_inflight": "4"})
    for version in (V311, V5):
        sub = node.client(version=version)
        sub.subscribe(topic, qos=2)
        pub = node.client()
        for i in range(9):
            pub.publish(topic, b"%d" % i, qos=1)
        flying = sub.read_publishes(4)
        sub.expect_nothing()
        sub.complete(*flying)
        assert [int(p.payload) for p in sub.read_publishes(4)] == [4, 5, 6, 7]
        sub.expect_nothing()
        sub.close()


def test_queue_remembers_identifiers_and_aliases(node, topic):
    """What a delivery of its own needs survives the queue."""
    sub = node.client(props={"receive_maximum": 1}, alias_maximum=2)
    sub.subscribe(topic + "/+", qos=1, props=7)
    sub.subscribe(topic + "/1", qos=1)
    pub = node.client()
    for i in range(9):
        pub.publish("%s/%d" % (topic, i % 3), b"%d" % i, qos=1)
    for i in range(9):
        p = sub.read_publish()
        assert (p.name, p.payload) == ("%s/%d" % (topic, i % 3), b"%d" % i)
        assert p.props["subscription_identifier"] == [7]
        sub.complete(p)


# --- Slow readers -----------------------------------------------------------

def test_slow_reader_loses_its_own_only(node, topic):
    """A subscriber that reads nothing: the publisher is answered all the
    time, the other subscriber gets everything."""
    slow = node.client("slow", rcvbuf=4096)
    slow.subscribe(topic, qos=0)
    fast = node.client("fast")
    fast.subscribe(topic, qos=1)
    pub = node.client("pub", auto=True)
    for i in range(400):
        pub.publish(topic, b"%6d" % i + b"z" * 50000, qos=1)
        p = fast.read_publish()
        assert int(p.payload[:6]) == i
        fast.puback(p.pid)
    # 20 MB went by. What slow gets is a part, in order, or its end.
    last, n = -1, 0
    try:
        for p in slow.fence():
            if p.kind != wire.PUBLISH:
                assert p.kind == wire.DISCONNECT
                break
            assert int(p.payload[:6]) > last
            last = int(p.payload[:6])
            n += 1
    except (wire.Closed, wire.Late):
        pass


def test_slow_reader_at_qos1_keeps_order(node, topic):
    slow = node.client("slow1", rcvbuf=4096)
    slow.subscribe(topic, qos=1)
    pub = node.client("pub1")
    for i in range(200):
        pub.publish(topic, b"%6d" % i + b"z" * 20000, qos=1)
    got = []
    while True:
        ps = [p for p in slow.fence() if p.kind == wire.PUBLISH]
        if not ps:
            break
        for p in ps:
            got.append(int(p.payload[:6]))
            slow.puback(p.pid)
    assert got == sorted(set(got))
    assert got[-1] == 199


def test_client_that_never_reads_its_answers(node):
    """A flood of PINGREQ without reading is read no further; all is answered
    once the client reads."""
    c = node.client("deaf", rcvbuf=4096)
    flood = b"\xc0\x00" * 32768
    sent = 0
    while wire.ready(c.sock, False, True, 1)[1]:
        try:
            sent += c.sock.send(flood[sent % 2:], socket.MSG_DONTWAIT)
        except (ConnectionResetError, BrokenPipeError):
            break                               # closed: fine as well
        assert sent < 64 << 20, "read without end"
    else:
        got = 0
        while got < sent - sent % 2:
            got += len(c.sock.recv(1 << 20))
    node.client().expect_nothing()


def test_limits_are_kept_as_told(make_node, topic, tmp_path):  # 3.2.2.3
    """A reload to lower limits is for those who connect after it."""
    conf = tmp_path / "mqttc.conf"
    conf.write_text("")
    n = make_node(listeners=1, args=["-f", str(conf)])
    old = n.client()
    assert old.connack.props["receive_maximum"] == 100
    conf.write_text("mqtt.receive_maximum = 1\nmqtt.max_qos = 1\n"
                    "mqtt.max_topic_alias = 2\nmqtt.max_packet_size = 1KB\n")
    n.tool("mqttc-ctl", "-f", str(conf), "reload")
    for _ in range(100):
        new = n.client()
        if new.connack.props["receive_maximum"] == 1:
            break
    else:
        raise AssertionError("the new limits are not told")
    assert new.connack.props["maximum_qos"] == 1
    assert new.connack.props["topic_alias_maximum"] == 2
    assert new.connack.props["maximum_packet_size"] == 1024
    old.send_publish(topic, b"z" * 5000, qos=2, pid=1,
                     props={"topic_alias": 9})
    old.send_publish(topic, b"z", qos=2, pid=2)
    assert old.expect(wire.PUBREC, 1).reason < 0x80
    assert old.expect(wire.PUBREC, 2).reason < 0x80
    new.send_publish(topic, b"z", qos=2, pid=1)
    new.expect_disconnect(wire.QOS_NOT_SUPPORTED)
