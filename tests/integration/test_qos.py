"""QoS 1 and 2 in both directions: the handshakes, packet identifiers,
duplicates, errors in acknowledgements. MQTT 5.0 sections 2.2.1, 3.4 to 3.7,
4.3, 4.4 and 4.6; 3.1.1 likewise."""

import pytest

from support import wire
from support.wire import V31, V311, V5

every_version = pytest.mark.parametrize("version", [V31, V311, V5])
both = pytest.mark.parametrize("version", [V311, V5])


def pair(node, topic, version=V5, qos=2, **opts):
    """A publisher, and a subscriber of topic."""
    sub = node.client(version=version, **opts)
    sub.subscribe(topic, qos=qos)
    return node.client(version=version), sub


# --- Towards the broker -----------------------------------------------------

@every_version
def test_qos1_is_acknowledged(node, topic, version):        # MQTT-4.3.2-4
    pub, sub = pair(node, topic, version)
    for pid in (1, 2, 255, 256, 65535):
        pub.send_publish(topic, b"x", 1, pid)
        pub.expect(wire.PUBACK, pid)                        # MQTT-2.2.1-5
    assert len(sub.read_publishes(5)) == 5


@every_version
def test_qos2_handshake(node, topic, version):              # MQTT-4.3.3-8 ..
    pub, sub = pair(node, topic, version)
    for pid in (1, 65535):
        pub.send_publish(topic, b"x", 2, pid)
        pub.expect(wire.PUBREC, pid)
        pub.pubrel(pid)
        pub.expect(wire.PUBCOMP, pid)
    assert len(sub.read_publishes(2)) == 2
    sub.expect_nothing()


@every_version
def test_qos2_duplicate_is_not_delivered(node, topic, version):
    pub, sub = pair(node, topic, version)                   # MQTT-4.3.3-10
    pub.send_publish(topic, b"once", 2, 10)
    pub.expect(wire.PUBREC, 10)
    for _ in range(3):
        pub.send_publish(topic, b"once", 2, 10, dup=True)
        assert pub.expect(wire.PUBREC, 10).reason == 0
    pub.pubrel(10)
    pub.expect(wire.PUBCOMP, 10)
    p = sub.read_publish()
    assert p.payload == b"once"
    sub.complete(p)
    sub.expect_nothing()


@every_version
def test_qos2_id_is_free_after_pubcomp(node, topic, version):
    pub, sub = pair(node, topic, version)                   # MQTT-4.3.3-12
    for i in range(5):
        assert pub.publish(topic, b"%d" % i, qos=2, pid=10) == 0
    got = sub.read_publishes(5)
    assert [p.payload for p in got] == [b"%d" % i for i in range(5)]


def test_qos2_id_in_use(node, topic):                       # 3.5.2.1, 0x91
    """A new message under an id in flight: PUBREC, with 0x91 or as if it
    were the old one. One of the two is delivered."""
    pub, sub = pair(node, topic)
    pub.send_publish(topic, b"first", 2, 10)
    pub.expect(wire.PUBREC, 10)
    pub.send_publish(topic, b"second", 2, 10)
    assert pub.expect(wire.PUBREC, 10).reason in (0, wire.PACKET_ID_IN_USE)
    pub.pubrel(10)
    assert pub.expect(wire.PUBCOMP, 10).reason == 0
    p = sub.read_publish()
    assert p.payload in (b"first", b"second")
    sub.complete(p)
    sub.expect_nothing()


@every_version
def test_qos1_duplicates_are_new_messages(node, topic, version):
    pub, sub = pair(node, topic, version)                   # 4.3.2
    for dup in (False, True, True):
        pub.send_publish(topic, b"x", 1, 10, dup=dup)
        pub.expect(wire.PUBACK, 10)
    assert len(sub.read_publishes(3)) == 3


@every_version
def test_pubrel_of_unknown_id(node, version):               # 3.7.2.1, 0x92
    c = node.client(version=version)
    c.pubrel(1234)
    p = c.expect(wire.PUBCOMP, 1234)
    assert p.reason == (wire.PACKET_ID_NOT_FOUND if version == V5 else 0)
    c.expect_nothing()


