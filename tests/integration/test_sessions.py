"""Sessions that outlive their connection: MQTT 5.0 sections 3.1.2.4, 3.1.2.11,
4.1, 4.3, 4.4, 4.9; 3.1 and 3.1.1 with clean session 0."""

import os
import signal
import threading
import time

import pytest

from support import mqttc, wire
from support.durable import Receiver, durable, leave, settled
from support.wire import V31, V311, V5

every_version = pytest.mark.parametrize("version", [V31, V311, V5])
every_qos = pytest.mark.parametrize("qos", [1, 2])

needs_own = pytest.mark.skipif(bool(mqttc.FOREIGN), reason="a node of its own")


def sid(topic):
    """A client id no other test has."""
    return "s/" + topic


def payloads(packets):
    return [p.payload for p in packets]


def numbers(*at):
    return [b"%d" % i for i in range(*at)]


def publish_all(pub, topic, bodies, qos=1, **opts):
    for b in bodies:
        pub.publish(topic, b, qos=qos, **opts)


def absent(node, topic, version=V5, qos=1, **opts):
    """A durable session with one subscription, its client gone."""
    c = durable(node, sid(topic), version, present=False, **opts)
    c.subscribe(topic, qos=qos)
    leave(node, c)
    return sid(topic)


def finish(c, *publishes):
    """Acknowledge, and nothing more is there."""
    c.complete(*publishes)
    c.expect_nothing()


# --- What is kept -----------------------------------------------------------

@every_version
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_subscriptions_survive(node, topic, version, qos):  # MQTT-3.1.2-5
    who = absent(node, topic, version, qos)
    c = durable(node, who, version, on=1, present=True)
    pub = node.client(version=version)
    for q in (0, 1, 2):
        pub.publish(topic, b"%d" % q, qos=q)
        p = c.read_publish()
        assert (p.payload, p.qos, p.dup) == (b"%d" % q, min(q, qos), False)
        finish(c, p)


@every_version
@every_qos
def test_offline_queue_in_order(node, topic, version, qos):  # 4.1, 4.6
    who = absent(node, topic, version, qos)
    publish_all(node.client(version=version, on=1), topic, numbers(50), qos)
    c = durable(node, who, version, on=1, present=True)
    got = c.read_publishes(50)
    assert payloads(got) == numbers(50)
    assert {p.qos for p in got} == {qos}
    assert not any(p.dup for p in got)
    finish(c, *got)
    leave(node, c)
    c = durable(node, who, version, present=True)
    c.expect_nothing()


@every_version
def test_offline_qos_is_the_lesser(node, topic, version):   # 3.8.4
    who = absent(node, topic, version, qos=1)
    pub = node.client()
    for q in (2, 0, 1):                 # QoS 0 is not kept: 4.1
        pub.publish(topic, b"%d" % q, qos=q)
    c = durable(node, who, version, present=True)
    got = c.read_publishes(2)
    assert [(p.payload, p.qos) for p in got] == [(b"2", 1), (b"1", 1)]
    finish(c, *got)


def test_qos_0_is_not_kept(node, topic):                    # 4.1
    who = absent(node, topic, qos=2)
    publish_all(node.client(), topic, numbers(5), qos=0)
    c = durable(node, who, present=True)
    c.expect_nothing()
    publish_all(node.client(), topic, numbers(5), qos=0)
    assert payloads(c.read_publishes(5)) == numbers(5)


def test_properties_survive(node, topic):                   # 3.3.2.3
    who = absent(node, topic)
    props = [("user_property", ("b", "1")), ("content_type", "text"),
             ("user_property", ("a", "2")), ("payload_format_indicator", 1),
             ("response_topic", "r"), ("correlation_data", b"c")]
    node.client().publish(topic, b"x", qos=1, props=props)
    c = durable(node, who)
    p = c.read_publish()
    assert p.props == {
        "user_property": [("b", "1"), ("a", "2")], "content_type": "text",
        "payload_format_indicator": 1, "response_topic": "r",
        "correlation_data": b"c"}


def options_of(node, topic, on):
    """A session of several overlapping filters, resumed on another listener
    when `on` is that."""
    c = durable(node, sid(topic))
    c.subscribe(topic + "/+", qos=0, props=10)
    c.subscribe(topic + "/a", qos=2, props=20)
    c.subscribe(topic + "/#", qos=1, props=30, retain_as_published=True)
    c.subscribe(topic + "/b", qos=0)
    if on is not None:
        leave(node, c)
        c = durable(node, sid(topic), on=on, present=True)
    return c


@pytest.mark.parametrize("on", [None, 0, 1])
@pytest.mark.parametrize("publisher_on", [0, 1])
def test_overlapping_filters(node, topic, on, publisher_on):  # MQTT-3.3.4-2
    """One copy, of the highest QoS, with all identifiers: also where a
    subscription of QoS 0 is served by another process than one of QoS 1."""
    c = options_of(node, topic, on)
    pub = node.client(on=publisher_on)
    for name, ids, best in (("a", [10, 20, 30], 2), ("b", [10, 30], 1),
                            ("c/d", [30], 1)):
        for q in (0, 1, 2):
            pub.publish("%s/%s" % (topic, name), b"%d" % q, qos=q)
            p = c.read_publish()
            assert (p.payload, p.qos) == (b"%d" % q, min(q, best))
            assert sorted(p.props["subscription_identifier"]) == ids
            finish(c, p)


def test_overlapping_filters_offline(node, topic):          # MQTT-3.3.4-2
    leave(node, options_of(node, topic, None))
    pub = node.client(on=1)
    for q in (0, 1, 2):
        pub.publish(topic + "/a", b"%d" % q, qos=q)
    c = durable(node, sid(topic), present=True)
    got = c.read_publishes(2)
    assert [(p.payload, p.qos) for p in got] == [(b"1", 1), (b"2", 2)]
    for p in got:
        assert sorted(p.props["subscription_identifier"]) == [10, 20, 30]
    finish(c, *got)


@pytest.mark.parametrize("on", [0, 1])
def test_no_local_survives(node, topic, on):                # MQTT-3.8.3-3
    c = durable(node, sid(topic))
    c.subscribe(topic, qos=1, no_local=True)
    leave(node, c)
    c = durable(node, sid(topic), on=on, present=True)
    for q in (0, 1, 2):
        c.publish(topic, b"mine", qos=q)
    c.expect_nothing()
    for q in (0, 1):
        node.client().publish(topic, b"not mine", qos=q)
        p = c.read_publish()
        assert p.payload == b"not mine"
        finish(c, p)


def test_retain_as_published_survives(node, topic):         # MQTT-3.3.1-13
    c = durable(node, sid(topic))
    c.subscribe(topic + "/1", qos=1, retain_as_published=True)
    c.subscribe(topic + "/0", qos=1)
    leave(node, c)
    pub = node.client()
    for on in (0, 1):
        for t in "10":
            pub.publish(topic + "/" + t, b"x", qos=1, retain=True)
        c = durable(node, sid(topic), on=on, present=True)
        got = c.read_publishes(2)
        assert [(p.topic[-1], p.retain) for p in got] == [("1", True),
                                                         ("0", False)]
        finish(c, *got)
        leave(node, c)
    for t in "10":
        pub.publish(topic + "/" + t, retain=True)


def test_subscribing_again_replaces(node, topic):           # MQTT-3.8.4-3
    c = durable(node, sid(topic))
    c.subscribe(topic, qos=2, props=1)
    leave(node, c)
    c = durable(node, sid(topic), on=1, present=True)
    c.subscribe(topic, qos=1, props=2)
    leave(node, c)
    node.client().publish(topic, b"x", qos=2)
    c = durable(node, sid(topic), present=True)
    p = c.read_publish()
    assert p.qos == 1 and p.props["subscription_identifier"] == [2]
    finish(c, p)


