"""PUBLISH: topics, payloads, flags, what is forwarded and how.
MQTT 5.0 sections 3.3, 4.6 and 4.7; 3.1.1 likewise."""

import socket

import pytest

from support import wire
from support.wire import V31, V311, V5

every_version = pytest.mark.parametrize("version", [V31, V311, V5])
every_pair = pytest.mark.parametrize("pub_version,sub_version", [
    (a, b) for a in (V31, V311, V5) for b in (V31, V311, V5)])


@every_pair
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_message_arrives_as_sent(node, topic, pub_version, sub_version, qos):
    sub = node.client(version=sub_version)                  # MQTT-3.3.4-1
    sub.subscribe(topic, qos=2)
    pub = node.client(version=pub_version)
    pub.publish(topic, b"\x00payload\xff", qos=qos)
    p = sub.read_publish()
    assert (p.topic, p.payload) == (topic, b"\x00payload\xff")
    assert p.qos == qos
    assert not p.dup and not p.retain                       # MQTT-3.3.1-3
    sub.complete(p)
    sub.expect_nothing()


@every_version
def test_empty_payload(node, topic, version):               # 3.3.3
    sub = node.client(version=version)
    sub.subscribe(topic, qos=2)
    pub = node.client(version=version)
    for qos in (0, 1, 2):
        pub.publish(topic, b"", qos=qos)
        p = sub.read_publish()
        assert p.payload == b""
        sub.complete(p)


@pytest.mark.parametrize("size", [
    1, 100, 126, 127, 128, 129, 511, 512, 513, 4095, 4096, 16383, 16384,
    16385, 61440, 65535, 65536, 65537, 131072, 500000, 1000000])
