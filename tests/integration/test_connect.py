"""CONNECT, CONNACK, DISCONNECT, PINGREQ, keep-alive and client identifiers.
MQTT 5.0 sections 3.1, 3.2, 3.12, 3.14 and 4.13; 3.1.1 likewise."""

import signal
import time

import pytest

from support import wire
from support.wire import V31, V311, V5

every_version = pytest.mark.parametrize("version", [V31, V311, V5])


@every_version
def test_connect_is_answered(node, version):                # MQTT-3.1.4-5
    c = node.client("answered", version)
    assert c.connack.reason == wire.SUCCESS
    assert not c.connack.session_present                    # MQTT-3.2.2-2
    c.expect_nothing()                                      # MQTT-3.2.0-2


@every_version
def test_ping_is_answered(node, version):                   # MQTT-3.12.4-1
    c = node.client(version=version)
    for _ in range(3):
        c.send_bytes(b"\xc0\x00")
        c.expect(wire.PINGRESP)


@every_version
def test_disconnect_ends_the_connection(node, version):     # MQTT-3.14.4-3
    c = node.client(version=version)
    c.disconnect()
    c.expect_closed()


def test_disconnect_with_reason_and_properties(node):       # MQTT-3.14.2-1
    c = node.client()
    c.disconnect(0x04, {"reason_string": "bye", "user_property": [
        ("a", "b"), ("a", "c")]})
    c.expect_closed()


# Sessions that outlive their connection have test_sessions.py.

@every_version
def test_session_is_present_if_it_was_kept(node, version):  # MQTT-3.2.2-2
    """Clean session 0 and 1, clean start with and without an expiry."""
    present = []
    for clean in (True, False, False, True, False):
        c = node.client("again%d" % version, version, clean=clean)
        present.append(c.connack.session_present)
        c.disconnect()
        c.expect_closed()
    # Without an expiry interval 5.0 keeps nothing [MQTT-3.1.2-23]; 3.1 has
    # no way to tell.
    assert present == [False, False, version == V311, False, False]


def test_session_expiry_is_granted(node):                   # 3.2.2.3.2
    """What differs from the client's wish is told, and nothing else."""
    for wish in (1, 120, 7200):
        c = node.client("wish", props={"session_expiry_interval": wish})
        assert c.connack.props.get("session_expiry_interval", wish) == wish
        c.disconnect(0, {"session_expiry_interval": 0})
        c.expect_closed()
    c = node.client(props={"session_expiry_interval": 0})
    assert c.connack.props.get("session_expiry_interval", 0) == 0
    c = node.client()
    assert c.connack.props.get("session_expiry_interval", 0) == 0


def test_session_expiry_is_cut_in_the_answer(make_node):    # 3.2.2.3.2
    node = make_node(listeners=1, options={"mqtt.session_expiry_max": "100"})
    for wish in (101, 0xffffffff):
        c = node.client("cut", props={"session_expiry_interval": wish})
        assert c.connack.props["session_expiry_interval"] == 100
    c = node.client("kept", props={"session_expiry_interval": 100})
    assert "session_expiry_interval" not in c.connack.props


def test_no_sessions_are_kept(make_node, topic):            # MQTT-3.1.2-23
    """mqtt.session_expiry_max = 0: who asks is told that there is none."""
    node = make_node(listeners=1, options={"mqtt.session_expiry_max": "0"})
    pub = node.client()
    for version in (V31, V311, V5):
        props = {"session_expiry_interval": 1000} if version == V5 else None
        for _ in range(2):
            c = node.client("d%d" % version, version, clean=False,
                            props=props)
            assert not c.connack.session_present
            if version == V5:
                assert c.connack.props["session_expiry_interval"] == 0
            pub.publish(topic, b"to nobody", qos=1)
            c.expect_nothing()
            c.subscribe(topic, qos=1)
            c.disconnect()
            c.expect_closed()
    assert "session_expiry_interval" not in node.client(
        props={"session_expiry_interval": 0}).connack.props


