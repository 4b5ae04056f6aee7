"""Shared subscriptions, MQTT 5.0 section 4.8.2: one member of a group gets a
message, whichever listeners members and publishers are on; who that is, and
what happens when it goes."""

import collections
import signal
import threading
import time

import pytest

from support import mqttc, wire
from support.wire import V31, V311, V5

BAD_FILTER = (wire.TOPIC_FILTER_INVALID, wire.PROTOCOL_ERROR,
              wire.MALFORMED_PACKET)
STRATEGY = "mqtt.shared_subscription_strategy"


def member(node, topic, on=0, qos=1, group="g", auto=True, **opts):
    c = node.client(on=on, auto=auto, **opts)
    c.subscribe("$share/%s/%s" % (group, topic), qos=qos)
    return c


def taken(members, n):
    """Who got each of n messages: payload -> list of members."""
    got = collections.defaultdict(list)
    for i, m in enumerate(members):
        for p in m.fence():
            if p.kind == wire.PUBLISH:
                got[p.payload].append(i)
                n -= 1
    return got, n


def gather(members, n):
    """Wait for n messages in all; who got each."""
    got = collections.defaultdict(list)
    while n > 0:
        more, n = taken(members, n)
        for k, v in more.items():
            got[k] += v
    more, _ = taken(members, 0)
    for k, v in more.items():
        got[k] += v
    return got


def spread(got, members):
    count = collections.Counter(i for who in got.values() for i in who)
    return [count[i] for i in range(len(members))]


def once_each(got, n):
    assert sorted(got, key=int) == [b"%d" % i for i in range(n)]
    assert all(len(who) == 1 for who in got.values()), got


# --- What is asked for ------------------------------------------------------

@pytest.mark.parametrize("version", [V31, V311, V5])
@pytest.mark.parametrize("f", ["$share/g/%s", "$queue/%s", "$share/g/%s/#",
                               "$share/a b/+/%s"])
def test_subscribed_and_unsubscribed(node, version, f, topic):
    c = node.client(version=version)
    f = f % topic
    assert c.subscribe(f, qos=1, expect=False) == [1]
    if version == V5:
        assert c.unsubscribe(f) == [0]
        assert c.unsubscribe(f) == [wire.NO_SUBSCRIPTION_EXISTED]
    else:
        c.unsubscribe(f)
    node.client().publish(topic, b"x")
    assert c.fence() == []


def test_connack_does_not_deny_them(node):                  # 3.2.2.3.13
    c = node.client()
    assert c.connack.props.get("shared_subscription_available", 1) == 1


def test_switched_off(make_node):                           # 3.2.2.3.13
    node = make_node(options={"mqtt.shared_subscription": "off"})
    c = node.client()
    assert c.connack.props["shared_subscription_available"] == 0
    assert c.subscribe("$share/g/t", expect=False) == [
        wire.SHARED_NOT_SUPPORTED]
    assert node.client(version=V311).subscribe(
        "$share/g/t", expect=False) == [0x80]


@pytest.mark.parametrize("version", [V31, V311, V5])
@pytest.mark.parametrize("f", ["$share//t", "$share/g", "$share/",
                               "$share/g/", "$share/+/t", "$share/#/t",
                               "$share/a+b/t", "$share/g#/t", "$share/g/a#",
                               "$share/g/#/t", "$queue/", "$queue/#/t"])
def test_malformed(node, version, f):                       # MQTT-4.8.2-1, -2
    c = node.client(version=version)
    c.send_bytes(wire.subscribe_packet(version, 1, [(f, 0)]))
    try:
        p = c.read_packet()
    except wire.Closed:
        assert version != V5
        return
    if p.kind == wire.SUBACK:
        assert p.reasons[0] in (BAD_FILTER if version == V5 else (0x80,))
    else:
        assert p.kind == wire.DISCONNECT and p.reason in BAD_FILTER


