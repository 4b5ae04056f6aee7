"""SUBSCRIBE, UNSUBSCRIBE, filters and their matching, options.
MQTT 5.0 sections 3.8 to 3.11, 4.7 and 4.8; 3.1.1 likewise."""

import pytest

from support import wire
from support.wire import V31, V311, V5

every_version = pytest.mark.parametrize("version", [V31, V311, V5])
both = pytest.mark.parametrize("version", [V311, V5])

BAD_FILTER = (wire.TOPIC_FILTER_INVALID, wire.MALFORMED_PACKET,
              wire.PROTOCOL_ERROR)


def refuses_filter(c, f, *reasons):
    """The filter is answered by a SUBACK that says so, or by the end of the
    connection with one of the reasons."""
    c.send_bytes(wire.subscribe_packet(c.version, 77, [(f, 1)]))
    try:
        p = c.read_packet()
    except wire.Closed:
        assert c.version < V5 or wire.LENIENT
        return
    if p.kind == wire.SUBACK:
        assert p.pid == 77
        assert p.reasons[0] in (reasons if c.version == V5 else (0x80,)), p
        c.expect_nothing()
    else:
        assert p.kind == wire.DISCONNECT and p.reason in reasons, p
        c.expect_closed()


@every_version
def test_suback(node, topic, version):                      # MQTT-3.8.4-1 ..
    c = node.client(version=version)
    for pid in (1, 256, 65535):
        assert c.subscribe(topic, qos=pid % 3, pid=pid) == [pid % 3]


@every_version
def test_suback_of_many_filters(node, topic, version):      # MQTT-3.8.4-5, -6
    c = node.client(version=version)
    filters = [("%s/%d" % (topic, i), i % 3) for i in range(50)]
    assert c.subscribe(filters) == [i % 3 for i in range(50)]
    pub = node.client()
    for i in range(50):
        pub.publish("%s/%d" % (topic, i), b"x", qos=2)
        p = c.read_publish()
        assert p.qos == i % 3 and p.topic == "%s/%d" % (topic, i)
        c.complete(p)


@every_version
def test_same_filter_twice_in_one_packet(node, topic, version):
    c = node.client(version=version)
    c.subscribe([(topic, 0), (topic, 2)])
    node.client().publish(topic, b"x", qos=2)
    p = c.read_publish()
    assert p.qos == 2                       # the later replaced the earlier
    c.complete(p)
    c.expect_nothing()


@every_version
def test_subscribing_again_replaces(node, topic, version):  # MQTT-3.8.4-3
    c = node.client(version=version)
    pub = node.client()
    for qos in (2, 0, 1):
        c.subscribe(topic, qos=qos)
        pub.publish(topic, b"x", qos=2)
        p = c.read_publish()
        assert p.qos == qos
        c.complete(p)
        c.expect_nothing()


@every_version
def test_subscribing_again_loses_nothing(node, topic, version):
    c = node.client(version=version, auto=True)             # MQTT-3.8.4-3
    c.subscribe(topic, qos=1)
    pub = node.client()
    for i in range(100):
        pub.send_publish(topic, b"%d" % i)
        c.send_bytes(wire.subscribe_packet(version, 1 + i, [(topic, i % 2)]))
    pub.fence()
    got = [int(p.payload) for p in c.fence() if p.kind == wire.PUBLISH]
    assert got == list(range(100))


# --- Refusals ---------------------------------------------------------------

@both
def test_subscribe_without_filters(node, version):          # MQTT-3.8.3-2
    c = node.client(version=version)
    c.send_bytes(wire.subscribe_packet(version, 1, []))
    c.expect_disconnect(wire.PROTOCOL_ERROR, wire.MALFORMED_PACKET)


@both
def test_unsubscribe_without_filters(node, version):        # MQTT-3.10.3-2
    c = node.client(version=version)
    c.send_bytes(wire.unsubscribe_packet(version, 1, []))
    c.expect_disconnect(wire.PROTOCOL_ERROR, wire.MALFORMED_PACKET)