@needs_own
@pytest.mark.parametrize("qos", [1, 2])
def test_subscribing_again_loses_nothing(make_node, topic, qos):  # 3.8.4-4
    """With more than QoS 0. What listener 1 says waits behind a lot, so its
    store hears of the message first."""
    node = make_node(listeners=2)
    c = durable(node, "c", on=1)
    c.subscribe(topic, qos=0)
    busy = node.client(on=1)
    pub = node.client(on=0)
    pid = node.kill("session_store.0", signal.SIGSTOP)
    for i in range(300):
        busy.subscribe("busy/%d" % i)   # asks for what is retained
    c.send_bytes(wire.subscribe_packet(V5, 99, [(topic, qos)]))
    c.expect_nothing()
    k = pub.send_publish(topic, b"x", qos=2)
    pub.expect_nothing()
    os.kill(pid, signal.SIGCONT)
    pub.wait_ack(wire.PUBREC, k)
    got = c.read_until(lambda p: p.kind == wire.PUBLISH)
    assert got.payload == b"x"
    c.complete(got)
    c.read_until(lambda p: p.kind == wire.SUBACK)
    for q in (0, 2):                    # from now on one of them sends it
        pub.publish(topic, b"y", qos=q)
        p = c.read_until(lambda p: p.payload == b"y")
        assert p.qos == min(q, qos)
        finish(c, p)


@every_version
def test_unsubscribe_is_kept(node, topic, version):         # MQTT-3.10.4-1
    c = durable(node, sid(topic), version)
    for name in "abc":
        c.subscribe(topic + "/" + name, qos=1)
    c.unsubscribe(topic + "/a")
    leave(node, c)
    c = durable(node, sid(topic), version, on=1, present=True)
    assert c.unsubscribe([topic + "/b", topic + "/a"]) in ([], [0, 0x11])
    leave(node, c)
    pub = node.client(on=1)
    for name in "abc":
        pub.publish(topic + "/" + name, name.encode(), qos=1)
    c = durable(node, sid(topic), version, present=True)
    p = c.read_publish()
    assert p.payload == b"c"
    finish(c, p)


def test_unsubscribed_what_is_queued_comes(node, topic):    # MQTT-3.10.4-3
    """What is in flight is finished; what waits may come or not."""
    who = absent(node, topic, qos=2)
    publish_all(node.client(), topic, numbers(3), qos=2)
    c = durable(node, who, present=True)
    got = c.read_publishes(3)
    c.unsubscribe(topic)
    finish(c, *got)
    node.client().publish(topic, b"no more", qos=2)
    c.expect_nothing()


def test_suback_codes(node, topic, own):                    # MQTT-3.8.4-5
    c = durable(node, sid(topic))
    codes = c.subscribe(
        [(topic + "/0", 0), (topic + "/1", 1), (topic + "/2", 2),
         ("$share//x", 1), ("$share/g/" + topic, 1)], expect=False)
    assert codes[:3] == [0, 1, 2] and codes[4] == 1
    assert codes[3] == wire.TOPIC_FILTER_INVALID or not own


def test_suback_beyond_the_quota(make_node, topic):
    node = make_node(listeners=1, options={"mqtt.max_subscriptions": "3"})
    c = durable(node, "many")
    assert c.subscribe(list("abcd"), qos=1, expect=False) == [
        1, 1, 1, wire.QUOTA_EXCEEDED]
    leave(node, c)
    c = durable(node, "many", present=True)
    assert c.subscribe(["a", "e"], qos=2, expect=False) == [
        2, wire.QUOTA_EXCEEDED]
    c.unsubscribe("b")
    assert c.subscribe(["e"], qos=1) == [1]


def test_many_subscriptions(node, topic):
    """They go to the store and come back in more than one frame."""
    n = 3000
    c = durable(node, sid(topic))
    names = ["%s/%d/%s" % (topic, i, "x" * 50) for i in range(n)]
    for at in range(0, n, 500):
        c.subscribe(names[at:at + 500], qos=1)
    leave(node, c)
    c = durable(node, sid(topic), on=1, present=True)
    c.subscribe(topic, qos=0)           # the routes of all are told by then
    pub = node.client()
    for i in (0, 1, 1499, n - 1):
        for q in (0, 1):
            pub.publish(names[i], b"%d" % q, qos=q)
            p = c.read_publish()
            assert (p.topic, p.qos) == (names[i], q)
            finish(c, p)
    for at in range(0, n, 500):
        c.unsubscribe(names[at:at + 500])
    leave(node, c)
    pub.publish(names[7], b"x", qos=1)
    durable(node, sid(topic), present=True).expect_nothing()


# --- The beginning and the end of a session ---------------------------------

@every_version
def test_clean_start_ends_the_session(node, topic, version):  # MQTT-3.1.2-4
    who = absent(node, topic, version, qos=2)
    pub = node.client()
    publish_all(pub, topic, numbers(5), qos=2)
    c = durable(node, who, version, on=1, clean=True, present=False)
    c.expect_nothing()
    pub.publish(topic, b"nobody's", qos=2)
    c.expect_nothing()
    leave(node, c)
    # Clean session 1 of 3.x keeps nothing; 5.0 says that apart.
    c = durable(node, who, version, present=version == V5)
    c.expect_nothing()


def test_clean_start_while_connected(node, topic):          # MQTT-3.1.4-3, -4
    old = durable(node, sid(topic))
    old.subscribe(topic, qos=1)
    new = durable(node, sid(topic), on=1, clean=True, present=False)
    old.expect_disconnect(wire.SESSION_TAKEN_OVER)
    node.client().publish(topic, b"x", qos=1)
    new.expect_nothing()


def test_a_clean_session_ends_a_kept_one(node, topic):      # 3.1.1 3.1.2.4
    for version in (V31, V311):
        who = sid(topic) + "%d" % version
        c = durable(node, who, version)
        c.subscribe(topic, qos=1)
        leave(node, c)
        c = node.client(who, version, clean=True)
        assert not c.connack.session_present
        c.expect_nothing()
        c.disconnect()
        c.expect_closed()
        c = durable(node, who, version, present=False)
        node.client().publish(topic, b"x", qos=1)
        c.expect_nothing()


def test_versions_share_their_sessions(node, topic):
    """What one version of the protocol kept another resumes."""
    who = absent(node, topic, V311)
    pub = node.client()
    for version in (V5, V31, V311, V5):
        pub.publish(topic, b"for %d" % version, qos=1,
                    props={"user_property": ("a", "b")})
        c = durable(node, who, version, present=True)
        p = c.read_publish()
        assert p.payload == b"for %d" % version
        assert ("user_property" in p.props) == (version == V5)
        finish(c, p)
        leave(node, c)


def test_disconnect_overrides_the_expiry(node, topic):      # 3.14.2.2.2
    c = durable(node, sid(topic), expiry=3600)
    c.subscribe(topic, qos=1)
    leave(node, c, session_expiry_interval=0)
    c = durable(node, sid(topic), expiry=3600, present=False)
    c.expect_nothing()
    leave(node, c, session_expiry_interval=1800)
    durable(node, sid(topic), present=True)


def test_disconnect_may_not_raise_from_0(node, topic):      # MQTT-3.1.2-23
    c = durable(node, sid(topic), expiry=3600)
    leave(node, c)
    c = durable(node, sid(topic), expiry=0, present=True)
    c.disconnect(0, {"session_expiry_interval": 1})
    c.expect_disconnect(wire.PROTOCOL_ERROR)


def test_resumed_with_expiry_0_it_ends(node, topic):        # 3.1.2.11.2
    who = absent(node, topic)
    node.client().publish(topic, b"x", qos=1)
    c = durable(node, who, expiry=0, present=True)
    p = c.read_publish()                # a session like any, until it ends
    finish(c, p)
    leave(node, c)
    durable(node, who, present=False)


