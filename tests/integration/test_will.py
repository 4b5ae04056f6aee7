"""Will messages. MQTT 5.0 sections 3.1.2.5, 3.1.3.2, 3.14.4; 3.1.1 likewise."""

import pytest

from support import wire
from support.wire import V31, V311, V5

every_version = pytest.mark.parametrize("version", [V31, V311, V5])


def ways_to_go(c):
    return {
        "close": c.close,
        "reset": c.reset,
        "garbage": lambda: c.send_bytes(b"\x00\x00"),
        "second connect": lambda: c.send_bytes(
            wire.connect_packet(c.version, "again")),
        "bad topic": lambda: c.send_publish("#", b""),
    }


@every_version
@pytest.mark.parametrize("how", [
    "close", "reset", "garbage", "second connect", "bad topic"])
def test_will_is_published(node, topic, version, how):      # MQTT-3.1.2-8
    sub = node.client()
    sub.subscribe(topic, qos=2)
    c = node.client("goes", version, will={"topic": topic, "payload": b"gone",
                                           "qos": 1})
    ways_to_go(c)[how]()
    p = sub.read_publish()
    assert (p.topic, p.payload, p.qos, p.retain) == (topic, b"gone", 1, False)
    sub.complete(p)
    sub.expect_nothing()


@every_version
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_will_qos(node, topic, version, qos):               # MQTT-3.1.2-12
    sub = node.client(version=version)
    sub.subscribe(topic, qos=2)
    c = node.client("goes", version, will={"topic": topic, "payload": b"x",
                                           "qos": qos})
    c.close()
    p = sub.read_publish()
    assert p.qos == qos
    sub.complete(p)


@every_version
def test_will_is_withdrawn_by_disconnect(node, topic, version):  # 3.14.4-3
    sub = node.client()
    sub.subscribe(topic)
    c = node.client("goes", version, will={"topic": topic, "payload": b"x"})
    c.disconnect()
    c.expect_closed()
    sub.expect_nothing()                                    # MQTT-3.1.2-10


@pytest.mark.parametrize("reason", [0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93,
                                    0x94, 0x95, 0x96, 0x97, 0x98, 0x99])
def test_will_is_published_on_disconnect_with_reason(node, topic, reason):
    sub = node.client()                                     # 3.14.2.1
    sub.subscribe(topic)
    c = node.client("goes", will={"topic": topic, "payload": b"x"})
    c.disconnect(reason)
    c.expect_closed()
    assert sub.read_publish().payload == b"x"


def test_disconnect_with_an_unknown_reason(node, topic):    # 3.14.2.1
    c = node.client()
    c.disconnect(0x7f)
    c.drain()
    node.client().expect_nothing()


@every_version
def test_will_on_keep_alive_timeout(node, topic, version):  # MQTT-3.1.2-8
    sub = node.client()
    sub.subscribe(topic)
    node.client("goes", version, keepalive=1,
                will={"topic": topic, "payload": b"late"})
    assert sub.read_publish().payload == b"late"


@every_version
def test_will_on_takeover(node, topic, version):            # 3.1.4, X2
    sub = node.client()
    sub.subscribe(topic)
    old = node.client("mine", version,
                      will={"topic": topic, "payload": b"old"})
    node.client("mine", version)
    old.drain()
    assert sub.read_publish().payload == b"old"
    sub.expect_nothing()


@every_version
def test_empty_will(node, topic, version):                  # 3.1.3.3
    sub = node.client(version=version)
    sub.subscribe(topic)
    node.client("goes", version, will={"topic": topic}).close()
    assert sub.read_publish().payload == b""


def test_will_to_several(node, topic):
    subs = [node.client(version=v, on=i % 2)
            for i, v in enumerate([V31, V311, V5] * 3)]
    for s in subs:
        s.subscribe(topic, qos=1)
    node.client("goes", will={"topic": topic, "payload": b"x" * 5000,
                              "qos": 1}).close()
    for s in subs:
        assert s.read_publish().payload == b"x" * 5000


def test_will_properties(node, topic):                      # MQTT-3.1.3-10
    sub = node.client()
    sub.subscribe(topic)
    node.client("goes", will={"topic": topic, "payload": b"x", "props": [
        ("user_property", ("b", "1")),
        ("content_type", "text"),
        ("user_property", ("a", "2")),
        ("payload_format_indicator", 1),
        ("message_expiry_interval", 100),
        ("response_topic", "r"),
        ("correlation_data", b"c"),
        ("user_property", ("b", "0")),
        ("will_delay_interval", 0)]}).close()
    p = sub.read_publish()
    assert p.props["user_property"] == [("b", "1"), ("a", "2"), ("b", "0")]
    assert p.props["content_type"] == "text"
    assert p.props["payload_format_indicator"] == 1
    assert p.props["message_expiry_interval"] in (99, 100)
    assert p.props["response_topic"] == "r"
    assert p.props["correlation_data"] == b"c"
    assert "will_delay_interval" not in p.props