@both
@pytest.mark.parametrize("flags", [f for f in range(16) if f != 2])
def test_subscribe_flags(node, version, flags):             # MQTT-3.8.1-1
    c = node.client(version=version)
    c.send_bytes(wire.subscribe_packet(version, 1, [("a", 0)], flags=flags))
    c.expect_disconnect(wire.MALFORMED_PACKET, wire.PROTOCOL_ERROR)


@both
@pytest.mark.parametrize("flags", [f for f in range(16) if f != 2])
def test_unsubscribe_flags(node, version, flags):           # MQTT-3.10.1-1
    c = node.client(version=version)
    c.send_bytes(wire.unsubscribe_packet(version, 1, ["a"], flags=flags))
    c.expect_disconnect(wire.MALFORMED_PACKET, wire.PROTOCOL_ERROR)


@every_version
def test_packet_id_0(node, version):                        # MQTT-2.2.1-3
    for b in (wire.subscribe_packet(version, 0, [("a", 0)]),
              wire.unsubscribe_packet(version, 0, ["a"])):
        c = node.client(version=version)
        c.send_bytes(b)
        c.expect_disconnect(wire.PROTOCOL_ERROR, wire.MALFORMED_PACKET)


@both
@pytest.mark.parametrize("options", [3, 0x40, 0x80, 0xc1])
def test_reserved_option_bits(node, version, options):      # MQTT-3.8.3-5
    c = node.client(version=version)
    c.send_bytes(wire.subscribe_packet(version, 1, [("a", options)]))
    c.expect_disconnect(wire.MALFORMED_PACKET, wire.PROTOCOL_ERROR)


def test_retain_handling_3(node):                           # 3.8.3.1
    c = node.client()
    c.send_bytes(wire.subscribe_packet(V5, 1, [("a", 0x30)]))
    c.expect_disconnect(wire.PROTOCOL_ERROR, wire.MALFORMED_PACKET)


@pytest.mark.parametrize("options", [0x04, 0x08, 0x10, 0x20])
def test_311_options_of_version_5(node, options):           # 3.1.1 3.8.3-4
    c = node.client(version=V311)
    c.send_bytes(wire.subscribe_packet(V311, 1, [("a", options)]))
    c.expect_closed()


@every_version
@pytest.mark.parametrize("f", [
    "a#", "a/b#", "#/a", "a/#/b", "##", "a/##", "+a", "a+", "a/b+", "a/+b",
    "a/+b/c", "++", "a/++/b", "+#", "/#+"])
def test_misplaced_wildcards(node, version, f):             # MQTT-4.7.1-1, -2
    refuses_filter(node.client(version=version), f, *BAD_FILTER)


@every_version
def test_empty_filter(node, version):                       # MQTT-4.7.3-1
    refuses_filter(node.client(version=version), "", *BAD_FILTER)


@every_version
@pytest.mark.parametrize("f", [b"a\0b", b"\xff", b"\xc0\x80", b"\xed\xa0\x80",
                               b"a/\xe2\x82"])
def test_filters_of_bad_utf8(node, version, f):             # MQTT-1.5.4-1, -2
    refuses_filter(node.client(version=version), f, *BAD_FILTER)
    c = node.client(version=version)
    c.send_bytes(wire.unsubscribe_packet(version, 1, [f]))
    c.expect_disconnect(*BAD_FILTER)


@every_version
def test_bad_filter_among_good_ones(node, topic, version):  # MQTT-3.8.4-6
    c = node.client(version=version)
    c.send_bytes(wire.subscribe_packet(version, 5, [
        (topic + "/1", 1), ("a/#/b", 1), (topic + "/2", 2)]))
    try:
        p = c.expect(wire.SUBACK, 5)
    except (wire.Closed, AssertionError):
        return                                  # all refused by closing
    assert p.reasons[0] == 1 and p.reasons[2] == 2
    assert p.reasons[1] >= 0x80
    pub = node.client()
    pub.publish(topic + "/1", b"1")
    pub.publish(topic + "/2", b"2")
    assert [p.payload for p in c.read_publishes(2)] == [b"1", b"2"]