def test_connack_tells_what_is_missing(node, own):          # 3.2.2.3
    if not own:
        pytest.skip("another broker has other abilities")
    props = node.client().connack.props
    assert props.get("retain_available", 1) == 1
    assert props.get("shared_subscription_available", 1) == 1
    assert props.get("wildcard_subscription_available", 1) == 1
    assert props.get("subscription_identifier_available", 1) == 1
    assert "maximum_qos" not in props                       # 3.2.2.3.4
    assert props["receive_maximum"] == 100
    assert props["maximum_packet_size"] == 1 << 20
    assert props["topic_alias_maximum"] > 0


@pytest.mark.parametrize("version", [V31, V311])
def test_3x_connack_is_four_bytes(node, version):           # 3.1.1 3.2
    c = node.client(version=version)
    assert c.connack.size == 4


# --- Client identifiers -----------------------------------------------------

def test_client_id_is_assigned(node):                       # MQTT-3.1.3-6, -7
    ids = set()
    for _ in range(3):
        c = node.client("")
        ids.add(c.connack.props["assigned_client_identifier"])
    assert len(ids) == 3 and "" not in ids                  # MQTT-3.2.2-16


def test_client_id_is_not_assigned_when_given(node):        # 3.2.2.3.7
    c = node.client("given")
    assert "assigned_client_identifier" not in c.connack.props


def test_assigned_client_id_may_be_used_again(node):        # MQTT-3.2.2-16
    c = node.client("")
    name = c.connack.props["assigned_client_identifier"]
    d = node.client(name)
    c.expect_disconnect(wire.SESSION_TAKEN_OVER)
    d.expect_nothing()


def test_311_empty_client_id(node):                         # 3.1.1 3.1.3-6..-9
    node.client("", V311).expect_nothing()
    c = node.raw(V311)
    c.refused(client_id="", clean=False, v3=(2,))           # MQTT-3.1.3-8
    for _ in range(2):      # two of them are two clients
        node.client("", V311).expect_nothing()


def test_31_empty_client_id_is_refused(node):               # 3.1 section 3.1
    c = node.raw(V31)
    c.send_bytes(wire.connect_packet(V31, ""))
    try:
        p = c.read_packet()
    except wire.Closed:
        return
    assert p.kind == wire.CONNACK and p.reason in (0, 2)


@every_version
def test_client_ids_of_the_guaranteed_kind(node, version):  # MQTT-3.1.3-5
    node.client("0123456789abcdefghijklm", version).expect_nothing()
    node.client("nopqrstuvwxyzABCDEFGHIJ", version).expect_nothing()
    node.client("KLMNOPQRSTUVWXYZ", version).expect_nothing()


@pytest.mark.parametrize("version", [V311, V5])
def test_client_ids_of_other_kinds(node, version):          # may be allowed
    for name in ("a/b+c#d", "\u00e9\u4e2d\U0001f600", "x" * 1000,
                 "with space", "$SYS"):
        c = node.raw(version)
        c.send_bytes(wire.connect_packet(version, name))
        p = c.read_packet()
        assert p.kind == wire.CONNACK
        assert p.reason in ((0, wire.CLIENT_ID_NOT_VALID) if version == V5
                            else (0, 2))


@every_version
def test_longest_client_id(node, version):
    """65535 bytes are taken or refused politely; the next client is fine."""
    c = node.raw(version)
    c.send_bytes(wire.connect_packet(version, "x" * 65535))
    p = c.read_packet()
    assert p.kind == wire.CONNACK
    assert p.reason in ((0, wire.CLIENT_ID_NOT_VALID, wire.PACKET_TOO_LARGE)
                        if version == V5 else (0, 2))
    node.client(version=version, client_id="short").expect_nothing()


@every_version
def test_client_id_is_taken_over(node, version):            # MQTT-3.1.4-3
    old = node.client("taken", version)
    new = node.client("taken", version)
    old.expect_disconnect(wire.SESSION_TAKEN_OVER)
    new.expect_nothing()


def test_client_id_is_taken_over_between_versions(node):
    old = node.client("mixed", V311)
    new = node.client("mixed", V5)
    old.expect_closed()
    newest = node.client("mixed", V31)
    new.expect_disconnect(wire.SESSION_TAKEN_OVER)
    newest.expect_nothing()