def test_pubrel_twice(node, topic):                         # 3.7.2.1, 0x92
    pub, sub = pair(node, topic)
    pub.publish(topic, b"x", qos=2, pid=3)
    pub.pubrel(3)
    assert pub.expect(wire.PUBCOMP, 3).reason == wire.PACKET_ID_NOT_FOUND
    assert len(sub.read_publishes(1)) == 1
    sub.expect_nothing()


def test_pubrel_with_reason_and_properties(node, topic):    # 3.6.2
    pub, sub = pair(node, topic)
    pub.send_publish(topic, b"x", 2, 5)
    pub.expect(wire.PUBREC, 5)
    pub.pubrel(5, wire.PACKET_ID_NOT_FOUND, {
        "reason_string": "why", "user_property": [("a", "b")]})
    pub.expect(wire.PUBCOMP, 5)


@both                                           # 3.1 has DUP there
@pytest.mark.parametrize("flags", [f for f in range(16) if f != 2])
def test_pubrel_flags(node, version, flags):                # MQTT-3.6.1-1
    c = node.client(version=version)
    c.send_bytes(wire.packet(wire.PUBREL, flags, b"\0\1"))
    c.expect_disconnect(wire.MALFORMED_PACKET, wire.PROTOCOL_ERROR)


@both
@pytest.mark.parametrize("kind", [wire.PUBACK, wire.PUBREC, wire.PUBCOMP])
def test_ack_flags(node, version, kind):                    # MQTT-2.1.3-1
    for flags in (1, 2, 8, 15):
        c = node.client(version=version)
        c.send_bytes(wire.packet(kind, flags, b"\0\1"))
        c.expect_disconnect(wire.MALFORMED_PACKET, wire.PROTOCOL_ERROR)


def test_no_subscribers_is_success(node, topic):            # 3.4.2.1, 0x10
    c = node.client()
    for qos in (1, 2):
        assert c.publish(topic, b"x", qos=qos) in (
            0, wire.NO_MATCHING_SUBSCRIBERS)


@every_version
def test_many_open_qos2_from_a_client(node, topic, version):
    """All that the broker grants, each under way before any is released."""
    pub, sub = pair(node, topic, version)
    n = min(pub.connack.props.get("receive_maximum", 20), 100)
    for pid in range(1, n + 1):
        pub.send_publish(topic, b"%d" % pid, 2, pid)
    for pid in range(1, n + 1):
        pub.expect(wire.PUBREC, pid)
    for pid in range(n, 0, -1):
        pub.pubrel(pid)
    for pid in range(n, 0, -1):
        pub.expect(wire.PUBCOMP, pid)


@every_version
def test_qos2_open_when_the_connection_ends(node, topic, version, own):
    """What was answered by PUBREC is delivered; a new session knows nothing
    of the identifier."""
    pub, sub = pair(node, topic, version)
    pub.send_publish(topic, b"1", 2, 10)
    pub.expect(wire.PUBREC, 10)
    pub.close()
    again = node.client(version=version)
    assert again.publish(topic, b"2", qos=2, pid=10) == 0
    if own:                             # 4.3.3 lets others wait for PUBREL
        assert sub.read_publish().payload == b"1"
    assert sub.read_publish().payload == b"2"


# --- Towards the client -----------------------------------------------------

@every_version
@pytest.mark.parametrize("pub_qos", [0, 1, 2])
@pytest.mark.parametrize("sub_qos", [0, 1, 2])
def test_delivered_qos_is_the_lower(node, topic, version, pub_qos, sub_qos):
    pub, sub = pair(node, topic, version, sub_qos)          # MQTT-3.8.4-8
    pub.publish(topic, b"x", qos=pub_qos)
    p = sub.read_publish()
    assert p.qos == min(pub_qos, sub_qos)
    sub.complete(p)
    sub.expect_nothing()


def test_nothing_is_resent_while_connected(node, topic):    # MQTT-4.4.0-1
    pub, sub = pair(node, topic)
    pub.publish(topic, b"x", qos=1)
    pub.publish(topic, b"y", qos=2)
    a, b = sub.read_publishes(2)
    for _ in range(3):
        sub.expect_nothing()
    sub.complete(a, b)
    sub.expect_nothing()