def test_too_many_levels(node, own):
    if not own:
        pytest.skip("limits differ")
    deep = "/".join("abcdefgh"[i % 8] for i in range(128))
    c = node.client()
    c.subscribe(deep, qos=1)
    c.publish(deep, b"128", qos=1)
    p = c.read_publish()
    assert p.topic == deep
    c.complete(p)
    for f in (deep + "/x", deep + "/#", "/" * 200, "+/" * 5000 + "+",
              "/" * 65535):
        assert c.subscribe(f, expect=False)[0] == wire.TOPIC_FILTER_INVALID
    for t in (deep + "/x", "/" * 200, "/" * 65535):
        for qos in (0, 1, 2):
            d = node.client()
            d.send_publish(t, b"x", qos=qos)
            p = d.read_packet()
            assert p.reason == wire.TOPIC_NAME_INVALID, p
            if p.kind == wire.DISCONNECT:
                d.expect_closed()
            else:
                assert qos
                d.expect_nothing()
    for t in (deep + "/x", "/" * 65535):
        d = node.client(version=V311)
        d.subscribe("a")
        assert d.subscribe(t, expect=False) == [0x80]
    c.expect_nothing()


# --- Matching ---------------------------------------------------------------

MATCHES = [
    # filter, topic, matches                                  4.7.1.2, 4.7.1.3
    ("sport/tennis/player1/#", "sport/tennis/player1", True),
    ("sport/tennis/player1/#", "sport/tennis/player1/ranking", True),
    ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
    ("sport/tennis/player1/#", "sport/tennis/player2", False),
    ("sport/tennis/player1/#", "sport/tennis/player12", False),
    ("sport/#", "sport", True),
    ("sport/#", "sport/", True),
    ("sport/#", "sports", False),
    ("#", "anything/at/all", True),
    ("#", "/", True),
    ("sport/tennis/+", "sport/tennis/player1", True),
    ("sport/tennis/+", "sport/tennis/player1/ranking", False),
    ("sport/+", "sport", False),
    ("sport/+", "sport/", True),
    ("+", "sport", True),
    ("+", "/finance", False),
    ("+/+", "/finance", True),
    ("/+", "/finance", True),
    ("+/tennis/#", "sport/tennis", True),
    ("+/tennis/#", "sport/tennis/x/y", True),
    ("+/tennis/#", "/tennis", True),
    ("sport/+/player1", "sport/tennis/player1", True),
    ("sport/+/player1", "sport//player1", True),
    ("sport/+/player1", "sport/player1", False),
    ("a/+/+/d", "a/b/c/d", True),
    ("a/+/+/d", "a/b/d", False),
    ("a/+/#", "a", False),
    ("a/+/#", "a/", True),
    ("a/+/#", "a/b", True),
    ("/#", "/", True),
    ("/#", "/a/b", True),
    ("/#", "a", False),
    ("+/#", "a", True),
    ("+/#", "/", True),
    ("a//b", "a//b", True),
    ("a//b", "a/b", False),
    ("a/b/", "a/b", False),
    ("a/b", "a/b/", False),
    ("+/+/+", "//", True),
    ("+/+", "//", False),
]


@pytest.mark.parametrize("version", [V311, V5])
def test_filter_matching(node, version):
    pub = node.client()
    topics = sorted({t for _, t, _ in MATCHES})
    for f in sorted({f for f, _, _ in MATCHES}):
        with wire.connect(node.addr(), version=version) as c:
            c.subscribe(f)
            for t in topics:
                pub.send_publish(t, f.encode())
            pub.fence()
            got = [p.topic for p in c.fence() if p.payload == f.encode()]
            for g, t, wanted in MATCHES:
                if g == f:
                    assert (t in got) == wanted, (f, t)


def test_filter_matching_at_random(node, topic):
    """Against a naive matcher, many filters of one client at a time."""
    import random
    rng = random.Random(topic)
    words = ["a", "b", "", "ab", "\u00e9"]

    def level(wild):
        return "+" if wild and rng.random() < .35 else rng.choice(words)

    def matches(f, t):
        for i, w in enumerate(f):
            if w == "#":
                return True
            if i >= len(t) or w not in ("+", t[i]):
                return False
        return len(f) == len(t)

    pub = node.client()
    for _ in range(15):
        filters = set()
        for _ in range(20):
            f = [topic] + [level(True) for _ in range(rng.randrange(0, 6))]
            if rng.random() < .3:
                f.append("#")
            filters.add("/".join(f))
        filters = sorted(filters)
        with wire.connect(node.addr()) as c:
            for i, f in enumerate(filters):
                c.subscribe(f, props=i + 1)
            topics = ["/".join([topic] + [level(False) for _ in range(
                rng.randrange(0, 6))]) for _ in range(30)]
            for t in topics:
                pub.send_publish(t, t.encode())
            pub.fence()
            got = {}
            for p in c.fence():
                assert p.topic == p.payload.decode()
                got.setdefault(p.topic, set()).update(
                    p.props["subscription_identifier"])
            for t in topics:
                want = {i + 1 for i, f in enumerate(filters) if matches(
                    f.split("/"), t.split("/"))}
                assert got.get(t, set()) == want, (t, [filters[i - 1] for i in
                                                   got.get(t, set()) ^ want])