def test_taken_over_subscriptions_end(node, topic):         # MQTT-3.1.4-3, -4
    old = node.client("owner")
    old.subscribe(topic, qos=1)
    new = node.client("owner")
    old.expect_disconnect(wire.SESSION_TAKEN_OVER)
    node.client().publish(topic, b"x", qos=1)
    new.expect_nothing()


def test_client_ids_are_compared_exactly(node):
    a = node.client("case")
    b = node.client("CASE")
    c = node.client("case ")
    for x in (a, b, c):
        x.expect_nothing()


def test_connect_storm_of_one_client_id(node):
    """Fifty CONNECTs of one id, all under way at once: one remains."""
    cs = [node.raw() for _ in range(50)]
    for c in cs:
        c.send_bytes(wire.connect_packet(client_id="storm"))
    assert len(survivors(cs)) == 1


def survivors(cs):
    """Of connections that sent CONNECT with one id: those still served."""
    for c in cs:
        p = c.expect(wire.CONNACK)
        assert p.reason in (0, 0x88, wire.SESSION_TAKEN_OVER)
    return still_served(cs)


def still_served(cs):
    alive = []
    for c in cs:
        try:
            got = c.fence()
            assert got == []
            alive.append(c)
        except wire.Closed:
            for p in c.inbox:
                assert p.reason == wire.SESSION_TAKEN_OVER
    return alive


# --- User name and password -------------------------------------------------

@every_version
def test_user_name_and_password_are_accepted(node, version):
    node.client("u1", version, username="user", password=b"pass")
    node.client("u2", version, username="user")
    node.client("u3", version, username="", password=b"")
    node.client("u4", version, username="\u00fc", password=bytes(range(256)))


def test_password_without_user_name(node):                  # 3.1.2.9
    node.client(password=b"pass").expect_nothing()
    for version in (V31, V311):                             # MQTT-3.1.2-22
        c = node.raw(version)
        c.refused(client_id="nouser", password=b"pass", v3=(4, 5))


# --- Refusals ---------------------------------------------------------------

@every_version
def test_first_packet_must_be_connect(node, version):       # MQTT-3.1.0-1
    for first in (b"\xc0\x00",
                  wire.publish_packet(version, "a", b"b"),
                  wire.subscribe_packet(version, 1, [("a", 0)]),
                  wire.disconnect_packet(version),
                  b"\x20\x02\x00\x00",
                  b"\xf0\x00"):
        c = node.raw(version)
        c.send_bytes(first)
        c.expect_refused(wire.PROTOCOL_ERROR, wire.MALFORMED_PACKET)


@every_version
def test_nothing_is_done_before_connect(node, topic, version):  # 3.1.0-1
    sub = node.client()
    sub.subscribe(topic)
    c = node.raw(version)
    c.send_bytes(wire.publish_packet(version, topic, b"early")
                 + wire.connect_packet(version, "late"))
    c.expect_refused(wire.PROTOCOL_ERROR, wire.MALFORMED_PACKET)
    sub.expect_nothing()


@every_version
def test_second_connect_is_a_protocol_error(node, version):  # MQTT-3.1.0-2
    c = node.client("twice", version)
    c.send_bytes(wire.connect_packet(version, "twice"))
    c.expect_disconnect(wire.PROTOCOL_ERROR)


def test_second_connect_with_another_id(node):              # MQTT-3.1.0-2
    other = node.client("other-id")
    c = node.client("this-id")
    c.send_bytes(wire.connect_packet(client_id="other-id"))
    c.expect_disconnect(wire.PROTOCOL_ERROR)
    other.expect_nothing()


@pytest.mark.parametrize("level", [0, 1, 2, 6, 7, 127, 128, 131, 132, 255])
def test_unknown_protocol_level(node, level):               # MQTT-3.1.2-2
    c = node.raw(V5 if level >= 5 else V311)
    c.send_bytes(wire.connect_packet(c.version, "level", level=level))
    try:
        p = c.read_packet()
    except wire.Closed:
        return
    except wire.Bad:        # answered in the form of the other version
        return
    assert p.kind == wire.CONNACK
    assert p.reason in (1, wire.UNSUPPORTED_PROTOCOL_VERSION)
    c.expect_closed()