def test_wildcards_mean_no_dollar_topics(make_node):        # MQTT-4.7.2-1
    """A group of `#` is as deaf to $SYS as anybody; one that names it is not,
    and hears each listener's figures by its members there."""
    node = make_node(options={"sys.interval": "100ms"})
    deaf = [node.client(on=i) for i in (0, 1)]
    for c in deaf:
        c.subscribe(["$share/g/#", "$share/g/+/+/#", "$queue/#"])
    for on in (0, 1):
        c = node.client(on=on)
        c.subscribe("$share/g/$SYS/#")
        assert all(p.topic.startswith("$SYS/") for p in c.read_publishes(5))
    for c in deaf:
        c.expect_nothing()


def test_no_local_is_an_error(node):                        # MQTT-3.8.3-4
    c = node.client()
    c.send_bytes(wire.subscribe_packet(V5, 1, [("$share/g/t", 4)]))
    c.expect_disconnect(wire.PROTOCOL_ERROR)


# --- One of them gets it ----------------------------------------------------

@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("where", [(0, 0, 0), (0, 0, 1), (1, 1, 1),
                                   (0, 1, 1)])
def test_even_over_members(node, topic, qos, where):
    """Not over listeners: two of three members are on one of them."""
    members = [member(node, topic, on=on, qos=qos) for on in where]
    pub = node.client(on=0)
    for i in range(60):
        pub.publish(topic, b"%d" % i, qos=qos)
    got = gather(members, 60)
    once_each(got, 60)
    assert spread(got, members) == [20, 20, 20]


@pytest.mark.parametrize("group", ["g", "$queue"])
def test_groups_and_others_each_get_it(node, topic, group):
    """Two groups, one of a wildcard, and plain subscribers beside them."""
    f = "$queue/%s" if group == "$queue" else "$share/g/%s"
    one = [node.client(on=i, auto=True) for i in (0, 1)]
    for c in one:
        c.subscribe(f % topic, qos=1)
    two = [member(node, topic + "/#", on=i, group="h") for i in (0, 1, 1)]
    plain = [node.client(on=i, auto=True) for i in (0, 1)]
    for c in plain:
        c.subscribe(topic, qos=1)
    pub = node.client(on=1)
    for i in range(30):
        pub.publish(topic, b"%d" % i, qos=1)
    for members in (one, two):
        once_each(gather(members, 30), 30)
    for c in plain:
        assert [p.payload for p in c.read_publishes(30)] == [
            b"%d" % i for i in range(30)]


def test_same_client_shared_and_plain(node, topic):         # 4.8.2
    """The two are answered separately, each with its identifier."""
    c = node.client(auto=True)
    c.subscribe(topic, qos=0, props={"subscription_identifier": 1})
    c.subscribe("$share/g/" + topic, qos=1,
                props={"subscription_identifier": 2})
    node.client(on=1).publish(topic, b"x", qos=1)
    got = sorted((p.props["subscription_identifier"], p.qos)
                 for p in c.read_publishes(2))
    assert got in ([(1, 0), (2, 1)], [([1], 0), ([2], 1)]), got


def test_same_names_other_filters(node, topic):
    """A name alone makes no group: `g/t/+` and `g/t/x` are two."""
    a, b = member(node, topic + "/+"), member(node, topic + "/x", on=1)
    pub = node.client()
    for i in range(10):
        pub.publish(topic + "/x", b"%d" % i, qos=1)
    for c in (a, b):
        once_each(gather([c], 10), 10)


def test_qos_is_the_members(node, topic):
    members = [member(node, topic, qos=q) for q in (0, 1, 2)]
    pub = node.client(on=1)
    for i in range(9):
        pub.publish(topic, b"%d" % i, qos=2)
    seen = []
    for q, m in enumerate(members):
        for p in m.read_publishes(3):
            assert p.qos == q
            seen.append(p.payload)
    assert len(set(seen)) == 9


def test_order_of_one_member(node, topic):
    m = member(node, topic, on=1)
    pub = node.client(on=0)
    for i in range(200):
        pub.send_publish(topic, b"%d" % i, qos=0)
    assert [int(p.payload) for p in m.read_publishes(200)] == list(range(200))


