"""Properties of PUBLISH and CONNECT, problem information, topic aliases,
message expiry, request/response. MQTT 5.0 sections 2.2.2, 3.1.2.11, 3.3.2.3
and 4.10."""

import os
import signal
import time

import pytest

from support import wire
from support.wire import V31, V311, V5

FULL = [
    ("payload_format_indicator", 1),
    ("message_expiry_interval", 1000),
    ("response_topic", "answer/\u00e9"),
    ("correlation_data", b"\x00\xff\x01"),
    ("user_property", ("k", "v1")),
    ("user_property", ("a", "")),
    ("user_property", ("k", "v2")),
    ("user_property", ("", "\u4e2d")),
    ("content_type", "text/\U0001f600"),
]


def check_full(p):
    assert p.props["payload_format_indicator"] == 1         # MQTT-3.3.2-4
    assert p.props["message_expiry_interval"] in (999, 1000)
    assert p.props["response_topic"] == "answer/\u00e9"     # MQTT-3.3.2-15
    assert p.props["correlation_data"] == b"\x00\xff\x01"   # MQTT-3.3.2-16
    assert p.props["content_type"] == "text/\U0001f600"     # MQTT-3.3.2-20
    assert p.props["user_property"] == [                    # MQTT-3.3.2-17, -18
        ("k", "v1"), ("a", ""), ("k", "v2"), ("", "\u4e2d")]
    assert set(p.props) == {name for name, _ in FULL}


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_properties_are_forwarded(node, topic, qos):
    sub = node.client()
    sub.subscribe(topic, qos=2)
    old = node.client(version=V311)
    old.subscribe(topic, qos=2)
    pub = node.client()
    pub.publish(topic, b"pay", qos=qos, props=FULL)
    p = sub.read_publish()
    check_full(p)
    sub.complete(p)
    p = old.read_publish()
    assert p.payload == b"pay"              # none of them in 3.1.1
    old.complete(p)


def test_properties_in_any_order(node, topic):              # 2.2.2.2
    sub = node.client()
    sub.subscribe(topic, props=7)
    pub = node.client()
    pub.publish(topic, b"x", props=list(reversed(FULL)))
    p = sub.read_publish()
    assert p.props.pop("subscription_identifier") == [7]
    p.props["user_property"].reverse()
    check_full(p)


def test_many_user_properties(node, topic):                 # MQTT-3.3.2-18
    sub = node.client()
    sub.subscribe(topic)
    props = [("user_property", ("k%d" % (i % 10), "v" * (i % 50) + str(i)))
             for i in range(1000)]
    node.client().publish(topic, b"x", props=props)
    p = sub.read_publish()
    assert p.props["user_property"] == [v for _, v in props]


def test_huge_properties(node, topic):
    """Larger than the buffer anything is usually held in."""
    sub = node.client()
    sub.subscribe(topic, qos=1)
    props = [("user_property", ("k" * 60000, "v" * 65535))] * 4 + [
        ("correlation_data", b"c" * 65535)]
    node.client().publish(topic, b"x" * 1000, qos=1, props=props)
    p = sub.read_publish()
    assert p.props["user_property"] == [v for _, v in props[:4]]
    assert p.props["correlation_data"] == b"c" * 65535
    assert p.payload == b"x" * 1000


@pytest.mark.parametrize("version", [V31, V311])
def test_3x_publish_has_no_properties(node, topic, version):
    sub = node.client()
    sub.subscribe(topic)
    node.client(version=version).publish(topic, b"\x05hello")
    p = sub.read_publish()
    assert p.payload == b"\x05hello" and p.props == {}


def test_payload_format_0(node, topic):                     # MQTT-3.3.2-4
    sub = node.client()
    sub.subscribe(topic)
    node.client().publish(topic, b"x", props={"payload_format_indicator": 0})
    assert sub.read_publish().props.get("payload_format_indicator", 0) == 0


def test_bad_utf8_payload_is_forwarded_or_refused(node, topic):  # 3.3.2.3.2
    """0x99 is allowed, so is forwarding."""
    sub = node.client()
    sub.subscribe(topic)
    c = node.client()
    c.send_publish(topic, b"\xff", 1, props={"payload_format_indicator": 1})
    p = c.read_packet()
    if p.kind == wire.PUBACK and p.reason in (0, 0x10):
        assert sub.read_publish().payload == b"\xff"
    else:
        assert p.reason == 0x99