@pytest.mark.parametrize("name", ["", "mqtt", "MQTTT", "MQT", "MQISDP",
                                  "HTTP", "MQTT\0"])
def test_unknown_protocol_name(node, name):                 # MQTT-3.1.2-1
    for version in (V311, V5):
        c = node.raw(version)
        c.send_bytes(wire.connect_packet(version, "name", name=name))
        c.expect_refused(wire.UNSUPPORTED_PROTOCOL_VERSION,
                         wire.MALFORMED_PACKET, wire.PROTOCOL_ERROR, v3=(1,))


@pytest.mark.parametrize("version", [V311, V5])     # 3.1 ignores the bit
def test_reserved_connect_flag(node, version):              # MQTT-3.1.2-3
    c = node.raw(version)
    c.send_bytes(wire.connect_packet(version, "flag", flags=0x03))
    c.expect_refused(wire.MALFORMED_PACKET, wire.PROTOCOL_ERROR)


@pytest.mark.parametrize("flags", range(1, 16))
def test_connect_header_flags(node, flags):                 # MQTT-2.1.3-1
    c = node.raw()
    c.send_bytes(wire.connect_packet(client_id="hdr", header_flags=flags))
    c.expect_refused(wire.MALFORMED_PACKET, wire.PROTOCOL_ERROR)


@pytest.mark.parametrize("version", [V311, V5])
@pytest.mark.parametrize("flags,what", [
    (0x0a, "will qos without will"),                        # MQTT-3.1.2-11
    (0x12, "will qos without will"),
    (0x22, "will retain without will"),                     # MQTT-3.1.2-13
])
def test_will_bits_without_will(node, version, flags, what):
    c = node.raw(version)
    c.send_bytes(wire.connect_packet(version, "bits", flags=flags))
    c.expect_refused(wire.MALFORMED_PACKET, wire.PROTOCOL_ERROR)


@every_version
def test_will_qos_3(node, version):                         # MQTT-3.1.2-12
    c = node.raw(version)
    c.send_bytes(wire.connect_packet(
        version, "qos3", will={"topic": "w"}, flags=0x02 | 0x04 | 0x18))
    c.expect_refused(wire.MALFORMED_PACKET, wire.PROTOCOL_ERROR)


@pytest.mark.parametrize("version", [V311, V5])     # 3.1 lets them be missing
@pytest.mark.parametrize("flags", [0x82, 0xc2, 0x06])
def test_payload_fields_missing(node, version, flags):      # MQTT-3.1.2-17 ..
    c = node.raw(version)
    c.send_bytes(wire.connect_packet(version, "missing", flags=flags))
    c.expect_refused(wire.MALFORMED_PACKET, wire.PROTOCOL_ERROR)


@every_version
def test_payload_fields_too_many(node, version):            # MQTT-3.1.2-16
    c = node.raw(version)
    c.send_bytes(wire.connect_packet(version, "surplus", username="u",
                                     flags=0x02))
    c.expect_refused(wire.MALFORMED_PACKET, wire.PROTOCOL_ERROR)


def test_authentication_method_is_refused(node):            # 4.12
    c = node.raw()
    c.refused(wire.BAD_AUTHENTICATION_METHOD, client_id="auth",
              props={"authentication_method": "SCRAM-SHA-1",
                     "authentication_data": b"x"})


def test_authentication_data_without_method(node):          # 3.1.2.11.10
    c = node.raw()
    c.refused(wire.PROTOCOL_ERROR, wire.MALFORMED_PACKET,
              client_id="auth", props={"authentication_data": b"x"})


def test_auth_packet_without_method(node):                  # 4.12
    c = node.client()
    c.send_bytes(b"\xf0\x00")
    c.expect_disconnect(wire.PROTOCOL_ERROR, wire.MALFORMED_PACKET)
    c = node.client()
    c.send_bytes(wire.packet(wire.AUTH, 0, b"\x18\x00"))
    c.expect_disconnect(wire.PROTOCOL_ERROR, wire.MALFORMED_PACKET)