@needs_own
def test_sessions_expire(make_node, topic):                 # MQTT-3.1.2-23
    """1 s as asked for at CONNECT, or in DISCONNECT; others stay."""
    node = make_node(listeners=2)
    one = durable(node, "one", expiry=1)
    cut = durable(node, "cut", expiry=3600)
    raised = durable(node, "raised", expiry=1, on=1)
    never = durable(node, "never", expiry=0xffffffff)
    here = durable(node, "here", expiry=1)
    for c in (one, cut, raised, never, here):
        c.subscribe(topic, qos=1)
    leave(node, one)
    leave(node, cut, session_expiry_interval=1)
    leave(node, raised, session_expiry_interval=1000)
    leave(node, never)
    node.wait_metric("sessions", lambda v: v == 3)
    for name, kept in (("one", False), ("cut", False), ("raised", True),
                       ("never", True)):
        durable(node, name, present=kept)
    here.expect_nothing()
    # Nobody is told of filters whose sessions are gone.
    assert "session_store.0" in node.tool("mqttc-route", "list")


@needs_own
@pytest.mark.parametrize("shards", [1, 3])
def test_they_expire_while_the_node_is_away(make_node, shards):  # MQTT-4.1.0-2
    """Who comes back too late finds nothing, even as the first one."""
    n = 12
    node = make_node(listeners=2,
                     options={"session_store.processes": str(shards)})
    for i in range(n):
        leave(node, durable(node, "e%d" % i, expiry=1))
    node.close_clients()
    assert node.terminate() == 0
    node.proc = None
    time.sleep(1.1)                     # the sessions must grow old
    node.start()
    cs = [node.raw(on=i % 2) for i in range(n)]
    for i, c in enumerate(cs):
        c.send_bytes(wire.connect_packet(
            client_id="e%d" % i, clean=False,
            props={"session_expiry_interval": 60}))
    assert not any(c.expect(wire.CONNACK).session_present for c in cs)


@needs_own
def test_the_expiry_has_a_maximum(make_node, topic):        # 3.2.2.3.2
    node = make_node(listeners=1, options={"mqtt.session_expiry_max": "1"})
    old = durable(node, "old", V311)
    c = durable(node, "new", expiry=1000)
    assert c.connack.props["session_expiry_interval"] == 1
    for d in (old, c):
        d.subscribe(topic, qos=1)
        leave(node, d)
    node.wait_metric("sessions", lambda v: v == 0)
    durable(node, "old", V311, present=False)
    durable(node, "new", present=False)


@needs_own
def test_sessions_have_a_maximum(make_node, topic):
    node = make_node(listeners=1, options={"session.max": "2"})
    for name in "ab":
        durable(node, name).subscribe(topic, qos=1)
    node.raw().refused(wire.QUOTA_EXCEEDED, client_id="c", clean=False,
                       props={"session_expiry_interval": 10})
    node.raw(V311).refused(client_id="c", clean=False, v3=(3,))
    node.client("c").expect_nothing()       # nothing to keep
    leave(node, durable(node, "a", present=True), session_expiry_interval=0)
    durable(node, "d", present=False)


@needs_own
@pytest.mark.parametrize("version", [V311, V5])
def test_a_refused_connect_leaves_nothing(make_node, topic, version):
    """Its store is stopped and hears of it later: no will comes
    [MQTT-3.1.2-7], and no session is there [MQTT-3.2.2-6]."""
    node = make_node(listeners=2, options={"session.attach_timeout": "300ms"})
    sub = node.client(on=1)
    sub.subscribe(topic)
    props = {"session_expiry_interval": 60} if version == V5 else None
    pid = node.kill("session_store.0", signal.SIGSTOP)
    c = node.raw(version)
    c.send_bytes(wire.connect_packet(
        version, "c", clean=False, props=props,
        will={"topic": topic, "payload": b"will"}))
    p = c.expect(wire.CONNACK)
    assert p.reason == (0x88 if version == V5 else 3)
    assert not p.session_present
    c.expect_closed()
    os.kill(pid, signal.SIGCONT)
    durable(node, "c", version, present=False)
    node.client().publish(topic, b"end")
    assert sub.read_publish().payload == b"end"


@needs_own
def test_a_session_is_waited_for(make_node, topic):         # MQTT-3.2.2-3
    """Also by who wants it to end with the connection."""
    node = make_node(listeners=1, options={"session.attach_timeout": "1m"})
    who = absent(node, topic)
    node.client().publish(topic, b"x", qos=1)
    pid = node.kill("session_store.0", signal.SIGSTOP)
    c = node.raw()
    c.send_bytes(wire.connect_packet(client_id=who, clean=False))
    # Who begins clean is served without a store, when it has waited as long.
    clean = node.client("clean", will={"topic": "w", "payload": b"x"})
    os.kill(pid, signal.SIGCONT)
    assert c.expect(wire.CONNACK).session_present
    p = c.read_publish()
    assert p.payload == b"x"
    finish(c, p)
    clean.fence()
    c.on = 0
    leave(node, c)
    durable(node, who, present=False)


# --- In flight --------------------------------------------------------------

@every_version
@every_qos
def test_unacknowledged_is_sent_again(node, topic, version, qos):  # 4.4.0-1
    who = absent(node, topic, version, qos)
    publish_all(node.client(on=1), topic, numbers(10), qos)
    c = durable(node, who, version)
    first = c.read_publishes(10)
    assert not any(p.dup for p in first)
    assert len({p.pid for p in first}) == 10
    leave(node, c)
    for on in (1, 0):
        c = durable(node, who, version, on=on, present=True)
        again = c.read_publishes(10)
        assert all(p.dup for p in again)                    # MQTT-3.3.1-1
        assert ([(p.pid, p.payload, p.qos) for p in again]
                == [(p.pid, p.payload, p.qos) for p in first])
        c.expect_nothing()
        leave(node, c)
    c = durable(node, who, version, present=True)
    finish(c, *c.read_publishes(10))


@every_version
def test_pubrel_is_sent_again(node, topic, version):        # MQTT-4.4.0-1
    who = absent(node, topic, version, qos=2)
    publish_all(node.client(), topic, numbers(4), qos=2)
    c = durable(node, who, version)
    a, b, d, e = c.read_publishes(4)
    c.pubrec(a.pid)
    c.pubrec(d.pid)
    c.wait_ack(wire.PUBREL, a.pid)
    c.wait_ack(wire.PUBREL, d.pid)
    c.fence()
    leave(node, c)
    for on in (1, 0):
        c = durable(node, who, version, on=on, present=True)
        got = [c.read_packet() for _ in range(4)]
        assert [(p.kind, p.pid) for p in got] == [
            (wire.PUBREL, a.pid), (wire.PUBLISH, b.pid),
            (wire.PUBREL, d.pid), (wire.PUBLISH, e.pid)]
        assert got[1].dup and got[3].dup
        c.expect_nothing()
        leave(node, c)
    c = durable(node, who, version, present=True)
    for p in [c.read_packet() for _ in range(4)]:
        if p.kind == wire.PUBREL:
            c.pubcomp(p.pid)
        else:
            c.pubrec(p.pid)
    for p in (b, e):
        c.wait_ack(wire.PUBREL, p.pid)
        c.pubcomp(p.pid)
    c.expect_nothing()
    leave(node, c)
    durable(node, who, version, present=True).expect_nothing()


def test_pubrec_with_an_error_ends_it(node, topic):         # MQTT-4.3.3-4
    who = absent(node, topic, qos=2)
    publish_all(node.client(), topic, numbers(2), qos=2)
    c = durable(node, who)
    a, b = c.read_publishes(2)
    c.pubrec(a.pid, wire.UNSPECIFIED_ERROR)
    c.expect_nothing()
    leave(node, c)
    c = durable(node, who, on=1, present=True)
    p = c.read_publish()
    assert p.pid == b.pid and p.dup
    finish(c, p)


