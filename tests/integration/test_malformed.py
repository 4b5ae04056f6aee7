"""Input that no client should send, and clients that mean no good. Each gets
the reason the specification names, and hurts nobody: a witness is connected to
the same listener before, and works after. MQTT 5.0 sections 1.5, 2.1, 4.13."""

import random
import select
import time

import pytest

from support import wire
from support.wire import V31, V311, V5

every_version = pytest.mark.parametrize("version", [V31, V311, V5])
both = pytest.mark.parametrize("version", [V311, V5])

BAD = (wire.MALFORMED_PACKET, wire.PROTOCOL_ERROR)


@pytest.fixture(autouse=True)
def witness(node):
    """Connected before, still served after; so is a newcomer."""
    old = node.client("witness")
    old.subscribe("witness/#", qos=2)
    yield old
    check_witness(node, old)


def check_witness(node, old):
    new = node.client()
    for qos in (0, 1, 2):
        new.publish("witness/new", b"%d" % qos, qos=qos)
        p = old.read_publish()
        assert p.payload == b"%d" % qos
        old.complete(p)
    old.publish("witness/old", b"self", qos=1)
    old.complete(old.read_publish())
    old.expect_nothing()
    new.disconnect()
    new.expect_closed()


# --- Packets that are wrong in themselves -----------------------------------

def bodies(version):
    """What a 5.0 or 3.x client must not send once connected."""
    none = b"\0" if version == V5 else b""
    t = wire.text
    return {
        "type 0": b"\x00\x00",
        "type 0, flags": b"\x0f\x00",
        "type 0, long": b"\x00\x05abcde",
        "CONNACK": b"\x20\x02\0\0" if version < V5 else b"\x20\x03\0\0\0",
        "SUBACK": wire.packet(wire.SUBACK, 0, b"\0\1" + none + b"\0"),
        "UNSUBACK": wire.packet(wire.UNSUBACK, 0, b"\0\1" + none + b"\0"),
        "PINGRESP": b"\xd0\x00",
        "PINGREQ with a body": b"\xc0\x01\0",
        "PINGREQ with flags": b"\xc1\x00",
        "PUBLISH, empty": b"\x30\x00",
        "PUBLISH, one byte": b"\x30\x01\0",
        "PUBLISH, topic too long": wire.packet(3, 0, b"\0\x05abc"),
        "PUBLISH, topic much too long": wire.packet(3, 0, b"\xff\xffabc"),
        "PUBLISH, no packet id": wire.packet(3, 2, t("abc")),
        "PUBLISH, half a packet id": wire.packet(3, 2, t("abc") + b"\0"),
        "PUBACK, empty": b"\x40\x00",
        "PUBACK, one byte": b"\x40\x01\0",
        "PUBREC, one byte": b"\x50\x01\0",
        "PUBREL, one byte": b"\x62\x01\0",
        "PUBCOMP, one byte": b"\x70\x01\0",
        "PUBACK, id 0": b"\x40\x02\0\0",
        "PUBREC, id 0": b"\x50\x02\0\0",
        "PUBREL, id 0": b"\x62\x02\0\0",
        "PUBCOMP, id 0": b"\x70\x02\0\0",
        "SUBSCRIBE, empty": b"\x82\x00",
        "SUBSCRIBE, one byte": b"\x82\x01\0",
        "SUBSCRIBE, id only": wire.packet(8, 2, b"\0\1"),
        "SUBSCRIBE, no options": wire.packet(8, 2, b"\0\1" + none + t("a")),
        "SUBSCRIBE, filter too long": wire.packet(
            8, 2, b"\0\1" + none + b"\0\x09abc\0"),
        "SUBSCRIBE, second filter cut": wire.packet(
            8, 2, b"\0\1" + none + t("a") + b"\0" + b"\0\x05b"),
        "UNSUBSCRIBE, empty": b"\xa2\x00",
        "UNSUBSCRIBE, id only": wire.packet(10, 2, b"\0\1"),
        "UNSUBSCRIBE, filter too long": wire.packet(
            10, 2, b"\0\1" + none + b"\0\x09abc"),
        "remaining length of five bytes": b"\x30\xff\xff\xff\xff\x01",
        "remaining length without end": b"\xc0\x80\x80\x80\x80",
    }