def test_auth_packet_in_3x(node):                           # 3.1.1: reserved
    c = node.client(version=V311)
    c.send_bytes(b"\xf0\x00")
    c.expect_closed()


@pytest.mark.parametrize("version", [V311, V5])
def test_refused_connect_runs_nothing_after_it(node, topic, version):
    sub = node.client()                                     # MQTT-3.1.4-6
    sub.subscribe(topic)
    c = node.raw(version)
    c.send_bytes(wire.connect_packet(version, "bad", flags=0x0a)
                 + wire.publish_packet(version, topic, b"x"))
    c.expect_refused(wire.MALFORMED_PACKET, wire.PROTOCOL_ERROR)
    sub.expect_nothing()


@every_version
def test_packets_may_follow_connect_at_once(node, topic, version):
    # 3.1.4: clients need not wait for CONNACK.
    sub = node.client()
    sub.subscribe(topic, qos=1)
    c = node.raw(version)
    c.send_bytes(wire.connect_packet(version, "eager")
                 + wire.subscribe_packet(version, 7, [(topic, 1)])
                 + wire.publish_packet(version, topic, b"x", 1, 9)
                 + b"\xc0\x00")
    assert c.expect(wire.CONNACK).reason == 0               # MQTT-3.2.0-1
    kinds = [c.read_packet().kind for _ in range(4)]
    assert sorted(kinds) == sorted([wire.SUBACK, wire.PUBLISH, wire.PUBACK,
                                    wire.PINGRESP])
    assert sub.read_publish().payload == b"x"


# --- DISCONNECT and properties of it ----------------------------------------

def test_disconnect_may_not_raise_session_expiry(node):     # 3.14.2.2.2
    c = node.client()
    c.disconnect(0, {"session_expiry_interval": 10})
    c.expect_disconnect(wire.PROTOCOL_ERROR)


@pytest.mark.parametrize("flags", range(1, 16))
def test_disconnect_flags(node, flags):                     # MQTT-3.14.1-1
    for version in (V311, V5):
        c = node.client(version=version)
        c.send_bytes(wire.packet(wire.DISCONNECT, flags, b""))
        c.expect_disconnect(wire.MALFORMED_PACKET)


def test_nothing_is_read_after_disconnect(node, topic):     # MQTT-3.14.4-1
    sub = node.client()
    sub.subscribe(topic)
    c = node.client()
    c.send_bytes(wire.disconnect_packet(V5)
                 + wire.publish_packet(V5, topic, b"late"))
    c.expect_closed()
    sub.expect_nothing()


# --- Keep-alive -------------------------------------------------------------

@every_version
def test_keep_alive(node, version):                         # MQTT-3.1.2-22
    began = time.monotonic()
    silent = node.client("silent", version, keepalive=1)
    chatty = node.client("chatty", version, keepalive=1)
    talks = node.client("talks", version, keepalive=1)
    none = node.client("none", version, keepalive=0)        # 3.1.2.10
    while not silent.eof and time.monotonic() - began < 15:
        chatty.fence()
        talks.publish("keep/alive", b"x", qos=1)    # any packet will do
        try:
            p = silent.read_packet(0.3)
            assert p.reason == wire.KEEP_ALIVE_TIMEOUT and version == V5
        except wire.Late:
            pass
        except wire.Closed:
            break
    took = time.monotonic() - began
    assert took >= 1.45, "closed after %.2f s" % took
    assert took < 10
    chatty.expect_nothing()
    talks.expect_nothing()
    none.expect_nothing()


def test_keep_alive_counts_packets_from_the_client_only(node, topic):
    """What the broker sends to a silent client keeps nobody alive."""
    sub = node.client("mute", keepalive=1)
    sub.subscribe(topic)
    began = time.monotonic()
    pub = node.client()
    while time.monotonic() - began < 15:
        pub.publish(topic, b"x")
        try:
            p = sub.read_packet(0.3)
            if p.kind == wire.DISCONNECT:
                assert p.reason == wire.KEEP_ALIVE_TIMEOUT
                break
        except wire.Late:
            pass
        except wire.Closed:
            break
    else:
        raise AssertionError("a silent client was kept")