BAD_PUBLISH = [
    (b"\x02\x01\x02", "payload format 2"),                  # 3.3.2.3.2
    (b"\x04\x01\x00\x01\x00", "payload format twice"),
    (b"\x0a\x02\0\0\0\1\x02\0\0\0\1", "expiry twice"),      # 3.3.2.3.3
    (b"\x06\x23\0\1\x23\0\1", "alias twice"),               # 3.3.2.3.4
    (b"\x08\x08\0\1a\x08\0\1a", "response topic twice"),    # 3.3.2.3.5
    (b"\x04\x08\0\1#", "wildcard in response topic"),       # MQTT-3.3.2-14
    (b"\x06\x08\0\3a/+", "wildcard in response topic"),
    (b"\x04\x08\0\1\xff", "response topic of bad UTF-8"),   # MQTT-3.3.2-13
    (b"\x08\x09\0\1a\x09\0\1a", "correlation data twice"),  # 3.3.2.3.6
    (b"\x08\x03\0\1a\x03\0\1a", "content type twice"),      # 3.3.2.3.9
    (b"\x04\x03\0\1\xff", "content type of bad UTF-8"),     # MQTT-3.3.2-19
    (b"\x07\x26\0\1\xff\0\1a", "user property of bad UTF-8"),  # MQTT-1.5.7-1
    (b"\x07\x26\0\1a\0\1\0", "U+0000 in a user property"),
    (b"\x05\x11\0\0\0\1", "session expiry"),                # 2.2.2.2
    (b"\x03\x21\0\1", "receive maximum"),
    (b"\x04\x1f\0\1a", "reason string"),
    (b"\x02\x24\1", "maximum QoS"),
    (b"\x02\x00\x00", "property 0"),
    (b"\x02\x7f\x00", "property 127"),
    (b"\x03\xff\x01\x00", "property 255"),
    (b"\x05\xff\xff\xff\x7f\x00", "property 268435455"),
    (b"\x01\x01", "value missing"),
    (b"\x02\x02\0", "value short"),
    (b"\x03\x03\0\5", "text longer than the properties"),
    (b"\x05\x26\0\1a\0", "pair cut short"),
    (b"\x7f", "properties longer than the packet"),
    (b"\xff\xff\xff\x7f", "properties much longer than the packet"),
    (b"\xff\xff\xff\xff\x01", "length of five bytes"),
]


@pytest.mark.parametrize("props,what", BAD_PUBLISH,
                         ids=[what.replace(" ", "_")
                              for _, what in BAD_PUBLISH])
@pytest.mark.parametrize("qos", [0, 1])
def test_bad_publish_properties(node, topic, qos, props, what):
    c = node.client()
    c.send_publish(topic, b"", qos, props=props)
    c.expect_disconnect(wire.PROTOCOL_ERROR, wire.MALFORMED_PACKET,
                        wire.TOPIC_ALIAS_INVALID, wire.TOPIC_NAME_INVALID)


BAD_CONNECT = [
    (b"\x0a\x11\0\0\0\1\x11\0\0\0\1", "session expiry twice"),  # 3.1.2.11.2
    (b"\x03\x21\0\0", "receive maximum 0"),                 # 3.1.2.11.3
    (b"\x06\x21\0\1\x21\0\1", "receive maximum twice"),
    (b"\x05\x27\0\0\0\0", "maximum packet size 0"),         # 3.1.2.11.4
    (b"\x0a\x27\0\0\1\0\x27\0\0\1\0", "maximum packet size twice"),
    (b"\x06\x22\0\1\x22\0\1", "topic alias maximum twice"),  # 3.1.2.11.5
    (b"\x02\x19\2", "request response information 2"),      # 3.1.2.11.6
    (b"\x04\x19\0\x19\0", "request response information twice"),
    (b"\x02\x17\2", "request problem information 2"),       # 3.1.2.11.7
    (b"\x04\x17\0\x17\0", "request problem information twice"),
    (b"\x08\x15\0\1a\x15\0\1a", "authentication method twice"),
    (b"\x02\x01\0", "payload format in CONNECT"),
    (b"\x05\x18\0\0\0\1", "will delay in CONNECT"),
    (b"\x02\x0b\1", "subscription identifier in CONNECT"),
    (b"\x02\x2a\1", "shared subscription available in CONNECT"),
    (b"\x02\x7f\0", "unknown property"),
    (b"\x7f", "longer than the packet"),
]