@both
@pytest.mark.parametrize("what", sorted(bodies(V5)))
def test_malformed_packet(node, version, what):             # MQTT-4.13.1-1
    c = node.client(version=version)
    c.send_bytes(bodies(version)[what])
    if "id 0" in what:      # an unknown identifier, or a wrong one
        try:
            c.fence()
            return
        except wire.Closed:
            return
        except AssertionError:
            pass
    c.expect_disconnect(wire.PACKET_TOO_LARGE, *BAD)


V5_BODIES = {
    "PUBACK, reason cut by properties": b"\x40\x04\0\1\0\x05",
    "PUBACK, bytes after properties": b"\x40\x05\0\1\0\0\0",
    "PUBREL, bytes after properties": b"\x62\x05\0\1\0\0\0",
    "PUBLISH, no properties": wire.packet(3, 0, wire.text("abc")),
    "SUBSCRIBE, properties too long": wire.packet(
        8, 2, b"\0\1\x7f" + wire.text("a") + b"\0"),
    "UNSUBSCRIBE, bad property": wire.packet(
        10, 2, b"\0\1\x02\x0b\x01" + wire.text("a")),
    "DISCONNECT, properties too long": b"\xe0\x02\0\x7f",
    "DISCONNECT, bytes after properties": b"\xe0\x03\0\0\0",
    "DISCONNECT, expiry twice": wire.packet(
        14, 0, b"\0\x0a\x11\0\0\0\0\x11\0\0\0\0"),
    "AUTH with flags": b"\xf1\x00",
    "AUTH with an unknown reason": b"\xf0\x02\x42\0",
}


@pytest.mark.parametrize("what", sorted(V5_BODIES))
def test_malformed_5(node, what):                           # MQTT-4.13.1-1
    c = node.client()
    c.send_bytes(V5_BODIES[what])
    c.expect_disconnect(*BAD)


@pytest.mark.parametrize("version", [V311])
def test_disconnect_with_a_body_in_3(node, version):
    c = node.client(version=version)
    c.send_bytes(b"\xe0\x01\x00")
    c.expect_closed()


@every_version
def test_long_form_of_a_length(node, version):              # MQTT-1.5.5-1
    """Must not be sent; taken or refused, never misread."""
    c = node.client(version=version)
    c.send_bytes(b"\xc0\x80\x00" + b"\xc0\x80\x80\x00")
    for _ in range(2):
        try:
            p = c.read_packet()
        except wire.Closed:
            return
        if p.kind == wire.DISCONNECT:
            assert p.reason in BAD
            return
        assert p.kind == wire.PINGRESP


# --- Every cut of every packet ----------------------------------------------

def valid(version):
    props = ([("user_property", ("a", "b"))] if version == V5 else None)
    return {
        "connect": wire.connect_packet(
            version, "cut", will={"topic": "w/cut", "payload": b"x",
                                  "props": props},
            username="u", password=b"p", props=props),
        "publish": wire.publish_packet(version, "cut/t", b"", 2, 9,
                                       props=props),
        "subscribe": wire.subscribe_packet(version, 3, [("cut/s", 1)], props),
        "unsubscribe": wire.unsubscribe_packet(version, 3, ["cut/s"], props),
        "pubrel": wire.ack_packet(version, wire.PUBREL, 9, 0, props),
        "puback": wire.ack_packet(version, wire.PUBACK, 9, 0, props),
        "disconnect": wire.disconnect_packet(version, 4, props),
    }