@pytest.mark.parametrize("size", [0, 600, 61000, 200000])
def test_sizes(node, topic, size):
    members = [member(node, topic, on=i) for i in (0, 1)]
    pub = node.client(on=0)
    for _ in range(4):
        pub.publish(topic, b"x" * size, qos=1)
    for m in members:
        assert [len(p.payload) for p in m.read_publishes(2)] == [size] * 2


@pytest.mark.skipif(mqttc.FOREIGN is not None, reason="asks our tools")
def test_tools_show_them(node, topic):
    c = node.client("shows" + topic[-5:].replace("/", "_"), on=1)
    c.subscribe(["$share/g/%s" % topic, "$queue/%s" % topic, topic])
    rows = node.tool_json("mqttc-clients", "show", "shows" + topic[-5:].replace("/", "_"))
    assert {r["filter"] for r in rows if "filter" in r} == {
        "$share/g/" + topic, "$share/$queue/" + topic, topic}
    rows = [r for r in node.tool_json("mqttc-route", "list")
            if r["filter"] == topic]
    assert {(r["group"], r["members"]) for r in rows} == {
        (None, None), ("g", 1), ("$queue", 1)}


def test_no_member_no_delivery(node, topic):
    m = member(node, topic, on=1)
    pub = node.client(on=0)
    pub.publish(topic, b"0", qos=1)
    assert m.read_publish().payload == b"0"
    m.unsubscribe("$share/g/" + topic)
    pub.publish(topic, b"1", qos=1)
    assert m.fence() == []


def test_will_of_a_client(node, topic):
    members = [member(node, topic, on=i) for i in (0, 1)]
    c = node.client(will={"topic": topic, "payload": b"0", "qos": 1})
    c.reset()
    once_each(gather(members, 1), 1)


def names(prefix, n, topic):
    return ["$share/%s%d/%s" % (prefix, k, topic) for k in range(n)]


def test_many_groups_of_one_filter(node, topic):
    a, b = node.client(on=0), node.client(on=1)
    a.subscribe(names("a", 500, topic))
    b.subscribe(names("a", 500, topic))
    b.subscribe(names("b", 500, topic))
    node.client(on=0).publish(topic, b"x", qos=1)
    got = 0
    while got < 1000:
        for c in (a, b):
            got += sum(p.kind == wire.PUBLISH for p in c.fence())
    for c in (a, b):
        assert c.fence() == []


@pytest.mark.skipif(mqttc.FOREIGN is not None, reason="ours to bound")
def test_too_many_groups_of_one_filter(node, topic):
    c = node.client()
    c.subscribe(names("g", 1024, topic))
    assert c.subscribe("$share/g1024/" + topic, expect=False) == [
        wire.QUOTA_EXCEEDED]
    c.subscribe([topic, "$share/g1024/other/" + topic])
    node.client(on=1).publish(topic, b"x", qos=1)
    assert len(c.read_publishes(1025)) == 1025
    assert c.fence() == []


# --- Strategies -------------------------------------------------------------

@pytest.fixture
def group(make_node, topic, request):
    def make(strategy):
        node = make_node(options={STRATEGY: strategy})
        return node, [member(node, topic, on=i % 2) for i in range(4)]
    return make


def send(node, topic, n, pubs):
    for i in range(n):
        pubs[i % len(pubs)].publish(topic, b"%d" % i, qos=1)


def test_random(group, topic):
    node, members = group("random")
    send(node, topic, 400, [node.client(on=0), node.client(on=1)])
    got = gather(members, 400)
    once_each(got, 400)
    assert all(40 < n < 160 for n in spread(got, members))


def test_sticky(group, topic):
    """One member for each listener that publishes, until it goes."""
    node, members = group("sticky")
    pub = node.client(on=0)
    send(node, topic, 20, [pub])
    got = gather(members, 20)
    once_each(got, 20)
    assert sorted(spread(got, members)) == [0, 0, 0, 20]
    gone = members.pop(spread(got, members).index(20))
    gone.disconnect()
    gone.expect_closed()
    send(node, topic, 20, [pub])
    got = gather(members, 20)
    once_each(got, 20)
    assert sorted(spread(got, members)) == [0, 0, 20]