@pytest.mark.parametrize("props,what", BAD_CONNECT,
                         ids=[what.replace(" ", "_")
                              for _, what in BAD_CONNECT])
def test_bad_connect_properties(node, props, what):
    node.raw().refused(wire.PROTOCOL_ERROR, wire.MALFORMED_PACKET,
                       client_id="bad", props=props)


def test_user_properties_in_every_packet(node, topic):      # 2.2.2.2
    user = {"user_property": [("a", "1"), ("a", "2")]}
    c = node.client("props", props=user)
    c.subscribe(topic, qos=2, props=user)
    c.publish(topic, b"x", qos=2, props=user)
    p = c.read_publish()
    assert p.props == user
    c.pubrec(p.pid, 0, user)
    c.expect(wire.PUBREL, p.pid)
    c.pubcomp(p.pid, 0, user)
    c.publish(topic, b"y", qos=1)
    c.puback(c.read_publish().pid, 0, user)
    c.unsubscribe(topic, props=user)
    c.expect_nothing()
    c.disconnect(0, user)
    c.expect_closed()


@pytest.mark.parametrize("kind", [wire.PUBACK, wire.PUBREC, wire.PUBREL,
                                  wire.PUBCOMP])
@pytest.mark.parametrize("props", [b"\x02\x01\x00", b"\x08\x1f\0\1a\x1f\0\1b",
                                   b"\x7f", b"\x02\x7f\x00"])
def test_bad_ack_properties(node, topic, kind, props):      # 3.4.2.2 ..
    c = node.client()
    c.send_raw_ack(kind, 1, 0, props)
    c.expect_disconnect(wire.PROTOCOL_ERROR, wire.MALFORMED_PACKET)


def test_problem_information_off(node, topic):              # MQTT-3.1.2-29
    c = node.client(props={"request_problem_information": 0})
    c.subscribe(topic)
    c.pubrel(99)
    p = c.expect(wire.PUBCOMP)
    assert p.reason == wire.PACKET_ID_NOT_FOUND and p.props == {}
    c.unsubscribe("not/there")
    c.publish(topic, b"x", qos=1, props={"user_property": [("a", "b")]})
    # PUBLISH keeps its user properties all the same.
    assert c.read_publish().props == {"user_property": [("a", "b")]}


# --- Message expiry ---------------------------------------------------------

def test_expiry_is_decremented(node, topic):                # MQTT-3.3.2-6
    sub = node.client(props={"receive_maximum": 1})
    sub.subscribe(topic, qos=1)
    pub = node.client()
    pub.publish(topic, b"first", qos=1)
    pub.publish(topic, b"lasts", qos=1,
                props={"message_expiry_interval": 100})
    began = time.monotonic()
    pub.publish(topic, b"expires", qos=1,
                props={"message_expiry_interval": 1})
    pub.publish(topic, b"for ever", qos=1)
    first = sub.read_publish()
    # The message itself must grow old; nothing tells when it has.
    time.sleep(2.1)
    sub.puback(first.pid)
    p = sub.read_publish()
    waited = time.monotonic() - began
    assert p.payload == b"lasts"
    assert 100 - waited - 1.1 <= p.props["message_expiry_interval"] <= 98
    sub.puback(p.pid)
    p = sub.read_publish()
    assert p.payload == b"for ever"                         # MQTT-3.3.2-5
    assert "message_expiry_interval" not in p.props
    sub.puback(p.pid)
    sub.expect_nothing()


def test_expiry_of_a_delivered_message_is_as_sent(node, topic):
    sub = node.client()
    sub.subscribe(topic)
    for n in (10, 0xffffffff, 0xfffffffe, 86400):
        node.client().publish(topic, b"x",
                              props={"message_expiry_interval": n})
        assert n - 1 <= sub.read_publish().props[
            "message_expiry_interval"] <= n


def test_expiry_0(node, topic):                             # 3.3.2.3.3
    """Gone at once or just in time; the next one arrives."""
    sub = node.client()
    sub.subscribe(topic)
    pub = node.client()
    pub.publish(topic, b"0", props={"message_expiry_interval": 0})
    pub.publish(topic, b"next")
    p = sub.read_publish()
    if p.payload == b"0":
        assert p.props.get("message_expiry_interval", 0) == 0
        p = sub.read_publish()
    assert p.payload == b"next"


# --- Topic aliases ----------------------------------------------------------