def test_will_delay_ends_with_the_session(node, topic):     # MQTT-3.1.3-9
    """The session ends with the connection, so the delay does too."""
    sub = node.client()
    sub.subscribe(topic)
    node.client("goes", will={"topic": topic, "payload": b"x", "props": {
        "will_delay_interval": 3600}}).close()
    assert sub.read_publish().payload == b"x"


def test_will_delay_without_sessions(make_node, topic):     # MQTT-3.1.3-9
    """Expiry 0 was told in CONNACK: the delay is as short."""
    node = make_node(listeners=1, options={"mqtt.session_expiry_max": "0"})
    sub = node.client()
    sub.subscribe(topic)
    c = node.client("goes", will={
        "topic": topic, "payload": b"y",
        "props": {"will_delay_interval": 3600}},
        props={"session_expiry_interval": 3600})
    assert c.connack.props["session_expiry_interval"] == 0
    c.close()
    assert sub.read_publish().payload == b"y"


def test_will_retain_is_refused(make_node, topic):          # MQTT-3.2.2-13
    node = make_node(listeners=1, options={"mqtt.retain_available": "off"})
    for qos in (0, 1, 2):
        node.raw().refused(wire.RETAIN_NOT_SUPPORTED, client_id="w", will={
            "topic": topic, "retain": True, "qos": qos})
    for version in (V31, V311):     # cannot be told: forwarded, forgotten
        sub = node.client(version=version)
        sub.subscribe(topic)
        node.client("goes", version, will={
            "topic": topic, "payload": b"x", "retain": True}).close()
        p = sub.read_publish()
        assert p.payload == b"x" and not p.retain
        late = node.client(version=version)
        late.subscribe(topic)
        late.expect_nothing()
        node.close_clients()


def test_will_of_a_refused_connect_is_not_published(node, topic):
    sub = node.client()                                     # 3.1.2.5
    sub.subscribe(topic)
    node.raw().refused(wire.BAD_AUTHENTICATION_METHOD, client_id="w",
                       will={"topic": topic, "payload": b"x"},
                       props={"authentication_method": "none"})
    sub.expect_nothing()


@every_version
@pytest.mark.parametrize("name", ["#", "a/+", "", b"a\0", b"\xff"])
def test_bad_will_topic(node, version, name):               # MQTT-3.1.3-11
    c = node.raw(version)
    c.refused(wire.TOPIC_NAME_INVALID, wire.MALFORMED_PACKET,
              wire.PROTOCOL_ERROR, client_id="w",
              will={"topic": name, "payload": b"x"}, v3=(2, 3))


@pytest.mark.parametrize("props", [
    b"\x02\x23\0", b"\x03\x23\0\1", b"\x02\x0b\1", b"\x05\x11\0\0\0\1",
    b"\x0a\x18\0\0\0\1\x18\0\0\0\1", b"\x02\x01\x02", b"\x04\x08\0\1#",
    b"\x04\x03\0\1\xff", b"\x7f", b"\x02\x7f\x00"])
def test_bad_will_properties(node, topic, props):
    node.raw().refused(wire.MALFORMED_PACKET, wire.PROTOCOL_ERROR,
                       wire.TOPIC_NAME_INVALID, client_id="w",
                       will={"topic": topic, "payload": b"x", "props": props})


def test_client_gets_its_own_will_not(node, topic):
    """It is gone by then; a new connection of that id has a new session."""
    c = node.client("self", will={"topic": topic, "payload": b"x"})
    c.subscribe(topic)
    new = node.client("self")
    c.expect_disconnect(wire.SESSION_TAKEN_OVER)
    new.expect_nothing()


def test_no_local_and_wills(node, topic):
    """A will is its client's message, but reaches others' subscriptions."""
    sub = node.client("other")
    sub.subscribe(topic, no_local=True)
    node.client("goes", will={"topic": topic, "payload": b"x"}).close()
    assert sub.read_publish().payload == b"x"


def test_wills_of_many(node, topic):
    sub = node.client()
    sub.subscribe(topic + "/+", qos=1)
    cs = [node.client("w%d" % i, will={"topic": "%s/%d" % (topic, i),
                                       "payload": b"x", "qos": 1})
          for i in range(100)]
    for c in cs:
        c.close()
    seen = set()
    for _ in range(100):
        p = sub.read_publish()
        sub.puback(p.pid)
        seen.add(p.topic)
    assert len(seen) == 100


def test_will_when_the_node_stops(make_node, topic):        # 3.1.2.5
    """Draining publishes wills; whoever is still connected may hear them."""
    node = make_node(listeners=1)
    c = node.client("w", will={"topic": topic, "payload": b"x"})
    node.proc.terminate()
    got = c.drain()
    if got:
        assert got[-1].kind == wire.DISCONNECT and got[-1].reason == 0x8b


@pytest.mark.parametrize("version", [V31, V311, V5])
def test_will_to_a_topic_of_the_broker(node, version, own):  # 4.7.2
    if not own:
        pytest.skip("a rule of ours")
    node.raw(version).refused(wire.NOT_AUTHORIZED, v3=(5,), client_id="liar",
                              will={"topic": "$SYS/brokers", "payload": b"x"})