def test_hash_clientid(group, topic):
    """All of a publisher to one member, from whichever listener it comes."""
    node, members = group("hash_clientid")
    seen = collections.Counter()
    for k in range(24):
        who = set()
        for on in (0, 1):
            pub = node.client("pub%d" % k, on=on)
            send(node, topic, 3, [pub])
            got = gather(members, 3)
            once_each(got, 3)
            who |= {i for w in got.values() for i in w}
            pub.disconnect()
            pub.expect_closed()
        assert len(who) == 1
        seen[who.pop()] += 1
    assert len(seen) > 1


def test_hash_clientid_of_a_will(group, topic):
    """It is a message of that client."""
    node, members = group("hash_clientid")
    for k in range(12):
        pub = node.client("pub%d" % k, on=k % 2,
                          will={"topic": topic, "payload": b"0", "qos": 1})
        pub.publish(topic, b"0", qos=1)
        who = gather(members, 1)
        pub.reset()
        assert gather(members, 1) == who


def test_hash_clientid_of_what_is_left_behind(make_node, topic):
    """It goes where the publisher's next message goes."""
    node = make_node(options={STRATEGY: "hash_clientid"})
    members = [member(node, topic, on=i % 2, auto=False) for i in range(4)]
    pubs = [node.client("pub%d" % k, on=k % 2) for k in range(24)]
    for k, pub in enumerate(pubs):
        pub.publish(topic, b"%d" % k, qos=1)
    first = gather(members, 24)
    members[1].reset()
    left = members[:1] + members[2:]
    mine = [k for k in range(24) if first[b"%d" % k] == [1]]
    assert len(mine) > 1
    got = gather(left, len(mine))
    node.client(on=1).subscribe(topic + "/x")   # it is known that one left
    for k in mine:
        pubs[k].publish(topic, b"%d" % k, qos=1)
    assert gather(left, len(mine)) == got
    assert len({tuple(who) for who in got.values()}) > 1


def test_hash_topic(make_node, topic):
    node = make_node(options={STRATEGY: "hash_topic"})
    members = [member(node, topic + "/+", on=i % 2) for i in range(4)]
    pubs = [node.client(on=0), node.client(on=1)]
    seen = set()
    for k in range(24):
        send(node, "%s/%d" % (topic, k), 4, pubs)
        got = gather(members, 4)
        once_each(got, 4)
        who = {i for w in got.values() for i in w}
        assert len(who) == 1
        seen |= who
    assert len(seen) > 1


def test_local(group, topic):
    """Members on the publisher's listener, evenly, as long as there are."""
    node, members = group("local")
    pub = node.client(on=0)
    send(node, topic, 20, [pub])
    got = gather(members, 20)
    once_each(got, 20)
    assert spread(got, members) == [10, 0, 10, 0]
    for m in (members[0], members[2]):
        m.unsubscribe("$share/g/" + topic)
    send(node, topic, 20, [pub])
    got = gather(members, 20)
    once_each(got, 20)
    assert spread(got, members) == [0, 10, 0, 10]


def test_strategy_is_reloaded(make_node, topic, tmp_path):
    conf = tmp_path / "mqttc.conf"
    conf.write_text(STRATEGY + " = sticky\n")
    node = make_node(args=["-f", str(conf)])
    members = [member(node, topic, on=0) for _ in range(2)]
    pub = node.client(on=0)
    send(node, topic, 10, [pub])
    assert sorted(spread(gather(members, 10), members)) == [0, 10]
    conf.write_text(STRATEGY + " = round_robin\n")
    node.tool("mqttc-ctl", "-f", str(conf), "reload")
    node.wait_log("conf.reloaded")
    for _ in range(100):                # told, but perhaps not read yet
        send(node, topic, 10, [pub])
        if spread(gather(members, 10), members) == [5, 5]:
            break
    else:
        assert False, "it goes on as before"