def test_topic_alias_from_the_client(node, topic):          # 3.3.2.3.4
    sub = node.client()
    sub.subscribe(topic + "/#", qos=2)
    pub = node.client()
    most = pub.connack.props["topic_alias_maximum"]
    assert most >= 1
    for alias in sorted({1, most}):
        for qos in (0, 1, 2):
            name = "%s/%d/%d" % (topic, alias, qos)
            pub.publish(name, b"set", qos=qos, props={"topic_alias": alias})
            pub.publish("", b"used", qos=qos, props={"topic_alias": alias})
            for body in (b"set", b"used"):
                p = sub.read_publish()
                assert (p.topic, p.payload) == (name, body)
                assert "topic_alias" not in p.props         # MQTT-3.3.2-7
                sub.complete(p)
    sub.expect_nothing()


def test_topic_alias_is_per_connection(node, topic):        # MQTT-3.3.2-7
    a, b = node.client(), node.client()
    a.publish(topic, b"x", props={"topic_alias": 1})
    b.send_publish("", b"x", props={"topic_alias": 1})
    b.expect_disconnect(wire.PROTOCOL_ERROR, wire.TOPIC_ALIAS_INVALID)
    a.publish("", b"x", props={"topic_alias": 1})
    a.expect_nothing()


def test_all_topic_aliases(node, topic):
    pub, sub = node.client(), node.client()
    sub.subscribe(topic + "/+")
    most = min(pub.connack.props["topic_alias_maximum"], 2000)
    for i in range(1, most + 1):
        pub.send_publish("%s/%d" % (topic, i), b"", props={"topic_alias": i})
    for i in range(most, 0, -1):
        pub.send_publish("", b"x", props={"topic_alias": i})
    want = list(range(1, most + 1)) + list(range(most, 0, -1))
    assert [p.topic for p in sub.read_publishes(2 * most)] == [
        "%s/%d" % (topic, i) for i in want]