# --- Overlapping ------------------------------------------------------------

@every_version
def test_overlap_gives_the_highest_qos(node, topic, version):  # 3.3.4-2
    c = node.client(version=version)
    c.subscribe([(topic + "/#", 1), (topic + "/+", 2), (topic + "/a", 0)])
    node.client().publish(topic + "/a", b"x", qos=2)
    first = c.read_publish()
    got = [first] + [p for p in c.fence() if p.kind == wire.PUBLISH]
    assert max(p.qos for p in got) == 2
    assert len(got) in (1, 3)
    assert len({p.pid for p in got if p.qos}) == len([p for p in got if p.qos])


def test_overlap_gives_one_copy(node, topic, own):          # MQTT-3.3.4-3, -4
    if not own:
        pytest.skip("copies are allowed")
    c = node.client()
    c.subscribe(topic + "/#", qos=0, props=1)
    c.subscribe(topic + "/+", qos=2, props=200)
    c.subscribe(topic + "/a", qos=1, props=268435455)
    c.subscribe("+/" + topic.split("/", 1)[1] + "/a", qos=1)
    node.client().publish(topic + "/a", b"x", qos=2)
    p = c.read_publish()
    assert p.qos == 2
    assert sorted(p.props["subscription_identifier"]) == [1, 200, 268435455]
    c.complete(p)
    c.expect_nothing()


@pytest.mark.parametrize("queued", [False, True])
def test_overlap_gives_every_identifier(node, topic, own, queued):  # MQTT-3.3.4-4
    """However many there are: all filters that match a topic of three levels
    below one of ours."""
    if not own:
        pytest.skip("copies are allowed")
    tails = ["/a", "/+"]
    ends = [""]
    filters = []
    for _ in range(3):
        filters += [topic + e + "/#" for e in ends]
        ends = [e + t for e in ends for t in tails]
    filters += [topic + e for e in ends] + [topic + e + "/#" for e in ends]
    assert len(filters) == 23
    c = node.client(props={"receive_maximum": 1})
    for i, f in enumerate(filters):
        c.subscribe(f, qos=1, props=i + 1)
    pub = node.client()
    pub.publish(topic + "/a/a/a", b"x", qos=1)
    p = c.read_publish()
    if queued:
        pub.publish(topic + "/a/a/a", b"y", qos=1)
        c.fence()
        c.complete(p)
        p = c.read_publish()
        assert p.payload == b"y"
    assert sorted(p.props["subscription_identifier"]) == list(range(1, 24))
    c.complete(p)
    c.expect_nothing()


# --- UNSUBSCRIBE ------------------------------------------------------------

@every_version
def test_unsubscribe(node, topic, version):                 # MQTT-3.10.4-2, -4
    c = node.client(version=version)
    c.subscribe([(topic, 1), (topic + "/#", 1)])
    reasons = c.unsubscribe([topic, topic + "/#"])
    assert reasons == ([0, 0] if version == V5 else [])
    node.client().publish(topic, b"x", qos=1)
    c.expect_nothing()


@every_version
def test_unsubscribe_of_what_is_not_there(node, topic, version):
    c = node.client(version=version)                        # MQTT-3.10.4-5, -6
    c.subscribe(topic)
    reasons = c.unsubscribe([topic + "/x", topic, topic, "+", "#"])
    if version == V5:
        n = wire.NO_SUBSCRIPTION_EXISTED
        assert reasons == [n, 0, n, n, n]