def test_switched_off_later(make_node, topic, tmp_path):
    """Who is a member stays one; nobody new is let in."""
    conf = tmp_path / "mqttc.conf"
    conf.write_text("mqtt.shared_subscription = on\n")
    node = make_node(args=["-f", str(conf)])
    members = [member(node, topic, on=i) for i in (0, 1)]
    conf.write_text("mqtt.shared_subscription = off\n")
    node.tool("mqttc-ctl", "-f", str(conf), "reload")
    for on in (0, 1):
        for _ in range(100):
            c = node.client(on=on)
            if c.connack.props.get("shared_subscription_available") == 0:
                break
        assert c.subscribe("$share/g/" + topic, expect=False) == [
            wire.SHARED_NOT_SUPPORTED]
    send(node, topic, 10, [node.client(on=0)])
    got = gather(members, 10)
    once_each(got, 10)
    assert spread(got, members) == [5, 5]
    assert members[0].unsubscribe("$share/g/" + topic) == [0]
    send(node, topic, 4, [node.client(on=0)])
    once_each(gather(members, 4), 4)


@pytest.mark.parametrize("size", range(61180, 61460, 20))
def test_left_behind_at_the_bound_of_a_frame(node, topic, size):
    """A record with a group in it travels alone a little earlier."""
    lazy = member(node, topic, auto=False)
    node.client().publish(topic, b"x" * size, qos=1)
    assert len(lazy.read_publish().payload) == size
    other = member(node, topic, on=1)
    lazy.reset()
    assert other.read_publish().payload == b"x" * size


# --- Members that go --------------------------------------------------------

@pytest.mark.parametrize("how", ["disconnect", "reset", "taken over"])
@pytest.mark.parametrize("other", [0, 1])
def test_unanswered_qos1_goes_to_another(node, topic, how, other):
    lazy = member(node, topic, on=0, auto=False, client_id="lazy" + topic[-6:])
    pub = node.client(on=1)
    for i in range(20):
        pub.publish(topic, b"%d" % i, qos=1)
    mine = lazy.read_publishes(20)
    for p in mine[:5]:
        lazy.puback(p.pid)
    lazy.fence()
    busy = member(node, topic, on=other)
    if how == "disconnect":
        lazy.disconnect()
    elif how == "reset":
        lazy.reset()
    else:
        node.client("lazy" + topic[-6:], on=1)
    got = busy.read_publishes(15)
    assert [int(p.payload) for p in got] == list(range(5, 20))
    assert not any(p.dup for p in got)
    assert busy.fence() == []


def test_error_puback_is_final(node, topic):                # MQTT-4.8.2-6
    a = member(node, topic, auto=False)
    node.client(on=1).publish(topic, b"x", qos=1)
    p = a.read_publish()
    b = member(node, topic)
    a.puback(p.pid, reason=wire.UNSPECIFIED_ERROR)
    a.fence()
    a.disconnect()
    a.expect_closed()
    assert b.fence() == []


def test_qos2_once_sent_goes_to_nobody(node, topic):        # MQTT-4.8.2-4, -5
    """What was not sent yet does."""
    lazy = member(node, topic, qos=2, auto=False,
                  props={"receive_maximum": 3})
    pub = node.client(on=1)
    for i in range(10):
        pub.publish(topic, b"%d" % i, qos=2)
    assert len(lazy.read_publishes(3)) == 3
    assert lazy.fence() == []
    busy = member(node, topic, qos=2)
    lazy.reset()
    assert [int(p.payload) for p in busy.read_publishes(7)] == list(
        range(3, 10))
    assert all(p.kind == wire.PUBREL for p in busy.fence())


def test_expired_meanwhile(node, topic):                    # MQTT-3.3.2-5
    lazy = member(node, topic, auto=False)
    pub = node.client()
    pub.publish(topic, b"0", qos=1, props={"message_expiry_interval": 1})
    pub.publish(topic, b"1", qos=1)
    first = lazy.read_publishes(2)
    assert first[0].payload == b"0"
    before = node.metric("dropped_expired_total") if not mqttc.FOREIGN else 0
    busy = member(node, topic)
    time.sleep(1.1)                         # the message's own second
    lazy.reset()
    assert busy.read_publish().payload == b"1"
    assert busy.fence() == []
    if not mqttc.FOREIGN:
        assert node.metric("dropped_expired_total") == before + 1