@every_version
def test_pubrec_repeated_gets_pubrel_again(node, topic, version):
    pub, sub = pair(node, topic, version)                   # 4.3.3
    pub.publish(topic, b"x", qos=2)
    p = sub.read_publish()
    for _ in range(3):
        sub.pubrec(p.pid)
        assert sub.expect(wire.PUBREL, p.pid).reason == 0   # MQTT-3.6.1-1
    sub.pubcomp(p.pid)
    sub.expect_nothing()


@every_version
def test_pubrec_of_unknown_id(node, version):               # 3.6.2.1, 0x92
    c = node.client(version=version)
    c.pubrec(4321)
    got = c.fence()
    if version == V5:
        assert [(p.kind, p.pid, p.reason) for p in got] == [
            (wire.PUBREL, 4321, wire.PACKET_ID_NOT_FOUND)]
    else:
        assert [p.kind for p in got] in ([wire.PUBREL], [])


@every_version
@pytest.mark.parametrize("kind", [wire.PUBACK, wire.PUBCOMP])
def test_acks_of_unknown_ids(node, topic, version, kind):
    """Answered by nothing, or by the end of that connection; others serve."""
    c = node.client(version=version)
    c.send_raw_ack(kind, 4321)
    try:
        c.expect_nothing()
    except (wire.Closed, AssertionError):
        pass
    pub, sub = pair(node, topic, version)
    pub.publish(topic, b"x", qos=1)
    sub.complete(sub.read_publish())


@every_version
@pytest.mark.parametrize("qos,wrong", [
    (1, wire.PUBREC), (1, wire.PUBCOMP), (2, wire.PUBACK), (2, wire.PUBCOMP)])
def test_acks_of_the_wrong_kind(node, topic, version, qos, wrong):
    """The message is not taken for delivered, or the connection ends."""
    pub, sub = pair(node, topic, version)
    pub.publish(topic, b"x", qos=qos)
    p = sub.read_publish()
    sub.send_raw_ack(wrong, p.pid)
    try:
        got = sub.fence()
        assert all(g.kind in (wire.PUBREL, wire.DISCONNECT) for g in got)
        sub.complete(p) if qos == 1 else sub.pubrec(p.pid)
        sub.fence()
    except wire.Closed:
        pass
    late = node.client(version=version)
    late.subscribe(topic)
    pub.publish(topic, b"y", qos=qos)
    assert late.read_publish().payload == b"y"


def test_puback_with_error_ends_the_delivery(node, topic):  # 3.4.2.1
    pub, sub = pair(node, topic, props={"receive_maximum": 1})
    pub.publish(topic, b"1", qos=1)
    pub.publish(topic, b"2", qos=1)
    p = sub.read_publish()
    sub.puback(p.pid, wire.UNSPECIFIED_ERROR, {"reason_string": "no"})
    p = sub.read_publish()
    assert p.payload == b"2"
    sub.complete(p)
    sub.expect_nothing()


@pytest.mark.parametrize("reason", [0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99])
def test_pubrec_with_error_frees_the_slot(node, topic, reason):
    pub, sub = pair(node, topic, props={"receive_maximum": 1})  # 4.9, 3.5.2.1
    for i in range(4):
        pub.publish(topic, b"%d" % i, qos=2)
    for i in range(3):
        p = sub.read_publish()
        assert p.payload == b"%d" % i
        sub.pubrec(p.pid, reason)
    p = sub.read_publish()
    assert p.payload == b"3"
    sub.complete(p)
    sub.expect_nothing()                            # no PUBREL for the refused


def test_puback_with_no_matching_subscribers(node, topic):  # 3.4.2.1
    pub, sub = pair(node, topic, props={"receive_maximum": 1})
    pub.publish(topic, b"1", qos=1)
    pub.publish(topic, b"2", qos=2)
    sub.puback(sub.read_publish().pid, 0x10)
    p = sub.read_publish()
    sub.pubrec(p.pid, 0x10)
    sub.expect(wire.PUBREL, p.pid)
    sub.pubcomp(p.pid, 0)
    sub.expect_nothing()