@both
@pytest.mark.parametrize("what", sorted(valid(V5)))
def test_cut_short(node, version, what):
    """The body cut at every byte, the length saying so: refused, or valid."""
    b = valid(version)[what]
    for n in range(len(b) - 2):
        c = node.raw(version)
        if what != "connect":
            c.connect("cut%d" % n)
        c.send_bytes(wire.packet(b[0] >> 4, b[0] & 15, b[2:2 + n]))
        try:
            c.fence()
        except (wire.Closed, AssertionError):
            pass
        c.close()


@both
@pytest.mark.parametrize("what", sorted(valid(V5)))
def test_client_that_goes_in_the_middle(node, version, what):
    """The connection ends at every byte of a packet."""
    b = valid(version)[what]
    for n in range(1, len(b)):
        c = node.raw(version)
        if what != "connect":
            c.connect("mid%d" % n)
        c.send_bytes(b[:n])
        if n % 2:
            c.close()
        else:
            c.reset()


@both
def test_bytes_changed_at_random(node, version):
    """Seeded; a failure can be run again."""
    rng = random.Random(version)
    packets = sorted(valid(version).items())
    for round in range(300):
        what, b = rng.choice(packets)
        b = bytearray(b)
        for _ in range(rng.randrange(1, 4)):
            b[rng.randrange(len(b))] = rng.choice(
                [0, 1, 0x7f, 0x80, 0xff, rng.randrange(256)])
        c = node.raw(version)
        if what != "connect":
            c.connect("rnd%d" % round)
        if c.try_send(bytes(b) + b"\xc0\x00" * 4):
            try:
                c.read_packet(0.01)
            except AssertionError:
                pass
        c.close()


def test_garbage(node):
    rng = random.Random(5)
    for _ in range(200):
        c = node.raw()
        c.try_send(rng.randbytes(rng.randrange(1, 200)))
        c.close()


@pytest.mark.parametrize("first", [
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 512,
    b"\x00" * 64, b"\xff" * 64, b"\r\n\r\n"],
    ids=["http", "tls", "zeros", "ones", "crlf"])
def test_other_protocols(node, first):
    c = node.raw()
    c.send_bytes(first)
    c.expect_refused(*BAD)


# --- Too much ---------------------------------------------------------------

def test_largest_connect(node):
    """Every field of a CONNECT at its longest."""
    big = "x" * 65535
    c = node.raw()
    c.try_send(wire.connect_packet(
        client_id=big, username=big, password=big.encode(),
        will={"topic": "w/" + big[2:], "payload": big.encode(),
              "props": [("content_type", big)]},
        props=[("user_property", (big, big))] * 2))
    p = c.read_packet()
    assert p.kind == wire.CONNACK


def test_connect_larger_than_allowed(node, own):
    if not own:
        pytest.skip("limits differ")
    c = node.raw()
    c.try_send(wire.connect_packet(
        client_id="x", props=[("user_property", ("k", "v" * 65535))] * 20))
    c.expect_refused(wire.PACKET_TOO_LARGE, *BAD)


@every_version
def test_topics_of_many_levels(node, version, own):
    if not own:
        pytest.skip("limits differ")
    for t in ("a/" * 1000, "/" * 65535, "+/" * 2000, "a/" * 30000 + "#"):
        c = node.client(version=version)
        assert c.subscribe(t, expect=False)[0] in (0x80, 0x8f)
    for t in ("a/" * 1000, "/" * 65535):
        c = node.client(version=version)
        c.send_publish(t, b"x")
        c.expect_disconnect(wire.TOPIC_NAME_INVALID)


def test_many_filters_in_one_subscribe(node, topic, own):
    if not own:
        pytest.skip("limits differ")
    c = node.client()
    n = 20000
    reasons = c.subscribe(["%s/%d" % (topic, i) for i in range(n)],
                          expect=False)
    assert set(reasons) <= {0, wire.QUOTA_EXCEEDED} and len(reasons) == n
    c.close()