def test_half_a_packet_keeps_nobody_alive(node):            # MQTT-3.1.2-22
    c = node.client("half", keepalive=1)
    began = time.monotonic()
    c.send_bytes(b"\x30\x7f\x00")
    try:
        c.expect_disconnect(wire.KEEP_ALIVE_TIMEOUT)
    except wire.Closed:
        pass
    assert 1.4 < time.monotonic() - began < 10


def test_dripping_bytes_keep_nobody_alive(node):            # MQTT-3.1.2-22
    """Control Packets count, not bytes."""
    c = node.client("drip", keepalive=1)
    began = time.monotonic()
    c.send_bytes(b"\x30\x7f\x00")
    while time.monotonic() - began < 15:
        try:
            c.send_bytes(b"\x01")
            p = c.read_packet(0.3)
            assert p.kind == wire.DISCONNECT
            assert p.reason == wire.KEEP_ALIVE_TIMEOUT
            break
        except wire.Late:
            pass
        except wire.Closed:
            break
    else:
        raise AssertionError("bytes kept a silent client alive")


def test_connect_while_the_node_stops(make_node, topic):    # MQTT-3.2.2-8
    """0x8B may stand in DISCONNECT only."""
    n = make_node(listeners=1)
    slow = n.client("slow", rcvbuf=4096)
    slow.subscribe(topic)
    pub = n.client("pub")
    for _ in range(12):
        pub.publish(topic, b"z" * 1000000, qos=1)
    late = n.raw()
    pub.fence()                         # late is accepted by now
    n.proc.send_signal(signal.SIGTERM)
    pub.expect_disconnect(wire.SERVER_SHUTTING_DOWN)
    assert late.refused(wire.SERVER_UNAVAILABLE, client_id="late")


# --- Keys -------------------------------------------------------------------

def test_server_keep_alive(make_node):                      # MQTT-3.2.2-21
    node = make_node(listeners=1, options={"mqtt.server_keepalive": "1"})
    c = node.client(keepalive=600)
    assert c.connack.props["server_keep_alive"] == 1
    began = time.monotonic()
    try:
        c.expect_disconnect(wire.KEEP_ALIVE_TIMEOUT)
    except wire.Closed:
        pass
    assert 1.4 < time.monotonic() - began < 10


def test_keepalive_max(make_node):                          # MQTT-3.2.2-21
    node = make_node(listeners=1, options={"mqtt.keepalive_max": "100"})
    assert node.client(keepalive=600).connack.props["server_keep_alive"] == 100
    assert node.client(keepalive=0).connack.props["server_keep_alive"] == 100
    assert "server_keep_alive" not in node.client(keepalive=50).connack.props


def test_response_information(make_node):                   # MQTT-3.1.2-28
    node = make_node(listeners=1, options={
        "mqtt.response_information": "answers/here"})
    c = node.client(props={"request_response_information": 1})
    assert c.connack.props["response_information"] == "answers/here"
    c = node.client(props={"request_response_information": 0})
    assert "response_information" not in c.connack.props
    c = node.client()
    assert "response_information" not in c.connack.props


def test_maximum_client_id_length(make_node):               # MQTT-3.1.3-8
    node = make_node(listeners=1, options={"mqtt.max_clientid_len": "23"})
    node.client("x" * 23).expect_nothing()
    node.raw().refused(wire.CLIENT_ID_NOT_VALID, client_id="x" * 24)
    node.raw(V311).refused(client_id="x" * 24, v3=(2,))


def test_maximum_connections(make_node):
    node = make_node(listeners=1, options={"listener.max_connections": "3"})
    kept = [node.client("c%d" % i) for i in range(3)]
    c = node.raw()
    try:
        c.refused(0x89, 0x97, 0x9f, client_id="one too many")
    except wire.Closed:
        pass
    for k in kept:
        k.expect_nothing()
    kept[0].disconnect()
    kept[0].expect_closed()
    node.client("again").expect_nothing()