def test_pubcomp_with_error_frees_the_slot(node, topic):    # 3.7.2.1
    pub, sub = pair(node, topic, props={"receive_maximum": 1})
    for b in (b"1", b"2"):
        pub.publish(topic, b, qos=2)
    p = sub.read_publish()
    sub.pubrec(p.pid)
    sub.expect(wire.PUBREL, p.pid)
    sub.pubcomp(p.pid, wire.PACKET_ID_NOT_FOUND)
    assert sub.read_publish().payload == b"2"


@every_version
def test_ids_in_flight_differ(node, topic, version):        # MQTT-2.2.1-4
    pub, sub = pair(node, topic, version)
    for i in range(20):
        pub.publish(topic, b"%d" % i, qos=1 + i % 2)
    got = sub.read_publishes(20)
    assert len({p.pid for p in got}) == 20
    assert [p.payload for p in got] == [b"%d" % i for i in range(20)]
    for p in reversed(got):         # acknowledged in any order
        if p.qos == 1:
            sub.puback(p.pid)
        else:
            sub.pubrec(p.pid)
    for p in reversed(got):
        if p.qos == 2:
            sub.expect(wire.PUBREL, p.pid)
            sub.pubcomp(p.pid)
    sub.expect_nothing()


def test_ids_in_flight_are_never_reused(node, topic):       # MQTT-2.2.1-4
    """All 65535 identifiers pass by while two stay in flight, one of them
    waiting for PUBACK and one for PUBCOMP. A broker may skip the two or wait
    for them."""
    pub, sub = pair(node, topic, V311)
    pub.publish(topic, b"held", qos=1)
    pub.publish(topic, b"held", qos=2)
    a, b = sub.read_publishes(2)
    sub.pubrec(b.pid)
    sub.expect(wire.PUBREL, b.pid)
    held = {a.pid, b.pid}
    burst = 250
    blast = b"".join(wire.publish_packet(V311, topic, b"", 1, i + 1)
                     for i in range(burst))
    for at in range(0, 66000, burst):
        pub.send_bytes(blast)
        for _ in range(burst):
            pub.expect(wire.PUBACK)
        left = burst
        while left:
            got = sub.fence()
            for p in got:
                assert p.pid not in held, "%d is in flight" % p.pid
                sub.puback(p.pid)
            left -= len(got)
            if not got:
                assert held, "it waits for nothing"
                sub.puback(a.pid)
                sub.pubcomp(b.pid)
                held = set()
    for pid in sorted(held):
        sub.puback(a.pid) if pid == a.pid else sub.pubcomp(pid)
    sub.expect_nothing()


def test_subscriber_gone_with_messages_in_flight(node, topic):
    """What it did not acknowledge troubles nobody."""
    pub, sub = pair(node, topic)
    other = node.client()
    other.subscribe(topic, qos=2)
    for i in range(10):
        pub.publish(topic, b"%d" % i, qos=2)
    sub.read_publishes(3)
    sub.reset()
    pub.publish(topic, b"last", qos=2)
    got = other.read_publishes(11)
    assert got[-1].payload == b"last"


@every_version
def test_qos1_with_the_id_of_a_qos2_under_way(node, topic, version):  # 2.2.1
    """What is acknowledged is delivered; what is not delivered is refused."""
    sub = node.client()
    sub.subscribe(topic, qos=1)
    pub = node.client(version=version)
    pub.send_publish(topic, b"two", qos=2, pid=9)
    assert pub.expect(wire.PUBREC, 9).reason == 0
    assert sub.read_publish().payload == b"two"
    pub.send_publish(topic, b"one", qos=1, pid=9)
    try:
        refused = pub.expect(wire.PUBACK, 9).reason >= 0x80
    except wire.Closed:
        return
    if refused:
        sub.expect_nothing()
    else:
        assert sub.read_publish().payload == b"one"
    pub.pubrel(9)
    assert pub.expect(wire.PUBCOMP, 9).reason == 0