def test_payload_sizes(node, topic, size):                  # 2.1.4
    body = bytes(i * 7 & 255 for i in range(256)) * (size // 256 + 1)
    sub = node.client(auto=True)
    sub.subscribe(topic, qos=2)
    pub = node.client()
    for qos in (0, 1, 2):
        pub.publish(topic, body[:size], qos=qos)
        p = sub.read_publish()
        assert p.payload == body[:size] and p.qos == qos
        if qos == 2:
            sub.expect(wire.PUBREL)


@every_version
def test_sizes_of_every_remaining_length(node, topic, version):  # 1.5.5
    """Packets whose remaining length is around 127, 16383 and 2097151."""
    sub = node.client(version=version)
    sub.subscribe(topic)
    pub = node.client(version=version)
    head = len(wire.publish_packet(version, topic, b"")) - 2
    for limit in (127, 16383):
        for size in (limit - 1, limit, limit + 1):
            pub.publish(topic, b"z" * (size - head))
            assert len(sub.read_publish().payload) == size - head


def test_publisher_gets_its_own(node, topic):               # 3.8.3.1
    c = node.client()
    c.subscribe(topic)
    c.publish(topic, b"mine")
    assert c.read_publish().payload == b"mine"


def test_dup_is_not_forwarded(node, topic):                 # MQTT-3.3.1-3
    sub = node.client()
    sub.subscribe(topic, qos=2)
    pub = node.client()
    pub.publish(topic, b"1", qos=1, dup=True)
    p = sub.read_publish()
    assert p.payload == b"1" and not p.dup
    pub.publish(topic, b"2", qos=2, dup=True)
    p = sub.read_publish()
    assert p.payload == b"2" and not p.dup


# --- Topic names ------------------------------------------------------------

@every_version
@pytest.mark.parametrize("name", [
    "/", "//", "a/", "/a", "a//b", "a/b/c", " ", "a b", "$", "$x/y",
    "\u00e9t\u00e9", "\u4e2d\u6587/\U0001f600", "\ufefftopic", "\ufeff",
    "\uffff", "\u0001", "\u007f", "Case", "a+".replace("+", "\u002e")])
def test_topic_names_are_forwarded_unchanged(node, version, name):
    # MQTT-4.7.3-1, -4 (no normalisation), 1.5.4-3 (U+FEFF stays)
    sub = node.client(version=version)
    pub = node.client(version=version)
    try:
        if sub.subscribe(name, expect=False)[0] >= 0x80:
            raise wire.Closed
        pub.publish(name, b"x")
    except wire.Closed:
        assert name in ("\uffff", "\u0001", "\u007f")  # 1.5.4: a choice
        return
    assert sub.read_publish().topic == name


def test_topic_names_are_case_sensitive(node, topic):       # 4.7.3
    sub = node.client()
    sub.subscribe(topic + "/Abc")
    pub = node.client()
    pub.publish(topic + "/abc", b"no")
    pub.publish(topic + "/ABC", b"no")
    pub.publish(topic + "/Abc", b"yes")
    assert sub.read_publish().payload == b"yes"
    sub.expect_nothing()


def test_topic_names_are_not_normalised(node, topic):       # MQTT-4.7.3-4
    sub = node.client()
    sub.subscribe(topic + "/\u00e9")            # one code point
    pub = node.client()
    pub.publish(topic + "/e\u0301", b"no")      # two of them, looks the same
    sub.expect_nothing()


@every_version
@pytest.mark.parametrize("name", ["+", "#", "a/+", "a/#", "a+", "#a", "+/b"])
def test_wildcards_in_a_topic_name(node, version, name):    # MQTT-3.3.2-2
    sub = node.client()
    sub.subscribe("a/+")
    for qos in (0, 1, 2):
        c = node.client(version=version)
        c.send_publish(name, b"x", qos=qos)
        c.expect_disconnect(wire.TOPIC_NAME_INVALID, wire.MALFORMED_PACKET,
                            wire.PROTOCOL_ERROR)
    sub.expect_nothing()


@every_version
def test_empty_topic_name(node, version):                   # MQTT-4.7.3-1
    c = node.client(version=version)
    c.send_publish("", b"x")
    c.expect_disconnect(wire.PROTOCOL_ERROR, wire.TOPIC_NAME_INVALID,
                        wire.MALFORMED_PACKET)


@every_version
@pytest.mark.parametrize("name", [
    b"a\0b", b"\xff", b"a\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf8\x88\x80",
    b"\xe2\x82", b"\xf4\x90\x80\x80", b"\x80"])
def test_topic_names_of_bad_utf8(node, version, name):      # MQTT-1.5.4-1, -2
    for qos in (0, 1):
        c = node.client(version=version)
        c.send_publish(name, b"x", qos=qos)
        c.expect_disconnect(wire.MALFORMED_PACKET, wire.TOPIC_NAME_INVALID,
                            wire.PROTOCOL_ERROR)


@every_version
def test_longest_topic_name(node, version):                 # MQTT-4.7.3-3
    """65535 bytes in a few levels pass as they are."""
    name = "/".join(["x" * 6553] * 10)[:65535]
    name += "y" * (65535 - len(name))
    sub = node.client(version=version)
    granted = sub.subscribe(name, qos=1, expect=False)[0]
    c = node.client(version=version)
    if granted >= 0x80:
        assert granted in (wire.TOPIC_FILTER_INVALID, wire.QUOTA_EXCEEDED,
                           0x80)
        c.send_publish(name, b"long", qos=1)
        c.drain()
        return
    c.publish(name, b"long", qos=1)
    p = sub.read_publish()
    assert p.topic == name and p.payload == b"long"


# --- Dollar topics ----------------------------------------------------------

def test_wildcards_do_not_match_dollar_topics(node, topic):  # MQTT-4.7.2-1
    name = "$" + topic
    sub = node.client()
    sub.subscribe(["#", "+/" + topic.split("/", 1)[1], "+/#"])
    exact = node.client()
    exact.subscribe([name, "$" + topic.split("/")[0] + "/#"])
    pub = node.client()
    pub.publish(name, b"x")
    got = [p for p in sub.fence() if p.topic == name]
    assert got == []
    assert exact.read_publish().payload == b"x"


def test_dollar_inside_a_topic_is_ordinary(node, topic):    # 4.7.2
    sub = node.client()
    sub.subscribe(topic + "/+")
    node.client().publish(topic + "/$x", b"x")
    assert sub.read_publish().topic == topic + "/$x"


# --- Flags ------------------------------------------------------------------

@every_version
@pytest.mark.parametrize("flags", [6, 7, 14, 15])
def test_qos_3(node, version, flags):                       # MQTT-3.3.1-4
    c = node.client(version=version)
    body = wire.text("t") + b"\0\1" + (b"\0" if version == V5 else b"") + b"x"
    c.send_bytes(wire.packet(wire.PUBLISH, flags, body))
    c.expect_disconnect(wire.MALFORMED_PACKET, wire.PROTOCOL_ERROR)


@every_version
def test_dup_at_qos_0(node, topic, version):                # MQTT-3.3.1-2
    """Must not be sent; a broker may pass it or refuse it."""
    c = node.client(version=version)
    c.send_publish(topic, b"x", dup=True)
    try:
        c.fence()
    except wire.Closed:
        pass


@every_version
def test_packet_id_0(node, topic, version):                 # MQTT-2.2.1-3
    for qos in (1, 2):
        c = node.client(version=version)
        c.send_publish(topic, b"x", qos=qos, pid=0)
        c.expect_disconnect(wire.PROTOCOL_ERROR, wire.MALFORMED_PACKET)


# --- Retain; what is kept has test_retained.py ------------------------------

@pytest.fixture
def forgetful(make_node):
    return make_node(listeners=2, options={"mqtt.retain_available": "off"})


def test_retain_is_refused(forgetful, topic):               # MQTT-3.2.2-14
    node = forgetful
    sub = node.client()
    sub.subscribe(topic, qos=2)
    for qos in (0, 1, 2):
        c = node.client()
        assert c.connack.props["retain_available"] == 0
        c.send_publish(topic, b"x", qos=qos, retain=True)
        c.expect_disconnect(wire.RETAIN_NOT_SUPPORTED)
    sub.expect_nothing()


def test_3x_retain_is_forwarded_and_forgotten(forgetful, topic):
    node = forgetful
    for version in (V31, V311):
        sub = node.client(version=version)
        sub.subscribe(topic, qos=2)
        keeps = node.client(on=1)
        keeps.subscribe(topic, qos=2, retain_as_published=True)
        c = node.client(version=version)
        for qos in (0, 1, 2):
            c.publish(topic, b"%d" % qos, qos=qos, retain=True)
            for s in (sub, keeps):
                p = s.read_publish()
                assert p.payload == b"%d" % qos and not p.retain
                s.complete(p)
            sub.expect_nothing()
        late = node.client(version=version)
        late.subscribe(topic)
        late.expect_nothing()
        node.close_clients()


@every_version
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_retain_is_0_to_established_subscribers(node, topic, version, qos):
    sub = node.client(version=version, on=1)                # MQTT-3.3.1-12
    sub.subscribe(topic, qos=qos)
    pub = node.client(version=version)
    pub.publish(topic, b"x", qos=qos, retain=True)
    p = sub.read_publish()
    assert (p.payload, p.qos, p.retain) == (b"x", qos, False)
    sub.complete(p)
    sub.expect_nothing()
    pub.publish(topic, retain=True)


# --- Many -------------------------------------------------------------------

@every_version
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_order_of_one_publisher(node, topic, version, qos):  # MQTT-4.6.0-5, -6
    n = 300
    sub = node.client(version=version, auto=True)
    sub.subscribe(topic, qos=qos)
    pub = node.client(version=version, auto=True)
    burst = 20
    for at in range(0, n, burst):
        pub.send_bytes(b"".join(
            wire.publish_packet(version, topic, b"%d" % i, qos,
                                i + 1 if qos else None)
            for i in range(at, at + burst)))
        for i in range(at, at + burst if qos else at):
            p = pub.wait_ack(wire.PUBACK if qos == 1 else wire.PUBREC, i + 1)
            if qos == 2:
                pub.pubrel(i + 1)
        for i in range(at, at + burst if qos == 2 else at):
            pub.wait_ack(wire.PUBCOMP, i + 1)
    got = []
    while len(got) < n:
        p = sub.read_packet()
        if p.kind == wire.PUBLISH:
            assert not p.dup
            got.append(int(p.payload))
    assert got == list(range(n))


def test_acks_come_in_order(node, topic):                   # MQTT-4.6.0-2, -3
    pub = node.client()
    pub.send_bytes(b"".join(
        wire.publish_packet(V5, topic, b"x", qos, pid)
        for pid, qos in [(5, 1), (3, 2), (9, 1), (1, 2), (7, 1)]))
    got = [pub.read_packet() for _ in range(5)]
    assert [p.pid for p in got if p.kind == wire.PUBACK] == [5, 9, 7]
    assert [p.pid for p in got if p.kind == wire.PUBREC] == [3, 1]
    for pid in (3, 1):                                      # MQTT-4.6.0-4
        pub.pubrel(pid)
    assert [pub.expect(wire.PUBCOMP).pid for _ in (1, 2)] == [3, 1]


def test_fan_out(node, topic):
    subs = [node.client(version=(V31, V311, V5)[i % 3]) for i in range(60)]
    for i, s in enumerate(subs):
        s.subscribe(topic, qos=i % 2)
    node.client().publish(topic, b"all", qos=1)
    for i, s in enumerate(subs):
        p = s.read_publish()
        assert p.payload == b"all" and p.qos == i % 2
        s.complete(p)
        s.expect_nothing()


def test_thousand_pipelined_packets(node, topic):
    sub = node.client()
    sub.subscribe(topic)
    pub = node.client()
    pub.send_bytes(b"".join(wire.publish_packet(V5, topic, b"%d" % i)
                            for i in range(1000)) + b"\xc0\x00" * 1000)
    assert [int(p.payload) for p in sub.read_publishes(1000)] == list(
        range(1000))
    for _ in range(1000):
        pub.expect(wire.PINGRESP)


@every_version
def test_one_byte_at_a_time(node, topic, version):
    sub = node.client(version=version)
    sub.subscribe(topic, qos=2)
    c = node.raw(version)
    c.send_slowly(wire.connect_packet(version, "slow" + str(version)))
    c.expect(wire.CONNACK)
    c.send_slowly(wire.publish_packet(version, topic, b"slow", 2, 77))
    c.expect(wire.PUBREC, 77)
    c.send_slowly(wire.ack_packet(version, wire.PUBREL, 77))
    c.expect(wire.PUBCOMP, 77)
    assert sub.read_publish().payload == b"slow"
    c.send_slowly(wire.subscribe_packet(version, 78, [(topic + "/x", 1)]))
    c.expect(wire.SUBACK, 78)
    c.send_slowly(b"\xc0\x00")
    c.expect(wire.PINGRESP)


# --- Publishers that go -----------------------------------------------------

@pytest.mark.parametrize("how", ["close", "disconnect", "shutdown"])
def test_what_was_sent_before_the_end_is_processed(node, topic, how):
    """A publisher that says what it has to say and goes at once."""
    sub = node.client()
    sub.subscribe(topic)
    for i in range(20):
        c = node.raw(V311)
        b = wire.connect_packet(V311, "brief") + b"".join(
            wire.publish_packet(V311, topic, b"%d" % k) for k in range(25))
        if how == "disconnect":
            b += wire.disconnect_packet(V311)
        c.send_bytes(b)
        if how == "close":
            c.expect(wire.CONNACK)      # else a reset may overtake the rest
            c.close()
        elif how == "shutdown":
            c.sock.shutdown(socket.SHUT_WR)
            assert c.expect(wire.CONNACK).reason == 0
            c.expect_closed()
        else:
            assert c.expect(wire.CONNACK).reason == 0
            c.expect_closed()
        assert [int(p.payload) for p in sub.read_publishes(25)] == list(
            range(25))


@pytest.mark.parametrize("version", [V311, V5])
def test_large_fan_out_of_a_publisher_that_goes(node, topic, version):
    """More output than one turn writes: every subscriber gets all of it, in
    the order of publishing, though the publisher is gone by then."""
    subs = [node.client(on=i % 2) for i in range(24)]
    for s in subs:
        s.subscribe(topic, qos=1)
    a = node.client(version=version)
    a.send_bytes(b"".join(wire.publish_packet(
        version, topic, b"%d" % i * 400000, 1, i + 1) for i in range(3)))
    a.expect(wire.PUBACK, 1)
    a.expect(wire.PUBACK, 2)
    a.expect(wire.PUBACK, 3)
    a.close()
    b = node.client(version=version)
    b.publish(topic, b"after", qos=0)
    for s in subs:
        got = [s.read_publish() for _ in range(4)]
        assert [p.payload[:1] for p in got] == [b"0", b"1", b"2", b"a"]
        assert all(len(p.payload) == 400000 for p in got[:3])


def test_subscribers_that_go_during_a_fan_out(node, topic):
    subs = [node.client() for _ in range(60)]
    for s in subs:
        s.subscribe(topic, qos=1)
    pub = node.client()
    for i in range(1, 31):
        pub.send_publish(topic, b"%2d" % i * 5000, 1, i)
        subs[2 * i - 2].reset()
    for i in range(1, 31):
        pub.expect(wire.PUBACK, i)
    for s in subs[1::2]:
        for i in range(1, 31):
            p = s.read_publish()
            assert p.payload[:2] == b"%2d" % i
            s.puback(p.pid)


def test_ten_thousand_deliveries_of_one_message(node, topic):
    """More subscriptions than one turn serves, by filters of one client each."""
    subs = [node.client(version=V311) for _ in range(300)]
    for s in subs:
        s.send_bytes(b"".join(wire.subscribe_packet(
            V311, i + 1, [("%s/%d/#" % (topic, i), 0)]) for i in range(40)))
    for s in subs:
        for i in range(40):
            s.expect(wire.SUBACK)
    pub = node.client(version=V311)
    pub.send_bytes(b"".join(wire.publish_packet(
        V311, "%s/%d/x" % (topic, i), b"%d" % i) for i in range(40)))
    pub.fence()
    for s in subs:
        assert [int(p.payload) for p in s.read_publishes(40)] == list(
            range(40))