def test_subscribe_and_unsubscribe_storm(node, topic):
    c = node.client()
    b = b"".join(wire.subscribe_packet(V5, 1, [(topic, 1)])
                 + wire.unsubscribe_packet(V5, 2, [topic])
                 for _ in range(500))
    c.send_bytes(b)
    kinds = [c.read_packet().kind for _ in range(1000)]
    assert kinds.count(wire.SUBACK) == kinds.count(wire.UNSUBACK) == 500
    c.expect_nothing()


def test_thousand_pipelined_publishes_of_each_qos(node, topic):
    sub = node.client(version=V311, auto=True)
    sub.subscribe(topic, qos=2)
    c = node.client(version=V311)
    b = b"".join(wire.publish_packet(V311, topic, b"%d" % i, i % 3,
                                     i + 1 if i % 3 else None)
                 for i in range(999))
    c.send_bytes(b)
    acks = [p.kind for p in c.fence()]
    assert acks.count(wire.PUBACK) == 333 and acks.count(wire.PUBREC) == 333
    for i in range(2, 999, 3):
        c.pubrel(i + 1)
    assert [p.kind for p in c.fence()] == [wire.PUBCOMP] * 333
    got = []
    while len(got) < 999:
        p = sub.read_packet()
        if p.kind == wire.PUBLISH:
            got.append(int(p.payload))
    for qos in range(3):
        mine = [i for i in got if i % 3 == qos]
        assert mine == sorted(mine)


def test_thousand_connections(node):
    cs = [node.client("many%d" % i, version=(V31, V311, V5)[i % 3])
          for i in range(1000)]
    for c in cs:
        c.send_bytes(b"\xc0\x00")
    for c in cs:
        c.expect(wire.PINGRESP)
    for i, c in enumerate(cs):
        if i % 2:
            c.disconnect()
        c.close()


def test_partial_packets_held(node):
    """Two hundred clients that hold half a packet; closed at the end."""
    held = []
    for i in range(200):
        c = node.raw()
        if i % 2:
            c.connect("held%d" % i)
            c.send_bytes(wire.publish_packet(V5, "t", b"x" * 5000)[:-1 - i])
        else:
            c.send_bytes(wire.connect_packet(client_id="half")[:1 + i % 15])
        held.append(c)
    new = node.client()
    for qos in (0, 1, 2):
        new.publish("x/y", b"", qos=qos)
    # Those who finish what they began are served.
    held[1].send_bytes(b"x" * 2)
    held[1].expect_nothing()


def test_large_packet_dripping_in(node, topic):
    """Most of a megabyte of one packet, then others' traffic, then the rest."""
    sub = node.client()
    sub.subscribe(topic)
    b = wire.publish_packet(V5, topic, b"z" * 1000000)
    slow = node.client()
    slow.send_bytes(b[:-1])
    pub = node.client()
    pub.publish(topic, b"quick")
    assert sub.read_publish().payload == b"quick"
    slow.send_bytes(b[-1:])
    assert len(sub.read_publish().payload) == 1000000


def test_connect_timeout(make_node):
    """Who does not finish CONNECT in time is closed, whatever it has sent
    and however slowly; who did is not."""
    node = make_node(listeners=1, options={"listener.connect_timeout": "1s"})
    good = node.client("good")
    began = time.monotonic()
    b = wire.connect_packet(client_id="never")
    silent = node.raw()
    half = node.raw()
    half.send_bytes(b[:-1])
    drip = node.raw()
    waiting = {c.sock: c for c in (silent, half, drip)}
    i = 0
    while waiting and time.monotonic() - began < 15:
        if drip.sock in waiting and i < len(b) - 1:
            drip.try_send(b[i:i + 1])
            i += 1
        for s in select.select(list(waiting), [], [], 0.1)[0]:
            waiting.pop(s).expect_refused(wire.KEEP_ALIVE_TIMEOUT, 0x80, 0x8d,
                                          wire.UNSPECIFIED_ERROR)
    assert not waiting
    assert 0.9 < time.monotonic() - began < 10
    good.expect_nothing()