@every_version
def test_unsubscribe_compares_text(node, topic, version):   # MQTT-3.10.4-1
    c = node.client(version=version)
    c.subscribe([topic + "/+", topic + "/a"])
    c.unsubscribe(topic + "/#")
    c.unsubscribe(topic + "/a")
    node.client().publish(topic + "/a", b"x")
    assert c.read_publish().payload == b"x"
    c.unsubscribe(topic + "/+")
    node.client().publish(topic + "/a", b"y")
    c.expect_nothing()


def test_unsubscribe_completes_what_is_in_flight(node, topic):  # 3.10.4-3
    c = node.client()
    c.subscribe(topic, qos=2)
    pub = node.client()
    pub.publish(topic, b"1", qos=1)
    pub.publish(topic, b"2", qos=2)
    a, b = c.read_publishes(2)
    c.unsubscribe(topic)
    c.complete(a, b)
    c.expect_nothing()


def test_unsubscribe_with_properties(node, topic):          # 3.10.2.1
    c = node.client()
    c.subscribe(topic, props={"user_property": [("a", "b")]})
    assert c.unsubscribe(topic, props={"user_property": [
        ("a", "b"), ("a", "c")]}) == [0]


# --- Options ----------------------------------------------------------------

def test_no_local(node, topic):                             # MQTT-3.8.3-3
    c = node.client("me")
    c.subscribe(topic, qos=1, no_local=True)
    other = node.client("other")
    c.publish(topic, b"mine", qos=1)
    c.expect_nothing()
    other.publish(topic, b"theirs", qos=1)
    assert c.read_publish().payload == b"theirs"


def test_no_local_is_replaced(node, topic):                 # MQTT-3.8.4-3
    c = node.client()
    c.subscribe(topic, no_local=True)
    c.subscribe(topic)
    c.publish(topic, b"mine")
    assert c.read_publish().payload == b"mine"
    c.subscribe(topic, no_local=True)
    c.publish(topic, b"mine")
    c.expect_nothing()


def test_no_local_of_one_of_two(node, topic):               # MQTT-3.8.3-3
    """The other subscription, without the option, still gets its own."""
    c = node.client()
    c.subscribe(topic, qos=2, no_local=True, props=1)
    c.subscribe(topic + "/#", qos=1, props=2)
    c.publish(topic, b"mine", qos=2)
    p = c.read_publish()
    assert p.props["subscription_identifier"] == [2] and p.qos == 1
    c.complete(p)
    c.expect_nothing()


@pytest.mark.parametrize("rh", [0, 1, 2])
def test_retain_handling_is_accepted(node, topic, rh):      # 3.8.3.1
    c = node.client()
    c.subscribe(topic, qos=1, retain_handling=rh, retain_as_published=True)
    node.client().publish(topic, b"x")
    assert not c.read_publish().retain                      # MQTT-3.3.1-13


def test_subscription_identifier(node, topic):              # MQTT-3.3.4-3
    c = node.client()
    for ident in (1, 127, 128, 16383, 16384, 2097151, 2097152, 268435455):
        c.subscribe(topic, props=ident)
        node.client().publish(topic, b"x")
        p = c.read_publish()
        assert p.props["subscription_identifier"] == [ident]
    c.subscribe(topic)                      # replaced by one without
    node.client().publish(topic, b"x")
    assert "subscription_identifier" not in c.read_publish().props


@pytest.mark.parametrize("props", [
    b"\x02\x0b\x00",                                        # 3.8.2.1.2: zero
    b"\x04\x0b\x01\x0b\x02",                                # twice
    b"\x06\x0b\xff\xff\xff\xff\x7f",                        # too long
    b"\x02\x01\x00", b"\x03\x23\x00\x01",                   # not for SUBSCRIBE
])
def test_bad_subscribe_properties(node, props):
    c = node.client()
    c.send_bytes(wire.subscribe_packet(V5, 1, [("a", 0)], props))
    c.expect_disconnect(wire.PROTOCOL_ERROR, wire.MALFORMED_PACKET)


def test_publish_with_subscription_identifier(node, topic):  # MQTT-3.3.4-6
    c = node.client()
    c.send_publish(topic, b"x", props={"subscription_identifier": 1})
    c.expect_disconnect(wire.PROTOCOL_ERROR, wire.MALFORMED_PACKET)