def test_topic_aliases_are_bounded_in_bytes(node, topic, own):
    """Sixty-five thousand aliases of the longest topics would be 4 GB."""
    if not own:
        pytest.skip("limits differ")
    c = node.client()
    name = topic + "/" + "x" * 60000
    for i in range(1, 2 * (4 << 20) // 60000):
        if not c.try_send(wire.publish_packet(
                V5, name, b"", props={"topic_alias": i})):
            break
    c.expect_disconnect(wire.QUOTA_EXCEEDED)
    # Giving the same alias again and again takes no more than once.
    c = node.client()
    for i in range(200):
        c.send_publish(name, b"", props={"topic_alias": 1})
    c.expect_nothing()


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_topic_alias_out_of_range(node, topic, qos):        # MQTT-3.3.2-8, -9
    most = node.client().connack.props["topic_alias_maximum"]
    for alias in [0] + [most + 1] * (most < 65535) + [65535] * (most < 65535):
        c = node.client()
        c.send_publish(topic, b"x", qos, props={"topic_alias": alias})
        c.expect_disconnect(wire.TOPIC_ALIAS_INVALID)


def test_unknown_topic_alias(node):                         # 3.3.2.3.4
    c = node.client()
    c.send_publish("", b"x", props={"topic_alias": 1})
    c.expect_disconnect(wire.PROTOCOL_ERROR, wire.TOPIC_ALIAS_INVALID)


def test_topic_alias_of_a_bad_topic(node):
    c = node.client()
    c.send_publish("a/#", b"x", props={"topic_alias": 1})
    c.expect_disconnect(wire.TOPIC_NAME_INVALID, wire.MALFORMED_PACKET,
                        wire.PROTOCOL_ERROR)


def test_topic_alias_to_the_client(node, topic, own):       # MQTT-3.1.2-26
    """wire checks that aliases stay below the maximum and are set before
    they are used."""
    sub = node.client(alias_maximum=3)
    sub.subscribe(topic + "/#", qos=2)
    pub = node.client()
    empty = 0
    for i in range(40):
        name = "%s/%d" % (topic, i % 5)
        pub.publish(name, b"%d" % i, qos=i % 3)
        p = sub.read_publish()
        assert (p.name, p.payload) == (name, b"%d" % i)
        empty += p.topic == ""
        sub.complete(p)
    if own:
        assert empty > 0, "aliases are never used"


def test_topic_alias_of_what_was_too_large(node, topic):    # MQTT-3.1.2-26
    """An alias counts as set only if the packet that sets it was sent."""
    sub = node.client(alias_maximum=3, props={"maximum_packet_size": 300})
    sub.subscribe(topic + "/#", qos=1)
    pub = node.client()
    for i in range(10):
        name = "%s/%d" % (topic, i % 4)
        pub.publish(name, b"x" * 1000, qos=i % 2)
        pub.publish(name, b"%d" % i, qos=i % 2)
        p = sub.read_publish()
        assert (p.name, p.payload) == (name, b"%d" % i)
        sub.complete(p)
    sub.expect_nothing()


def test_topic_alias_of_what_was_dropped(node, topic):      # MQTT-3.1.2-26
    """A reader that is too slow loses messages, never the meaning of one."""
    sub = node.client(alias_maximum=20, rcvbuf=4096)
    sub.subscribe(topic + "/#")
    pub = node.client()
    for i in range(400):
        name = "%s/%d" % (topic, i % 30)
        pub.publish(name, name.encode() + b"|" + b"z" * 20000)
    try:
        got = sub.fence()
        pub.publish(topic + "/end", b"end")
        while not got or got[-1].payload != b"end":
            got.append(sub.read_publish())
    except wire.Closed:
        return                      # so slow that it was cut off
    for p in got[:-1]:
        assert p.name.encode() == p.payload.split(b"|")[0]
    for i in range(60):             # and afterwards all is well
        name = "%s/%d" % (topic, i % 30)
        pub.publish(name, b"%d" % i)
        p = sub.read_publish()
        assert (p.name, p.payload) == (name, b"%d" % i)


def test_no_topic_alias_to_a_client_without(node, topic):   # MQTT-3.1.2-27
    for props in ({}, {"topic_alias_maximum": 0}):
        sub = node.client(props=props)
        sub.subscribe(topic)
        pub = node.client()
        for i in range(5):
            pub.publish(topic, b"x")
            p = sub.read_publish()
            assert p.topic == topic and "topic_alias" not in p.props


# --- Request and response ---------------------------------------------------

def test_request_and_response(node, topic):                 # 4.10
    server, asker = node.client(), node.client()
    server.subscribe(topic + "/ask", qos=1)
    asker.subscribe(topic + "/answer", qos=1)
    asker.publish(topic + "/ask", b"2+2", qos=1, props={
        "response_topic": topic + "/answer", "correlation_data": b"\x00id"})
    q = server.read_publish()
    server.puback(q.pid)
    server.publish(q.props["response_topic"], b"4", qos=1, props={
        "correlation_data": q.props["correlation_data"]})
    p = asker.read_publish()
    assert p.payload == b"4" and p.props["correlation_data"] == b"\x00id"


# --- A message that waits in a stopped process still ages -------------------

def test_expiry_counts_time_between_listeners(make_node, topic):
    node = make_node(listeners=2)
    sub = node.client(on=1)
    sub.subscribe(topic, qos=1)
    pub = node.client(on=0)
    pub.publish(topic, b"warm", qos=1)
    sub.complete(sub.read_publish())
    pid = node.kill("listener.1", signal.SIGSTOP)
    sent = time.monotonic()
    pub.send_publish(topic, b"aged", 1,
                     props={"message_expiry_interval": 100})
    pub.send_publish(topic, b"expires", 1,
                     props={"message_expiry_interval": 1})
    pub.send_publish(topic, b"for ever", 1)
    pub.expect_nothing()        # no PUBACK while nobody took it
    time.sleep(1.2)
    os.kill(pid, signal.SIGCONT)
    p, last = sub.read_publishes(2)
    waited = time.monotonic() - sent
    assert p.payload == b"aged"
    left = p.props["message_expiry_interval"]
    assert 100 - waited - 1.1 <= left <= 99                 # MQTT-3.3.2-6
    assert last.payload == b"for ever"                      # MQTT-3.3.2-5
    for _ in range(3):
        pub.expect(wire.PUBACK)


def test_key_max_topic_alias(make_node, topic):             # 3.2.2.3.8
    n = make_node(listeners=1, options={"mqtt.max_topic_alias": "0"})
    sub = n.client(alias_maximum=10)
    assert "topic_alias_maximum" not in sub.connack.props
    sub.subscribe(topic)
    pub = n.client()
    for _ in range(2):
        pub.publish(topic, b"x", qos=1)
        assert "topic_alias" not in sub.read_publish().props
    pub.send_publish(topic, b"x", props={"topic_alias": 1})
    pub.expect_disconnect(wire.TOPIC_ALIAS_INVALID)