def test_full_member_is_passed_over(make_node, topic):
    """Rather than to drop, to one that has room."""
    node = make_node(options={"mqtt.max_mqueue_len": "5"})
    stuck = member(node, topic, auto=False, props={"receive_maximum": 1})
    other = member(node, topic)
    pub = node.client()
    for i in range(40):
        pub.publish(topic, b"%d" % i, qos=1)
    stuck.read_publish()
    got = other.read_publishes(34)
    assert len({p.payload for p in got}) == 34
    stuck.reset()
    assert len(other.read_publishes(6)) == 6
    assert node.metric("dropped_queue_full_total") == 0


@pytest.mark.parametrize("on", [0, 1])
def test_full_members_of_a_listener_are_passed_over(make_node, topic, on):
    """Whichever listener the one with room is on."""
    node = make_node(options={"mqtt.max_mqueue_len": "5"})
    stuck = member(node, topic, on=1, auto=False,
                   props={"receive_maximum": 1})
    other = member(node, topic, on=0)
    pub = node.client(on=on)
    for i in range(40):
        pub.publish(topic, b"%d" % i, qos=1)
    stuck.read_publish()
    got = other.read_publishes(34)
    assert len({p.payload for p in got}) == 34
    stuck.reset()
    assert len(other.read_publishes(6)) == 6
    assert node.metric("dropped_queue_full_total") == 0


def test_all_members_full(make_node, topic):
    """With nobody to pass it to it is dropped where it is, and counted."""
    node = make_node(options={"mqtt.max_mqueue_len": "5"})
    stuck = [member(node, topic, on=i, auto=False,
                    props={"receive_maximum": 1}) for i in (0, 1)]
    pub = node.client(on=0)
    for i in range(40):
        pub.publish(topic, b"%d" % i, qos=1)
    assert node.wait_metric("dropped_queue_full_total",
                            lambda n: n == 40 - 2 * 6) == 28
    for c in stuck:
        c.expect(wire.PUBLISH)
        c.expect_nothing()


@pytest.mark.parametrize("on", [0, 1])
def test_what_others_push_out_of_a_queue(make_node, topic, on):
    """A member has other subscriptions as well, which fill its queue."""
    node = make_node(options={"mqtt.max_mqueue_len": "5"})
    stuck = member(node, topic, on=0, auto=False,
                   props={"receive_maximum": 1})
    stuck.subscribe(topic + "/own", qos=1)
    other = member(node, topic, on=on)
    pub = node.client(on=0)
    for i in range(8):
        pub.publish(topic, b"%d" % i, qos=1)
    twin = node.client(on=0, auto=True)         # of the same fan-out
    twin.subscribe(topic + "/+", qos=1)
    for i in range(5):
        pub.publish(topic + "/own", b"own %d" % i, qos=1)
    first = stuck.read_publish()
    got = other.read_publishes(7)
    assert len({p.payload for p in got + [first]}) == 8
    assert [p.payload for p in twin.read_publishes(5)] == [
        b"own %d" % i for i in range(5)]
    stuck.auto = True
    stuck.puback(first.pid)
    assert [p.payload for p in stuck.read_publishes(5)] == [
        b"own %d" % i for i in range(5)]
    assert node.metric("dropped_queue_full_total") == 0


def test_full_in_bytes(make_node, topic):
    node = make_node(options={"mqtt.max_mqueue_bytes": "100KB"})
    stuck = member(node, topic, auto=False, props={"receive_maximum": 1})
    other = member(node, topic)
    pub = node.client()
    for i in range(10):
        pub.publish(topic, b"%d " % i + bytes(60000), qos=1)
        other.inbox.extend(other.fence())       # answers
    stuck.read_publish()
    assert len({p.payload for p in other.read_publishes(8)}) == 8
    stuck.reset()
    assert len(other.read_publishes(2)) == 2
    assert node.metric("dropped_queue_full_total") == 0