# --- Ids, limits, many ------------------------------------------------------

def test_subscribe_with_an_id_in_use(node, topic):          # 3.9.3, 0x91
    c = node.client()
    c.send_publish(topic, b"x", 2, 9)
    c.expect(wire.PUBREC, 9)
    assert c.subscribe(topic, pid=9, expect=False)[0] in (
        0, wire.PACKET_ID_IN_USE)
    assert c.unsubscribe(topic, pid=9)[0] in (
        0, wire.NO_SUBSCRIPTION_EXISTED, wire.PACKET_ID_IN_USE)
    c.pubrel(9)
    assert c.expect(wire.PUBCOMP, 9).reason == 0


@every_version
def test_thousand_subscriptions(node, topic, version):
    c = node.client(version=version)
    filters = ["%s/%d" % (topic, i) for i in range(1000)]
    c.subscribe(filters)
    pub = node.client()
    for f in filters:
        pub.send_publish(f, b"x")
    assert [p.topic for p in c.read_publishes(1000)] == filters
    c.unsubscribe(filters)
    pub.publish(filters[500], b"x")
    c.expect_nothing()


def test_maximum_subscriptions(make_node, topic):           # 3.9.3, 0x97
    node = make_node(listeners=1, options={"mqtt.max_subscriptions": "10"})
    c = node.client()
    filters = ["%s/%d" % (topic, i) for i in range(12)]
    assert c.subscribe(filters, expect=False) == [0] * 10 + [0x97] * 2
    assert c.subscribe(filters[3], qos=1) == [1]        # not a new one
    assert c.unsubscribe(filters[0]) == [0]
    assert c.subscribe(filters[11]) == [0]
    d = node.client(version=V311)
    assert d.subscribe(filters, expect=False) == [0] * 10 + [0x80] * 2


def test_wildcard_subscriptions_off(make_node):             # 3.2.2.3.11
    node = make_node(listeners=1, options={
        "mqtt.wildcard_subscription": "false"})
    c = node.client()
    assert c.connack.props["wildcard_subscription_available"] == 0
    assert c.subscribe(["a", "a/+", "#"], expect=False) == [0, 0xa2, 0xa2]
    d = node.client(version=V311)
    assert d.subscribe(["a", "a/+"], expect=False) == [0, 0x80]


def test_maximum_qos(make_node, topic):                     # MQTT-3.2.2-9 ..-12
    for limit in (0, 1):
        node = make_node(listeners=1, options={"mqtt.max_qos": str(limit)})
        c = node.client()
        assert c.connack.props["maximum_qos"] == limit
        got = c.subscribe([(topic, 2), (topic + "/1", 1)], expect=False)
        assert got in ([limit, min(1, limit)],)             # MQTT-3.2.2-10
        d = node.client()
        d.send_publish(topic, b"x", qos=limit + 1)
        d.expect_disconnect(wire.QOS_NOT_SUPPORTED)         # MQTT-3.2.2-11
        d = node.client()
        d.publish(topic, b"y", qos=limit)
        assert c.read_publish().payload == b"y"
        node.raw().refused(wire.QOS_NOT_SUPPORTED, client_id="w", will={
            "topic": topic, "qos": limit + 1})              # MQTT-3.2.2-12
        node.client("w", will={"topic": topic, "qos": limit})


def test_wildcard_shapes_are_bounded(make_node):            # 0x97
    """One client may use 32 shapes at an anchor, and is told when it wants
    more; exact filters and others' shapes are not concerned."""
    node = make_node(listeners=1)
    c = node.client()
    shapes = []
    for bits in range(1, 128):
        f = ["+" if bits >> i & 1 else "x" for i in range(7)]
        f[0] = "+"
        if "/".join(f) not in shapes:
            shapes.append("/".join(f))
    codes = c.subscribe(shapes, expect=False)
    assert codes[:32] == [0] * 32
    assert set(codes[32:]) == {wire.QUOTA_EXCEEDED}
    d = node.client()
    assert d.subscribe(shapes[40]) == [0]
    node.client().publish("a/b/c/d/e/f/g", b"x")
    c.subscribe("/".join("abcdefg"))