@every_version
@every_qos
def test_acknowledged_out_of_order(node, topic, version, qos):
    """What remains comes in the order it was sent, with its identifiers."""
    who = absent(node, topic, version, qos)
    publish_all(node.client(), topic, numbers(20), qos)
    c = durable(node, who, version)
    got = c.read_publishes(20)
    for i in (19, 3, 0, 11, 7, 1):
        c.complete(got[i])
    leave(node, c)
    c = durable(node, who, version, on=1, present=True)
    rest = [p for i, p in enumerate(got) if i not in (19, 3, 0, 11, 7, 1)]
    again = c.read_publishes(len(rest))
    assert [p.pid for p in again] == [p.pid for p in rest]
    assert payloads(again) == payloads(rest)
    finish(c, *reversed(again))
    # Whatever comes now has another identifier.
    node.client().publish(topic, b"new", qos=qos)
    p = c.read_publish()
    assert p.payload == b"new" and not p.dup
    finish(c, p)


@every_qos
def test_packet_identifiers_in_flight_differ(node, topic, qos):  # 2.2.1-4
    c = durable(node, sid(topic))
    c.subscribe(topic, qos=qos)
    pub = node.client()
    held = {}
    for i in range(60):
        pub.publish(topic, b"%d" % i, qos=qos)
        p = c.read_publish()
        assert p.pid not in held
        held[p.pid] = p
        if i % 3 == 2:                  # the middle one of three goes
            c.complete(held.pop(sorted(held)[len(held) // 2]))
    assert len(held) == 40
    leave(node, c)
    c = durable(node, sid(topic), on=1, present=True)
    again = c.read_publishes(40)
    assert {p.pid: p.payload for p in again} == {
        k: p.payload for k, p in held.items()}
    pub.publish(topic, b"new", qos=qos)
    p = c.read_publish()
    assert p.pid not in held
    finish(c, p, *again)


@pytest.mark.parametrize("window", [1, 2, 10])
@every_qos
def test_receive_maximum_on_resume(node, topic, window, qos):  # MQTT-3.3.4-7
    who = absent(node, topic, qos=qos)
    publish_all(node.client(), topic, numbers(25), qos)
    c = durable(node, who, present=True, props={"receive_maximum": window})
    got = []
    while len(got) < 25:
        k = min(window, 25 - len(got))
        part = c.read_publishes(k)
        c.expect_nothing()                      # the window is full
        got += part
        c.complete(*part)
    assert payloads(got) == numbers(25)
    c.expect_nothing()


def test_receive_maximum_counts_pubrel(node, topic):        # 4.9
    """QoS 2 leaves the window with its PUBCOMP, not before."""
    who = absent(node, topic, qos=2)
    publish_all(node.client(), topic, numbers(3), qos=2)
    c = durable(node, who, present=True, props={"receive_maximum": 1})
    for i in range(3):
        p = c.read_publish()
        assert p.payload == b"%d" % i
        c.pubrec(p.pid)
        c.expect(wire.PUBREL, p.pid)
        c.expect_nothing()
        if i == 1:                      # half of it on another connection
            leave(node, c)
            c = durable(node, who, on=1, present=True,
                        props={"receive_maximum": 1})
            c.expect(wire.PUBREL, p.pid)
            c.expect_nothing()
        c.pubcomp(p.pid)
    c.expect_nothing()


def test_receive_maximum_shrinks(node, topic):              # MQTT-3.3.4-7
    """20 in flight, and the next connection wants 3 at a time."""
    who = absent(node, topic)
    publish_all(node.client(), topic, numbers(20))
    c = durable(node, who, present=True)
    first = c.read_publishes(20)
    leave(node, c)
    c = durable(node, who, on=1, present=True, props={"receive_maximum": 3})
    got = []
    while len(got) < 20:
        part = c.read_publishes(min(3, 20 - len(got)))
        c.expect_nothing()
        got += part
        c.complete(*part)
    assert [(p.pid, p.payload) for p in got] == [
        (p.pid, p.payload) for p in first]
    c.expect_nothing()


def test_receive_maximum_out_of_order(node, topic):         # 4.9
    """The first stays unacknowledged, and the others make room."""
    who = absent(node, topic)
    publish_all(node.client(), topic, numbers(30))
    c = durable(node, who, present=True, props={"receive_maximum": 5})
    first, *rest = c.read_publishes(5)
    got = [first]
    while rest:
        got += rest
        c.complete(*rest)
        rest = [p for p in c.fence() if p.kind == wire.PUBLISH]
        if not rest and len(got) < 30:
            rest = [c.read_publish()]
    assert payloads(got) == numbers(30)
    finish(c, first)


@every_qos
def test_too_large_counts_as_delivered(node, topic, qos):   # MQTT-3.1.2-25
    who = absent(node, topic, qos=qos)
    publish_all(node.client(), topic, [b"a", b"B" * 500, b"c", b"D" * 500],
                qos)
    c = durable(node, who, present=True, props={"maximum_packet_size": 200})
    got = c.read_publishes(2)
    assert payloads(got) == [b"a", b"c"]
    finish(c, *got)
    leave(node, c)
    durable(node, who, present=True).expect_nothing()


@pytest.mark.parametrize("size", [65535, 65536, 70000, 400000])
@every_qos
def test_large_payloads(node, topic, size, qos):
    who = absent(node, topic, qos=qos)
    pub = node.client(on=1)
    bodies = [bytes([65 + i]) * size for i in range(3)]
    publish_all(pub, topic, [bodies[0], b"small", bodies[1]], qos)
    c = durable(node, who, present=True)
    got = c.read_publishes(3)
    assert payloads(got) == [bodies[0], b"small", bodies[1]]
    leave(node, c)
    c = durable(node, who, on=1, present=True)
    again = c.read_publishes(3)
    assert payloads(again) == payloads(got) and all(p.dup for p in again)
    c.complete(*again)
    pub.publish(topic, bodies[2], qos=qos)      # while it is there
    p = c.read_publish()
    assert p.payload == bodies[2]
    finish(c, p)


def test_more_bytes_than_are_on_their_way(node, topic):
    """20 MB wait; the client reads them as fast as it acknowledges."""
    who = absent(node, topic)
    body = bytes(range(256)) * 4090
    for i in range(20):
        node.client().publish(topic, b"%02d" % i + body, qos=1)
        node.close_clients()
    c = durable(node, who, present=True, rcvbuf=65536)
    for i in range(20):
        p = c.read_publish()
        assert p.payload[:2] == b"%02d" % i and p.payload[2:] == body
        c.complete(p)
    c.expect_nothing()


# --- Inbound QoS 2 ----------------------------------------------------------

@every_version
def test_inbound_qos_2_is_remembered(node, topic, version):  # MQTT-4.3.3-10
    """The duplicate comes through another listener and is not published."""
    sub = node.client(on=1)
    sub.subscribe(topic, qos=2)
    c = durable(node, sid(topic), version)
    c.send_publish(topic, b"once", qos=2, pid=77)
    c.expect(wire.PUBREC, 77)
    p = sub.read_publish()
    assert p.payload == b"once"
    finish(sub, p)
    leave(node, c)
    for on in (1, 0):
        c = durable(node, sid(topic), version, on=on, present=True)
        c.send_publish(topic, b"once", qos=2, pid=77, dup=True)
        c.expect(wire.PUBREC, 77)
        leave(node, c)
    c = durable(node, sid(topic), version, on=1, present=True)
    sub.expect_nothing()
    c.pubrel(77)
    c.expect(wire.PUBCOMP, 77)
    c.send_publish(topic, b"another", qos=2, pid=77)
    c.expect(wire.PUBREC, 77)
    p = sub.read_publish()
    assert p.payload == b"another"
    finish(sub, p)


def test_pubrel_after_a_reconnect(node, topic):             # MQTT-4.3.3-11
    sub = node.client()
    sub.subscribe(topic, qos=2)
    c = durable(node, sid(topic))
    c.send_publish(topic, b"once", qos=2, pid=5)
    c.expect(wire.PUBREC, 5)
    leave(node, c)
    c = durable(node, sid(topic), on=1, present=True)
    c.pubrel(5)
    assert c.expect(wire.PUBCOMP, 5).reason == 0
    leave(node, c)
    c = durable(node, sid(topic), present=True)
    c.pubrel(5)                         # again: it is released already
    assert c.expect(wire.PUBCOMP, 5).reason == wire.PACKET_ID_NOT_FOUND
    p = sub.read_publish()
    finish(sub, p)


def test_inbound_qos_2_cut_at_once(node, topic):            # MQTT-4.3.3-10
    """Nobody knows whether the first one arrived; there is one of each."""
    sub = node.client(on=1)
    sub.subscribe(topic, qos=2)
    for i in range(20):
        c = durable(node, sid(topic), on=i % 2)
        c.send_publish(topic, b"%d" % i, qos=2, pid=9)
        c.reset()
        c = durable(node, sid(topic), on=(i // 2) % 2, present=True)
        c.send_publish(topic, b"%d" % i, qos=2, pid=9, dup=True)
        c.expect(wire.PUBREC, 9)
        c.pubrel(9)
        c.expect(wire.PUBCOMP, 9)
        c.close()
        p = sub.read_publish()
        assert p.payload == b"%d" % i
        finish(sub, p)


def test_clean_start_forgets_inbound_qos_2(node, topic):    # 3.1.2.4
    sub = node.client()
    sub.subscribe(topic, qos=2)
    c = durable(node, sid(topic))
    c.send_publish(topic, b"1", qos=2, pid=3)
    c.expect(wire.PUBREC, 3)
    leave(node, c)
    c = durable(node, sid(topic), clean=True, present=False)
    c.send_publish(topic, b"2", qos=2, pid=3)
    c.expect(wire.PUBREC, 3)
    got = sub.read_publishes(2)
    assert payloads(got) == [b"1", b"2"]


def test_receive_maximum_begins_anew(node, topic, own):     # 4.9
    """What is open from the connection before does not count, whether the
    client says it again, releases it, or has forgotten it."""
    c = durable(node, sid(topic))
    most = c.connack.props.get("receive_maximum", 65535)
    if not own:
        pytest.skip("a number of ours")
    for i in range(most):
        c.send_publish(topic, b"x", qos=2, pid=i + 1)
        c.expect(wire.PUBREC, i + 1)
    leave(node, c)
    c = durable(node, sid(topic), on=1, present=True)
    c.send_publish(topic, b"x", qos=2, pid=1, dup=True)
    c.expect(wire.PUBREC, 1)
    for i in range(most, 2 * most):
        c.send_publish(topic, b"x", qos=2, pid=i + 1)
        c.expect(wire.PUBREC, i + 1)
    for i in range(most + 1):
        c.pubrel(i + 1)
        assert c.expect(wire.PUBCOMP, i + 1).reason == 0
    c.expect_nothing()


# --- Expiry and limits of what waits ----------------------------------------

@needs_own
def test_messages_expire(make_node, topic):                 # MQTT-3.3.2-5, -6
    """Retained ones of the same age tell when it is time."""
    node = make_node(listeners=1)
    who = absent(node, topic)
    pub = node.client()
    for i, life in enumerate((1, 100, 1, None, 0xffffffff)):
        pub.publish(topic, b"%d" % i, qos=1, props=None if life is None else
                    {"message_expiry_interval": life})
    pub.publish("clock", b"x", qos=1, retain=True,
                props={"message_expiry_interval": 1})
    wait_expired(node, "clock")
    c = durable(node, who, present=True)
    got = c.read_publishes(3)
    assert payloads(got) == [b"1", b"3", b"4"]
    assert 50 < got[0].props["message_expiry_interval"] < 100
    assert "message_expiry_interval" not in got[1].props
    assert got[2].props["message_expiry_interval"] < 0xffffffff
    finish(c, *got)


def wait_expired(node, name):
    """Until that retained message is gone."""
    node.wait_metric("retained_messages", lambda v: v == 0)
    c = node.client()
    c.subscribe(name)
    c.expect_nothing()
    c.close()


@needs_own
def test_a_sent_message_does_not_expire(make_node, topic):  # 4.4
    """In flight it is sent again, however old: QoS 2 must be finished."""
    node = make_node(listeners=1)
    who = absent(node, topic, qos=2)
    pub = node.client()
    pub.publish(topic, b"x", qos=2, props={"message_expiry_interval": 1})
    c = durable(node, who, present=True)
    p = c.read_publish()
    leave(node, c)
    pub.publish("clock", b"x", qos=1, retain=True,
                props={"message_expiry_interval": 1})
    wait_expired(node, "clock")
    c = durable(node, who, present=True)
    q = c.read_publish()
    assert (q.pid, q.payload, q.dup) == (p.pid, p.payload, True)
    finish(c, q)


@every_qos
@needs_own
def test_a_full_queue_drops_the_oldest(make_node, topic, qos):
    node = make_node(listeners=2,
                     options={"mqtt.max_offline_queue_len": "10"})
    who = absent(node, topic, qos=qos)
    pub = node.client(on=1)
    publish_all(pub, topic, numbers(25), qos)
    c = durable(node, who, present=True, props={"receive_maximum": 4})
    got = c.read_publishes(4)
    assert payloads(got) == numbers(15, 19)
    leave(node, c)
    # Those 4 are in flight: they stay; of the others 10 wait.
    publish_all(pub, topic, numbers(25, 40), qos)
    c = durable(node, who, present=True)
    again = c.read_publishes(14)
    assert payloads(again) == numbers(15, 19) + numbers(30, 40)
    assert [p.pid for p in again[:4]] == [p.pid for p in got]
    assert [p.dup for p in again] == 4 * [True] + 10 * [False]
    finish(c, *again)
    assert node.metric("dropped_offline_queue_full_total") == 26


@needs_own
def test_all_queues_together_are_bounded(make_node, topic):
    """Who gets more when the store is full gives up as much of its own."""
    node = make_node(listeners=1, options={"session.max_messages": "30"})
    who = [absent(node, topic + "/" + name) for name in "abc"]
    pub = node.client()
    for name in "abc":
        publish_all(pub, topic + "/" + name, numbers(20))
    for w, kept in zip(who, (numbers(20), numbers(10, 20), [])):
        c = durable(node, w, present=True)
        assert payloads(c.read_publishes(len(kept))) == kept
        c.expect_nothing()
    assert node.metric("dropped_offline_queue_full_total") == 30


@needs_own
def test_all_queues_together_are_bounded_in_bytes(make_node, topic):
    node = make_node(listeners=1, options={"session.max_bytes": "1MB"})
    who = [absent(node, topic + "/" + name) for name in "ab"]
    pub = node.client()
    for name in "ab":
        publish_all(pub, topic + "/" + name,
                    [b"%02d" % i + b"x" * 100000 for i in range(8)])
    for w, kept in zip(who, (list(range(8)), [6, 7])):
        c = durable(node, w, present=True)
        assert [int(p.payload[:2]) for p in
                c.read_publishes(len(kept))] == kept
        c.expect_nothing()


@needs_own
def test_a_queue_is_bounded_in_bytes(make_node, topic):
    node = make_node(listeners=1,
                     options={"mqtt.max_offline_queue_bytes": "64KB"})
    who = absent(node, topic)
    publish_all(node.client(), topic, [b"%02d" % i + b"x" * 10000
                                       for i in range(20)])
    c = durable(node, who, present=True)
    got = c.read_publish()
    first = int(got.payload[:2])
    assert 13 <= first <= 15
    rest = c.read_publishes(19 - first)
    assert [int(p.payload[:2]) for p in rest] == list(range(first + 1, 20))
    finish(c, got, *rest)


def test_packet_identifiers_wrap(node, topic):              # 2.2.1
    """66000 messages, each identifier used once before any comes again, one
    unacknowledged for a long time."""
    c = durable(node, sid(topic))
    c.subscribe(topic, qos=1)
    pub = node.client(version=V311)
    seen, n = [], 0
    acks = bytearray()
    for at in range(0, 66000, 500):
        pub.send_bytes(b"".join(
            wire.publish_packet(V311, topic, b"%d" % i, 1, i % 500 + 1)
            for i in range(at, at + 500)))
        for p in c.read_publishes(500):
            assert int(p.payload) == n
            n += 1
            seen.append(p.pid)
            if n != 60000:
                acks += wire.ack_packet(V5, wire.PUBACK, p.pid)
            else:
                late = p
        c.send_bytes(bytes(acks))
        acks.clear()
        for _ in range(500):
            pub.expect(wire.PUBACK)
    assert seen[0] == 1 and seen[65535:] == seen[:66000 - 65535]
    assert len(set(seen[:65535])) == 65535
    leave(node, c)
    c = durable(node, sid(topic), on=1, present=True)
    p = c.read_publish()
    assert (p.pid, p.payload) == (late.pid, late.payload)
    finish(c, p)


@needs_own
@pytest.mark.parametrize("here", [False, True])
@pytest.mark.parametrize("way", ["straight", "retained", "QoS 2"])
def test_messages_age_on_their_way(make_node, topic, way, here):
    """To a store that is stopped, by whatever way."""      # MQTT-3.3.2-5, -6
    node = make_node(listeners=2)
    sub = durable(node, "sub", on=1)
    sub.subscribe(topic, qos=2)
    if not here:
        leave(node, sub)
    pub = durable(node, "pub", V5)
    pid = node.kill("session_store.0", signal.SIGSTOP)
    for body, life in ((b"aged", 100), (b"expires", 1), (b"for ever", None)):
        pub.send_publish(
            topic, body, 2 if way == "QoS 2" else 1, retain=way == "retained",
            props=None if life is None else {"message_expiry_interval": life})
    pub.expect_nothing()
    time.sleep(1.2)                     # the messages must grow old
    os.kill(pid, signal.SIGCONT)
    for _ in range(3):
        assert pub.read_packet().kind in (wire.PUBACK, wire.PUBREC)
    if not here:
        sub = durable(node, "sub", on=1, present=True)
    got = sub.read_publishes(2)
    assert payloads(got) == [b"aged", b"for ever"]
    assert 50 < got[0].props["message_expiry_interval"] <= 99
    finish(sub, *got)


@needs_own
@every_qos
def test_messages_age_at_their_listener(make_node, topic, qos):
    """It is stopped when the store hands them out."""      # MQTT-3.3.2-5, -6
    node = make_node(listeners=2)
    sub = durable(node, "sub", on=1, props={"receive_maximum": 2})
    sub.subscribe(topic, qos=qos)
    pub = node.client(on=0)
    pid = node.kill("listener.1", signal.SIGSTOP)
    for body, life in ((b"aged", 100), (b"expires", 1), (b"for ever", None)):
        pub.send_publish(topic, body, qos, props=None if life is None else
                         {"message_expiry_interval": life})
    pub.expect_nothing()
    node.wait_metric("store_records_total", lambda v: v >= 3)
    time.sleep(1.2)                     # the messages must grow old
    os.kill(pid, signal.SIGCONT)
    got = sub.read_publishes(2)
    assert payloads(got) == [b"aged", b"for ever"]
    assert 50 < got[0].props["message_expiry_interval"] <= 99
    finish(sub, *got)


# --- One holder -------------------------------------------------------------

@every_version
@pytest.mark.parametrize("on", [0, 1])
def test_takeover(node, topic, version, on):                # MQTT-3.1.4-3
    """What is in flight goes on with the new connection."""
    old = durable(node, sid(topic), version)
    old.subscribe(topic, qos=2)
    pub = node.client(on=1)
    publish_all(pub, topic, numbers(6), qos=2)
    got = old.read_publishes(6)
    old.complete(*got[:2])
    old.pubrec(got[2].pid)
    old.wait_ack(wire.PUBREL, got[2].pid)
    new = durable(node, sid(topic), version, on=on, present=True)
    old.expect_disconnect(wire.SESSION_TAKEN_OVER)
    packets = [new.read_packet() for _ in range(4)]
    assert [(p.kind, p.pid) for p in packets] == [
        (wire.PUBREL, got[2].pid)] + [(wire.PUBLISH, p.pid) for p in got[3:]]
    new.pubcomp(got[2].pid)
    publish_all(pub, topic, numbers(6, 8), qos=2)
    rest = new.read_publishes(2)
    assert payloads(rest) == numbers(6, 8)
    finish(new, *packets[1:], *rest)


@every_qos
def test_takeovers_under_load(node, topic, qos):
    """From listener to listener while messages come: QoS 1 all of them, in
    order but for what comes again, QoS 2 each once."""
    n = 600
    r = Receiver()
    r.serve(durable(node, sid(topic)))
    r.c.subscribe(topic, qos=qos)
    pub = node.client(on=1, version=V311)
    failed = []

    def publish():
        try:
            for at in range(0, n, 50):
                publish_window(pub, topic, range(at, at + 50), qos)
        except BaseException as e:
            failed.append(e)

    t = threading.Thread(target=publish)
    t.start()
    for i in range(1, 9):
        mark = n * i // 10
        r.until(lambda r: len(r.got) >= mark)
        old = r.c
        new = durable(node, sid(topic), on=i % 2, present=True)
        r.drain()
        old.close()
        r.serve(new)
    last = b"%d" % (n - 1)
    r.until(lambda r: last in r.got and not r.received)
    t.join()
    assert not failed, failed
    if qos == 2:
        assert r.got == numbers(n)
    else:
        once = list(dict.fromkeys(r.got))
        assert once == numbers(n)


def publish_window(pub, topic, which, qos):
    """Several at once, each to the end of its flow."""
    ids = [i % 65535 + 1 for i in which]
    pub.send_bytes(b"".join(
        wire.publish_packet(pub.version, topic, b"%d" % i, qos, k)
        for i, k in zip(which, ids)))
    if qos == 1:
        for k in ids:
            pub.wait_ack(wire.PUBACK, k)
        return
    for k in ids:
        pub.wait_ack(wire.PUBREC, k)
        pub.pubrel(k)
    for k in ids:
        pub.wait_ack(wire.PUBCOMP, k)


@pytest.mark.parametrize("version", [V311, V5])
def test_storm_of_one_client_id(node, topic, version):      # MQTT-3.1.4-3
    """A hundred CONNECTs at once leave one, and its session is whole."""
    who = absent(node, topic, version, qos=2)
    publish_all(node.client(), topic, numbers(10), qos=2)
    cs = [node.raw(version, on=i % 2) for i in range(100)]
    props = {"session_expiry_interval": 3600} if version == V5 else None
    for c in cs:
        c.send_bytes(wire.connect_packet(version, who, clean=False,
                                         props=props))
    for c in cs:
        p = c.expect(wire.CONNACK)
        assert p.reason in (0, 3 if version == V311 else 0x88)
        assert p.session_present == (p.reason == 0)
    alive = []
    for c in cs:
        try:
            c.seen = c.fence()
            alive.append(c)
        except wire.Closed:
            pass
    assert len(alive) == 1
    c = alive[0]
    got = [p for p in c.seen if p.kind == wire.PUBLISH]
    got += c.read_publishes(10 - len(got))
    assert payloads(got) == numbers(10)
    node.client().publish(topic, b"more", qos=2)
    p = c.read_publish()
    assert p.payload == b"more"
    finish(c, p, *got)


# --- Shared subscriptions ---------------------------------------------------

def test_a_durable_member(node, topic):                     # 4.8.2
    """Connected it gets its part; away, the others get all."""
    group = "$share/g/" + topic
    a = durable(node, sid(topic))
    a.subscribe(group, qos=1)
    b = node.client(on=1)
    b.subscribe(group, qos=1)
    pub = node.client()
    publish_all(pub, topic, numbers(40))
    got_a, got_b = [], []
    for _ in range(1000):
        got_a += a.fence()
        got_b += b.fence()
        if len(got_a) + len(got_b) >= 40:
            break
    assert sorted(payloads(got_a + got_b)) == sorted(numbers(40))
    assert got_a and got_b
    a.complete(*got_a)
    b.complete(*got_b)
    leave(node, a)
    publish_all(pub, topic, numbers(20))
    got = b.read_publishes(20)
    assert payloads(got) == numbers(20)
    finish(b, *got)
    a = durable(node, sid(topic), on=1, present=True)
    a.expect_nothing()
    b.disconnect()
    b.expect_closed()
    publish_all(pub, topic, numbers(5))         # it is a member still
    got = a.read_publishes(5)
    assert payloads(got) == numbers(5)
    finish(a, *got)


# --- Processes that die, nodes that start again -----------------------------

def restart(node):
    node.close_clients()
    assert node.terminate() == 0
    node.proc = None
    node.start()


def kill_store(node, wait=True, name="session_store.0"):
    """When it is there; the one killed before may still be in the status."""
    pid = node.wait_ready(name, not_pid=getattr(node, "killed", None))["pid"]
    node.killed = pid
    node.expected_gone.add(pid)
    os.kill(pid, signal.SIGKILL)
    if wait:
        node.wait_ready(name, not_pid=pid)
    return pid


@pytest.fixture
def mortal(make_node):
    """A node whose processes the test kills; each anew, for the supervisor
    is slower to start what dies often."""
    return make_node(listeners=2)


@every_qos
def test_the_store_is_killed_while_offline(mortal, topic, qos):
    node = mortal
    who = absent(node, topic, qos=qos)
    pub = node.client(on=1)
    publish_all(pub, topic, numbers(30), qos)
    kill_store(node, wait=False)
    c = durable(node, who, on=1, present=True)
    got = c.read_publishes(30)
    assert payloads(got) == numbers(30)
    assert not any(p.dup for p in got)
    finish(c, *got)
    kill_store(node, wait=False)
    leave(node, c)
    c = durable(node, who, present=True)
    c.expect_nothing()


@every_qos
def test_the_store_is_killed_while_connected(mortal, topic, qos):
    """The connection stays; what is published meanwhile comes, once."""
    node = mortal
    c = durable(node, sid(topic))
    c.subscribe(topic, qos=qos)
    pub = node.client(on=1, version=V311)
    for i in range(3):
        publish_window(pub, topic, range(20 * i, 20 * i + 10), qos)
        kill_store(node, wait=False)
        publish_window(pub, topic, range(20 * i + 10, 20 * i + 20), qos)
        got = c.read_publishes(20)
        assert payloads(got) == numbers(20 * i, 20 * i + 20)
        c.complete(*got)
    c.expect_nothing()
    leave(node, c)
    durable(node, sid(topic), present=True).expect_nothing()


@every_qos
def test_the_store_is_killed_with_messages_in_flight(mortal, topic, qos):
    """Unanswered, half answered: nothing comes twice on that connection."""
    node = mortal
    who = absent(node, topic, qos=qos)
    pub = node.client()
    publish_all(pub, topic, numbers(10), qos)
    c = durable(node, who, present=True, props={"receive_maximum": 8})
    got = c.read_publishes(8)
    c.complete(got[1])
    if qos == 2:
        c.pubrec(got[3].pid)
        c.wait_ack(wire.PUBREL, got[3].pid)
    more = c.read_publish()                     # a place was free
    assert more.payload == b"8"
    kill_store(node)
    c.expect_nothing()
    if qos == 2:
        c.pubcomp(got[3].pid)
    else:
        c.complete(got[3])
    last = c.read_publish()
    assert last.payload == b"9"
    assert last.pid not in {p.pid for p in got}
    leave(node, c)
    c = durable(node, who, on=1, present=True)
    again = c.read_publishes(8)
    assert [(p.pid, p.payload) for p in again] == [
        (p.pid, p.payload)
        for p in got[:1] + got[2:3] + got[4:] + [more, last]]
    assert all(p.dup for p in again)
    finish(c, *again)


@every_qos
def test_the_store_is_killed_as_it_hands_out(mortal, topic, qos):
    """It has not acknowledged the CONNECT yet, and hears of it again: the
    connection goes on, and nothing comes twice on it [MQTT-4.4.0-1]."""
    node = mortal
    for i in range(3):
        who = absent(node, topic + "/%d" % i, qos=qos)
        node.client(on=1).publish(topic + "/%d" % i, b"x", qos=qos)
        pid = node.wait_ready("session_store.0", getattr(node, "killed", None))
        node.killed = pid = pid["pid"]
        node.expected_gone.add(pid)
        c = durable(node, who, present=True)
        p = c.read_publish()
        os.kill(pid, signal.SIGKILL)
        node.wait_ready("session_store.0", not_pid=pid)
        settled(node)
        finish(c, p)


@every_qos
def test_the_store_is_killed_before_it_was_sent(mortal, topic, qos):
    """What waited behind the window comes for the first time: without DUP
    [MQTT-3.3.1-3], and not at all if it has expired [MQTT-3.3.2-5]."""
    node = mortal
    c = durable(node, sid(topic), props={"receive_maximum": 1})
    c.subscribe(topic, qos=qos)
    pub = node.client()
    pub.publish(topic, b"0", qos=qos)
    pub.publish(topic, b"1", qos=qos, props={"message_expiry_interval": 1})
    publish_all(pub, topic, numbers(2, 5), qos)
    first = c.read_publish()
    kill_store(node)
    c.expect_nothing()
    time.sleep(1.1)                     # the message must grow old
    c.complete(first)
    p = c.read_publish()
    assert (p.payload, p.dup) == (b"2", False)
    leave(node, c)
    c = durable(node, sid(topic), on=1, present=True)
    got = c.read_publishes(3)
    assert [(p.payload, p.dup) for p in got] == [
        (b"2", True), (b"3", False), (b"4", False)]
    finish(c, *got)


def test_the_store_is_killed_after_suback(mortal, topic):
    node = mortal
    c = durable(node, sid(topic))
    for i in range(3):
        c.subscribe("%s/%d" % (topic, i), qos=1)
        kill_store(node, wait=False)
    c.unsubscribe(topic + "/1")
    kill_store(node, wait=False)
    leave(node, c)
    pub = node.client()
    for i in range(3):
        pub.publish("%s/%d" % (topic, i), b"%d" % i, qos=1)
    c = durable(node, sid(topic), on=1, present=True)
    got = c.read_publishes(2)
    assert payloads(got) == [b"0", b"2"]
    finish(c, *got)


def test_the_store_is_killed_between_publish_and_pubrel(mortal, topic):
    """Inbound QoS 2: the identifier is remembered."""
    node = mortal
    sub = node.client(on=1)
    sub.subscribe(topic, qos=2)
    c = durable(node, sid(topic))
    c.send_publish(topic, b"once", qos=2, pid=4)
    c.expect(wire.PUBREC, 4)
    finish(sub, sub.read_publish())
    kill_store(node, wait=False)
    leave(node, c)
    c = durable(node, sid(topic), on=1, present=True)
    c.send_publish(topic, b"once", qos=2, pid=4, dup=True)
    c.expect(wire.PUBREC, 4)
    c.pubrel(4)
    c.expect(wire.PUBCOMP, 4)
    sub.expect_nothing()


@every_qos
def test_the_store_is_killed_under_load(mortal, topic, qos):
    """Again and again while a publisher and a subscriber are at work: what
    was acknowledged comes, in order, and on one connection each once."""
    node = mortal
    n = 1500
    r = Receiver()
    r.serve(durable(node, sid(topic), on=1))
    r.c.subscribe(topic, qos=qos)
    pub = node.client(version=V311)
    failed = []

    def publish():
        try:
            for at in range(0, n, 50):
                publish_window(pub, topic, range(at, at + 50), qos)
        except BaseException as e:
            failed.append(e)

    t = threading.Thread(target=publish)
    t.start()
    for i in range(1, 4):
        r.until(lambda r: len(r.got) >= n * i // 4)
        kill_store(node, wait=False)
    r.until(lambda r: len(r.got) >= n and not r.received)
    t.join()
    assert not failed, failed
    assert r.got == numbers(n)
    r.c.expect_nothing()


@every_qos
def test_the_listener_of_the_subscriber_is_killed(mortal, topic, qos):
    node = mortal
    r = Receiver()
    r.serve(durable(node, sid(topic), on=1))
    r.c.subscribe(topic, qos=qos)
    pub = node.client(on=0, version=V311)
    publish_window(pub, topic, range(40), qos)
    r.until(lambda r: len(r.got) >= 20)
    pid = node.kill("listener.1")
    r.drain()
    publish_window(pub, topic, range(40, 60), qos)
    r.serve(durable(node, sid(topic), on=0, present=True))
    last = b"59"
    r.until(lambda r: last in r.got and not r.received)
    if qos == 2:
        assert r.got == numbers(60)
    assert list(dict.fromkeys(r.got)) == numbers(60)
    r.c.expect_nothing()
    node.wait_ready("listener.1", not_pid=pid)


def test_the_listener_of_the_publisher_is_killed(mortal, topic):
    """QoS 2 of a durable session, resent through the other listener: one
    delivery, to a durable session and to one that is not."""
    node = mortal
    r = Receiver()
    r.serve(durable(node, "r" + sid(topic), on=0))
    r.c.subscribe(topic, qos=2)
    plain = node.client(on=0)
    plain.subscribe(topic, qos=2)
    for i in range(4):
        c = durable(node, sid(topic), on=1)
        c.send_publish(topic, b"%d" % i, qos=2, pid=9)
        if i % 2:
            c.expect(wire.PUBREC, 9)
        pid = node.kill("listener.1")
        c.drain()
        c = durable(node, sid(topic), on=0)
        c.send_publish(topic, b"%d" % i, qos=2, pid=9, dup=True)
        c.expect(wire.PUBREC, 9)
        c.pubrel(9)
        c.expect(wire.PUBCOMP, 9)
        leave(node, c)
        r.until(lambda r: len(r.got) > i and not r.received)
        p = plain.read_publish()
        assert p.payload == b"%d" % i
        plain.complete(p)
        node.wait_ready("listener.1", not_pid=pid)
    assert r.got == numbers(4)
    plain.expect_nothing()
    r.c.expect_nothing()


@pytest.mark.parametrize("name", ["router", "listener.0"])
def test_another_process_is_killed(mortal, topic, name):
    """Nobody's session is in it."""
    node = mortal
    c = durable(node, sid(topic), on=1)
    c.subscribe(topic, qos=1)
    pid = node.kill(name)
    node.wait_ready(name, not_pid=pid)
    pub = node.client(on=1)
    publish_all(pub, topic, numbers(5))
    got = c.read_publishes(5)
    assert payloads(got) == numbers(5)
    finish(c, *got)
    leave(node, c)
    publish_all(pub, topic, numbers(5))
    c = durable(node, sid(topic), present=True)
    got = c.read_publishes(5)
    assert payloads(got) == numbers(5)
    finish(c, *got)


@pytest.mark.parametrize("shards", [1, 3])
def test_the_node_starts_again(make_node, topic, shards):
    """Sessions, queues, what is in flight both ways."""
    node = make_node(listeners=2,
                     options={"session_store.processes": str(shards)})
    names = ["s%d" % i for i in range(8)]
    for i, name in enumerate(names):
        c = durable(node, name, on=i % 2)
        c.subscribe(topic, qos=i % 2 + 1)
        c.send_publish("elsewhere", b"x", qos=2, pid=50 + i)
        c.expect(wire.PUBREC, 50 + i)
    pub = node.client()
    publish_all(pub, topic, numbers(4), qos=2)
    leave(node, durable(node, "s0", present=True), session_expiry_interval=0)
    restart(node)
    durable(node, "s0", present=False).expect_nothing()
    for i, name in enumerate(names):
        if i == 0:
            continue
        c = durable(node, name, on=i % 2, present=True)
        got = c.read_publishes(4)
        assert payloads(got) == numbers(4)
        assert {p.qos for p in got} == {i % 2 + 1}
        c.complete(*got)
        c.send_publish("elsewhere", b"x", qos=2, pid=50 + i, dup=True)
        c.expect(wire.PUBREC, 50 + i)
        c.pubrel(50 + i)
        assert c.expect(wire.PUBCOMP, 50 + i).reason == 0
    publish_all(node.client(), topic, numbers(4, 6), qos=1)
    for c in node.open[1:-1]:
        got = c.read_publishes(2)
        assert payloads(got) == numbers(4, 6)
        finish(c, *got)


def test_listeners_are_replaced(make_node, topic):
    """mqttc-ctl upgrade: the connections stay, and what they wait for."""
    node = make_node(listeners=2)
    c = durable(node, "stays", on=0, props={"receive_maximum": 2})
    c.subscribe(topic, qos=2)
    pub = node.client(on=1)
    publish_all(pub, topic, numbers(6), qos=2)
    a, b = c.read_publishes(2)
    c.pubrec(a.pid)
    c.wait_ack(wire.PUBREL, a.pid)
    node.upgrade()
    c.pubcomp(a.pid)
    c.complete(b)
    rest = []
    while len(rest) < 4:
        part = c.read_publishes(2)
        c.complete(*part)
        rest += part
    assert payloads(rest) == numbers(2, 6)
    c.expect_nothing()
    pub.publish(topic, b"after", qos=1)
    finish(c, c.read_publish())
    leave(node, c)
    publish_all(pub, topic, numbers(2))
    c = durable(node, "stays", on=1, present=True)
    got = c.read_publishes(2)
    assert payloads(got) == numbers(2)
    finish(c, *got)


def test_the_node_stops_while_the_store_is_away(make_node):
    """Nobody waits for a process that will not be started any more."""
    node = make_node(listeners=2)
    for _ in range(4):                  # the next start is not at once
        kill_store(node, wait=False)
    node.wait(lambda s: s["session_store.0"]["pid"] != node.killed)
    cs = [node.raw(on=i) for i in (0, 1)]
    for i, c in enumerate(cs):
        c.send_bytes(wire.connect_packet(client_id="c%d" % i))
    assert node.terminate() == 0
    node.proc = None


@every_qos
def test_a_listener_without_room_gets_the_rest_later(make_node, topic, qos):
    """Many sessions wait for room in one stream; one whose client goes
    meanwhile, and one that gets more, too."""
    node = make_node(listeners=2, options={"bus.stream_max": "8MB",
                                           "bus.credit": "1MB"})
    n, body = 40, b"x" * 16384
    subs = [durable(node, "%d" % i, on=1) for i in range(20)]
    for c in subs:
        c.subscribe("t", qos=qos)
    subs[0].subscribe("u", qos=qos)
    pub = node.client(on=0)
    pid = node.pid("listener.1")
    os.kill(pid, signal.SIGSTOP)
    for i in range(n):                          # twice what fits
        pub.send_publish("t", b"%d " % i + body, qos=qos, pid=i + 1)
    pub.send_publish("u", b"last", qos=qos, pid=n + 1)
    node.wait_metric("store_queued_total", lambda v: v > n * len(subs))
    os.kill(pid, signal.SIGCONT)
    subs[1].reset()
    want = [b"%d " % i + body for i in range(n)]
    for c in subs[:1] + subs[2:]:
        got = []
        for _ in range(n + (c is subs[0])):
            p = c.read_publish()
            c.complete(p)
            got.append(p.payload)
        assert got == want + ([b"last"] if c is subs[0] else [])
    c = durable(node, "1", on=0, present=True)
    r = Receiver()
    r.serve(c)
    r.until(lambda r: want[-1] in r.got and not r.received)
    assert r.got == want