@pytest.mark.skipif(mqttc.FOREIGN is not None, reason="may discard them")
@pytest.mark.parametrize("on", [0, 1])
@pytest.mark.parametrize("qos", [0, 1])
def test_too_large_for_one_is_for_another(node, topic, on, qos):  # 3.1.2.11.4
    small = member(node, topic, on=0, props={"maximum_packet_size": 200})
    large = member(node, topic, on=on)
    pub = node.client(on=0)
    for i in range(10):
        pub.publish(topic, b"%d" % i + bytes(200), qos=qos)
    assert len({p.payload for p in large.read_publishes(10)}) == 10
    assert small.fence() == []


@pytest.mark.parametrize("qos", [0, 1])
def test_stopped_listener_is_passed_over(make_node, topic, qos):
    """Once it has all that may be under way to it."""
    node = make_node(options={"bus.credit": "64KB", "bus.stream_max": "64KB",
                              "mqtt.receive_maximum": "1000",
                              "supervise.hang_timeout": "10m"})
    members = [member(node, topic, on=i, qos=qos) for i in (0, 1)]
    pub = node.client(on=0)
    node.kill("listener.1", signal.SIGSTOP)
    try:
        for i in range(160):
            pub.send_publish(topic, b"%d " % i + bytes(1000), qos=qos)
        pub.inbox.extend(pub.fence())
        assert len(members[0].read_publishes(90)) == 90
    finally:
        node.kill("listener.1", signal.SIGCONT)
    acks = [pub.expect(wire.PUBACK).reason for _ in range(160 * qos)]
    n = len(gather(members, 160 - 90))
    assert n == 70
    assert set(acks) <= {wire.SUCCESS}
    assert node.metric("dropped_no_credit_total") == 0
    assert node.metric("dropped_stream_full_total") == 0


def test_expired_on_the_way_to_a_dead_listener(make_node, topic):
    """What it had not acknowledged is older by then."""
    node = make_node(options={"supervise.hang_timeout": "10m"})
    here, _ = [member(node, topic, on=i) for i in (0, 1)]
    pub = node.client(on=0)
    node.kill("listener.1", signal.SIGSTOP)
    for expiry in (1, 1000):
        for _ in range(2):                      # one for each of them
            pub.send_publish(topic, b"%d" % expiry, qos=1,
                             props={"message_expiry_interval": expiry})
    got = here.read_publishes(2)
    time.sleep(1.1)                             # the message's own second
    node.kill("listener.1", signal.SIGKILL)
    got += here.read_publishes(1)
    node.wait_ready("listener.1")
    assert [p.payload for p in got] == [b"1", b"1000", b"1000"]
    assert got[2].props["message_expiry_interval"] <= 999
    assert here.fence() == []


@pytest.mark.parametrize("qos", [1, 2])
def test_exactly_one_under_churn(make_node, topic, qos):
    """Members come and go all the time, on every listener. Those that leave
    finish what they were given first, so each message is seen exactly once."""
    node = make_node(listeners=3)
    base = member(node, topic, on=2, qos=qos)
    ends = threading.Event()
    seen, odd = collections.Counter(), []
    lock = threading.Lock()

    def churn(on):
        try:
            while not ends.is_set():
                with node.raw(on=on, auto=True) as c:
                    c.connect()
                    c.subscribe("$share/g/" + topic, qos=qos)
                    got = c.fence()
                    c.unsubscribe("$share/g/" + topic)
                    got += c.fence()
                    c.disconnect()
                with lock:
                    seen.update(p.payload for p in got
                                if p.kind == wire.PUBLISH)
        except Exception as e:              # noqa: BLE001: told below
            odd.append(repr(e))

    threads = [threading.Thread(target=churn, args=(i,)) for i in range(3)]
    for t in threads:
        t.start()
    pubs = [node.client(on=i) for i in range(3)]
    try:
        for i in range(900):
            pubs[i % 3].publish(topic, b"%d" % i, qos=qos)
    finally:
        ends.set()
        for t in threads:
            t.join()
    assert not odd
    while sum(seen.values()) < 900:
        seen.update(p.payload for p in base.fence() if p.kind == wire.PUBLISH)
    seen.update(p.payload for p in base.fence() if p.kind == wire.PUBLISH)
    assert len(seen) == 900 and set(seen.values()) == {1}
