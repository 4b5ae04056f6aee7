"""mqttc-ctl upgrade: another process takes a listener's place, and clients
notice nothing: each test has something half done, upgrades, and goes on."""

import os
import select
import shutil
import signal
import socket
import threading
import time

import pytest

from support import mqttc, wire
from support.durable import durable
from support.load import Load

pytestmark = pytest.mark.skipif(mqttc.FOREIGN is not None,
                                reason="needs nodes of its own")

BOTH = pytest.mark.parametrize("version", [wire.V311, wire.V5])


@pytest.fixture(scope="module")
def two_node():
    n = mqttc.Node(listeners=2)
    yield n
    n.stop()


@pytest.fixture
def two(two_node, request):
    yield two_node
    two_node.close_clients()
    report = getattr(request.node, "report_call", None)
    if report is not None and report.failed:
        print(two_node.report())
    two_node.check_alive()


def numbers(publishes):
    return [int(p.payload) for p in publishes]


# --- Towards a client -------------------------------------------------------

@BOTH
def test_window_towards_a_client(two, topic, version):
    """Each message waits for another answer; none comes again, identifiers
    go on, the quota is what it was."""
    sub = two.client(on=0, version=version,
                     **({"props": {"receive_maximum": 5}}
                        if version == wire.V5 else {}))
    sub.subscribe(topic, qos=2)
    pub = two.client(on=0)
    for i, qos in enumerate((1, 2, 2, 1, 2)):
        pub.publish(topic, b"%d" % i, qos=qos)
    got = sub.read_publishes(5)
    assert numbers(got) == [0, 1, 2, 3, 4]
    sub.pubrec(got[1].pid)                      # PUBREL is on its way
    sub.wait_ack(wire.PUBREL, got[1].pid)
    sub.puback(got[3].pid)                      # out of order
    two.upgrade("listener.0")
    sub.expect_nothing()
    sub.pubcomp(got[1].pid)
    sub.puback(got[0].pid)
    sub.complete(got[2], got[4])
    for i in range(5, 25):
        pub.publish(topic, b"%d" % i, qos=1 + i % 2)
        p = sub.read_publish()
        assert int(p.payload) == i
        assert p.pid == got[4].pid + i - 4 and not p.dup
        sub.complete(p)
    sub.expect_nothing()


@BOTH
def test_queue_behind_a_full_window(make_node, topic, version):
    node = make_node(listeners=2, options={"mqtt.max_inflight": "3"})
    sub = node.client(on=0, version=version)
    sub.subscribe(topic, qos=2, **({"props": 77} if version == wire.V5
                                   else {}))
    twin = node.client(on=0)                    # shares what is queued
    twin.subscribe(topic, qos=1)
    pub = node.client(on=1)
    big = b"x" * 3000
    for i in range(40):
        pub.publish(topic, b"%d " % i + (big if i % 5 == 0 else b""),
                    qos=1 + i % 2, props={"user_property": [("n", str(i))],
                                          "message_expiry_interval": 1000})
    node.upgrade("listener.0")
    node.upgrade("listener.0")
    for c in (sub, twin):
        for i in range(40):
            p = c.read_publish()
            assert p.payload == b"%d " % i + (big if i % 5 == 0 else b"")
            assert p.qos == (1 if c is twin else 1 + i % 2)
            if c.version == wire.V5:
                assert p.props["user_property"] == [("n", str(i))]
                assert 900 < p.props["message_expiry_interval"] <= 1000
                assert p.props.get("subscription_identifier") == (
                    [77] if c is sub else None)
            c.complete(p)
        c.expect_nothing()


@BOTH
def test_output_of_a_slow_reader(make_node, topic, version):
    """Megabytes wait to be written, some of a packet has left."""
    node = make_node(listeners=2)
    sub = node.client(on=0, version=version, rcvbuf=4096)
    sub.subscribe(topic, qos=1)
    pub = node.client(on=1)
    for i in range(100):
        pub.publish(topic, b"%04d" % i + os.urandom(1) * 150000, qos=1)
    node.upgrade("listener.0")
    for i in range(100, 110):
        pub.publish(topic, b"%04d" % i + b"z", qos=1)
    node.upgrade("listener.0")
    for i in range(110):
        p = sub.read_publish()
        assert int(p.payload[:4]) == i
        assert p.payload[4:] == p.payload[4:5] * (len(p.payload) - 4)
        assert len(p.payload) == (150004 if i < 100 else 5)
        sub.puback(p.pid)
    sub.expect_nothing()


def test_aliases_both_ways(two, topic):
    sub = two.client(on=0, alias_maximum=3)
    sub.subscribe(topic + "/#", qos=1)
    pub = two.client(on=0)
    for i in (1, 2):
        pub.publish("%s/%d" % (topic, i), b"%d" % i, qos=1,
                    props={"topic_alias": i})
        p = sub.read_publish()
        assert p.topic == "%s/%d" % (topic, i)
        alias = p.props["topic_alias"]
        sub.puback(p.pid)
    two.upgrade("listener.0")
    pub.publish("", b"again", qos=1, props={"topic_alias": 2})
    p = sub.read_publish()
    assert p.payload == b"again" and not p.topic
    assert p.props["topic_alias"] == alias and p.name == topic + "/2"
    sub.puback(p.pid)
    pub.publish(topic + "/3", b"new", qos=1)
    p = sub.read_publish()
    assert p.topic == topic + "/3" and p.props["topic_alias"] == 3
    sub.puback(p.pid)


# --- From a client ----------------------------------------------------------

@BOTH
def test_qos2_of_a_publisher(two, topic, version):
    """Between PUBREC and PUBREL: repeated it is no new message."""
    sub = two.client(on=1)
    sub.subscribe(topic, qos=2)
    pub = two.client(on=0, version=version)
    for pid in (10, 11, 12):
        pub.send_publish(topic, b"%d" % pid, 2, pid)
        pub.expect(wire.PUBREC, pid)
    two.upgrade("listener.0")
    pub.send_publish(topic, b"11", 2, 11, dup=True)
    pub.expect(wire.PUBREC, 11)
    for pid in (10, 11, 12):
        pub.pubrel(pid)
        assert pub.expect(wire.PUBCOMP, pid).reason == 0
    for pid in (10, 11, 12):
        p = sub.read_publish()
        assert int(p.payload) == pid
        sub.complete(p)
    pub.send_publish(topic, b"13", 2, 11)       # free again
    pub.expect(wire.PUBREC, 11)
    assert int(sub.read_publish().payload) == 13


@BOTH
@pytest.mark.parametrize("size,cut", [(100, 1), (100, 60), (900000, 500000)])
def test_half_a_packet(two, topic, version, size, cut):
    sub = two.client(on=1)
    sub.subscribe(topic, qos=1)
    pub = two.client(on=0, version=version)
    packet = wire.publish_packet(version, topic, b"p" * size, 1, 7)
    pub.send_bytes(packet[:cut])
    # Read by the old one: it has answered what was sent later, elsewhere.
    two.client(on=0).expect_nothing()
    two.upgrade("listener.0")
    pub.send_bytes(packet[cut:] + wire.publish_packet(version, topic, b"q",
                                                      1, 8))
    pub.expect(wire.PUBACK, 7)
    pub.expect(wire.PUBACK, 8)
    p = sub.read_publish()
    assert p.payload == b"p" * size
    sub.puback(p.pid)
    assert sub.read_publish().payload == b"q"


@BOTH
def test_answers_that_wait_for_another_listener(two, topic, version):
    """Acknowledged by the other side only after the upgrade, in order."""
    sub = two.client(on=1)
    sub.subscribe(topic, qos=2)
    pub = two.client(on=0, version=version)
    pub.publish(topic, b"0", qos=1)
    p = sub.read_publish()
    sub.complete(p)
    pid = two.kill("listener.1", signal.SIGSTOP)
    try:
        for i in range(1, 21):
            pub.send_publish(topic, b"%d" % i, 1 + i % 2, 100 + i)
        pub.expect_nothing()
        two.tool("mqttc-ctl", "upgrade", "listener.0")
        two.pids["listener.0"] = two.pid("listener.0")
        for i in range(21, 31):
            pub.send_publish(topic, b"%d" % i, 1 + i % 2, 100 + i)
        pub.expect_nothing()
    finally:
        os.kill(pid, signal.SIGCONT)
    for i in range(1, 31):
        ack = pub.expect(wire.PUBREC if i % 2 else wire.PUBACK, 100 + i)
        assert ack.reason == 0
    for i in range(1, 31):
        p = sub.read_publish()
        assert int(p.payload) == i
        sub.complete(p)
    sub.expect_nothing()


def test_suback_that_waits_for_its_routes(make_node, topic):
    node = make_node(listeners=2, options={"cluster.suback_timeout": "60s"})
    sub, pub = node.client(on=0), node.client(on=1)
    pid = node.kill("router", signal.SIGSTOP)
    try:
        for i in (1, 2):
            sub.send_bytes(wire.subscribe_packet(
                sub.version, i, [("%s/%d" % (topic, i), 1)]))
        sub.send_bytes(wire.unsubscribe_packet(sub.version, 3, ["other"]))
        sub.expect_nothing()
        node.tool("mqttc-ctl", "upgrade", "listener.0")
        sub.expect_nothing()
    finally:
        os.kill(pid, signal.SIGCONT)
    sub.expect(wire.SUBACK, 1)
    sub.expect(wire.SUBACK, 2)
    sub.expect(wire.UNSUBACK, 3)
    for i in (1, 2):
        pub.publish("%s/%d" % (topic, i), b"x", qos=1)
        sub.complete(sub.read_publish())
    # Acknowledged but not heard of: the answer was lost with the connection.
    assert node.metric("suback_timeouts_total") == 0


# --- Sessions ---------------------------------------------------------------

@BOTH
def test_a_publish_that_is_held(make_node, topic, version):
    """A retained message waits for plain ones on their way to another
    listener, and what follows it goes its way."""
    node = make_node(listeners=2)
    sub = node.client(on=1)
    sub.subscribe(topic, qos=1)
    pub = node.client(on=0, version=version)
    pid = node.pid("listener.1")
    os.kill(pid, signal.SIGSTOP)
    try:
        pub.send_bytes(b"".join(
            wire.publish_packet(version, topic, b"%d" % i, 1, i + 1,
                                retain=i % 5 == 4) for i in range(20)))
        node.wait_metric("publishers_parked_total", lambda v: v > 0)
        for _ in range(2):
            node.upgrade("listener.0")
        assert node.metric("store_published_total") == 0
    finally:
        os.kill(pid, signal.SIGCONT)
    assert numbers(sub.read_publishes(20)) == list(range(20))
    for i in range(20):
        pub.expect(wire.PUBACK, i + 1)


def many_retained(node, n, k):
    pub = node.client(version=wire.V311)
    for at in range(0, n, 700):
        pub.send_bytes(b"".join(
            wire.publish_packet(wire.V311, "many/%d/%d" % (i % k, i),
                                b"%d" % i, 1, i - at + 1, retain=True)
            for i in range(at, at + 700)))
        for _ in range(700):
            pub.expect(wire.PUBACK)


@pytest.mark.parametrize("stored", [False, True])
def test_retained_messages_still_to_be_asked_for(make_node, stored):
    """Pages wait for room at the client, of many filters: each message comes
    once, and one that is published meanwhile comes live alone."""
    n, k = 2800, 14
    node = make_node(listeners=2, options={"session_store.processes": "3"})
    many_retained(node, n, k)
    few = {"receive_maximum": 10}
    sub = (durable(node, "kept", props=few) if stored else
           node.client(on=0, props=few))
    sub.subscribe(["many/%d/#" % i for i in range(k)], qos=1)
    pub = node.client(on=1)
    got = {}
    for part in range(4):
        for _ in range(50):
            p = sub.read_publish()
            assert p.topic not in got
            got[p.topic] = p.payload
            sub.complete(p)
        pub.publish("many/1/live/%d" % part, b"live", qos=1, retain=True)
        node.upgrade("listener.0")
    while len(got) < n + 4:
        p = sub.read_publish()
        assert p.topic not in got
        assert p.retain != (p.payload == b"live")
        got[p.topic] = p.payload
        sub.complete(p)
    sub.expect_nothing()
    assert node.metric("dropped_queue_full_total") == 0
    assert node.metric("dropped_offline_queue_full_total") == 0


def test_will(two, topic):
    """Not by the upgrade; by the end of the connection after it."""
    watch = two.client(on=1)
    watch.subscribe(topic + "/#", qos=1)
    c = two.client(on=0, will={"topic": topic + "/w", "payload": b"gone",
                               "qos": 1})
    d = two.client(on=0, will={"topic": topic + "/v", "payload": b"never"})
    two.upgrade("listener.0")
    watch.expect_nothing()
    d.disconnect()
    d.expect_closed()
    c.reset()
    p = watch.read_publish()
    assert p.payload == b"gone"
    watch.complete(p)
    watch.expect_nothing()


def test_keep_alive_goes_on(two):
    c = two.client(on=0, keepalive=1)
    lives = two.client(on=0, keepalive=1)
    for _ in range(3):
        two.upgrade("listener.0")
        lives.expect_nothing()
    c.expect_disconnect(0x8d)


def test_connection_without_connect(two, topic):
    """It may still connect; and the bytes of CONNECT may be on both sides."""
    raw, half = two.raw(on=0), two.raw(on=0)
    hello = wire.connect_packet(client_id="half " + topic)
    half.send_bytes(hello[:9])
    two.client(on=0)
    two.upgrade("listener.0")
    raw.connect("raw " + topic)
    raw.expect_nothing()
    half.send_bytes(hello[9:])
    half.expect(wire.CONNACK)
    half.expect_nothing()


def test_one_holder_per_client_id(two, topic):
    c = two.client("holder " + topic, on=0)
    two.upgrade("listener.0")
    d = two.client("holder " + topic, on=1)
    c.expect_disconnect(wire.SESSION_TAKEN_OVER)
    two.upgrade("listener.1")
    two.client("holder " + topic, on=0)
    d.expect_disconnect(wire.SESSION_TAKEN_OVER)


def test_subscriptions_and_their_options(two, topic):
    sub = two.client(on=0)
    sub.subscribe(topic + "/a/+", qos=2, props=5, no_local=True)
    sub.subscribe(topic + "/#", qos=0, props=6)
    pub = two.client(on=1)
    two.upgrade()
    pub.publish(topic + "/a/b", b"both", qos=2)
    p = sub.read_publish()
    assert (p.qos, sorted(p.props["subscription_identifier"])) == (2, [5, 6])
    sub.complete(p)
    sub.publish(topic + "/a/b", b"own", qos=2)
    p = sub.read_publish()
    assert (p.qos, p.props["subscription_identifier"]) == (0, [6])
    assert sub.unsubscribe([topic + "/a/+", topic + "/#", topic]) == [0, 0,
                                                                      0x11]
    pub.publish(topic + "/a/b", b"nobody", qos=1)
    sub.expect_nothing()


@pytest.mark.parametrize("qos", [1, 2])
def test_members_of_a_group(make_node, topic, qos):
    """What a member has not answered, and what waits for it, still goes to
    another one when it leaves its second process; counts are as before."""
    two = make_node(listeners=2)
    lazy = two.client(on=0, props={"receive_maximum": 4})
    others = [two.client(on=i, auto=True) for i in (0, 1)]
    pub = two.client(on=1)
    lazy.subscribe("$share/g/" + topic, qos=qos)
    for i in range(10):
        pub.publish(topic, b"%d" % i, qos=qos)
    assert numbers(lazy.read_publishes(4)) == [0, 1, 2, 3]
    for c in others:
        c.subscribe("$share/g/" + topic, qos=qos)
    two.upgrade("listener.0")
    for i in range(10, 40):                     # turns go on, one in three
        pub.publish(topic, b"%d" % i, qos=qos)
    seen = []
    for c in others:
        seen += numbers(c.read_publishes(10))
    assert len(set(seen)) == 20
    lazy.reset()
    rest = set(range(0 if qos == 1 else 4, 40)) - set(seen)
    while rest:
        for c in others:
            for p in c.fence():
                if p.kind == wire.PUBLISH:
                    rest.remove(int(p.payload))
    for c in others:
        assert all(p.kind == wire.PUBREL for p in c.fence())


@pytest.mark.parametrize("strategy", ["sticky", "hash_topic"])
def test_habits_of_groups(make_node, topic, strategy):
    """Who got it before gets it after: the members stand in the same order,
    and what is remembered of a group comes along."""
    two = make_node(listeners=2, options={
        "mqtt.shared_subscription_strategy": strategy})
    members = [two.client(on=i % 2, auto=True) for i in range(8)]
    for c in members:
        for g in range(6):
            c.subscribe("$share/g%d/%s/+" % (g, topic), qos=1, props=g + 1)
    pubs = [two.client(on=i) for i in (0, 1)]

    def who():
        for on, pub in enumerate(pubs):
            for t in range(4):
                pub.publish("%s/%d" % (topic, t), b"%d" % on, qos=1)
        seen = set()
        while len(seen) < 2 * 4 * 6:
            for i, c in enumerate(members):
                for p in c.fence():
                    seen.add((p.topic, p.payload,
                              p.props["subscription_identifier"][0], i))
        return seen

    before = who()
    two.upgrade("listener.0")
    assert who() == before
    two.upgrade("listener.1")
    assert who() == before


def test_figures_go_on(two, topic):
    def figures():
        m = two.metrics()
        return {k: m["listener.0", k] for k in (
            "connects_total", "publish_received_total", "publish_sent_total",
            "clients_connected", "subscriptions", "filters")}

    sub = two.client("f" + topic, on=0, username="somebody")
    sub.subscribe(topic)
    for i in range(10):
        sub.publish(topic, b"%d" % i)
    sub.inbox.clear()
    before = figures()
    upgrades = two.metric("upgrades_total")
    row = [r for r in two.tool_json("mqttc-clients", "list")
           if r["client_id"] == "f" + topic]
    two.upgrade("listener.0")
    assert figures() == before
    assert two.metric("upgrades_total") == upgrades + 1
    again = [r for r in two.tool_json("mqttc-clients", "list")
             if r["client_id"] == "f" + topic]
    for r in row + again:
        r.pop("connected_s", None)
        r.pop("idle_s", None)
    assert row == again


# --- Under load -------------------------------------------------------------

@BOTH
def test_under_load_nothing_is_lost(make_node, topic, version):
    """Also of QoS 0, and nothing comes twice."""
    node = make_node(listeners=2)
    load = Load(node, topic, lossless=True)
    for qos in (0, 1, 2):
        for i in (0, 1):
            load.pair("q%dl%d" % (qos, i), qos, i, [0, 1], version=version)
    with load:
        for _ in range(4):
            node.upgrade()
            load.progress()
    rows = load.check()
    for pub, sub, qos, acked, lost, twice, disorder in rows:
        assert (lost, twice, disorder) == (0, 0, 0), rows
    for p, s, qos in load.wants:
        assert s.numbers(p.label) == list(range(p.sent)), (p.label, qos)


def test_many_clients_and_a_storm_of_connects(make_node, topic):
    """None is closed, none of those who connect meanwhile is reset."""
    node = make_node(listeners=2)
    idle = [node.client(on=i % 2) for i in range(2000)]
    stop, errors, made = threading.Event(), [], []

    def connect(on):
        try:
            while not stop.is_set():
                with wire.connect(node.addr(on)) as c:
                    c.expect_nothing()
                made.append(on)
        except Exception as e:
            errors.append(repr(e))

    threads = [threading.Thread(target=connect, args=(on,))
               for on in (0, 1, "external", "external")]
    for t in threads:
        t.start()
    try:
        for _ in range(5):
            n = len(made)
            node.upgrade()
            while len(made) < n + 20 and not errors:
                time.sleep(0.01)
    finally:
        stop.set()
        for t in threads:
            t.join()
    assert errors == []
    ended = select.poll()
    for c in idle:
        ended.register(c.sock, select.POLLIN | select.POLLHUP)
    assert ended.poll(0) == []
    for c in idle[::50]:
        c.expect_nothing()
    assert node.metric("clients_connected") == 2000


def test_then_the_router_dies_then_the_listener(make_node, topic):
    node = make_node(listeners=2)
    sub, pub = node.client(on=1), node.client(on=0)
    sub.subscribe([topic + "/%d" % i for i in range(100)], qos=1)

    def works():
        for i in (0, 50, 99):
            pub.publish(topic + "/%d" % i, b"x", qos=1)
            sub.complete(sub.read_publish())

    node.upgrade()
    works()
    pid = node.kill("router")
    node.wait_ready("router", not_pid=pid)
    works()
    node.upgrade()
    works()
    pid = node.kill("listener.1")
    sub.drain()
    row = node.wait_ready("listener.1", not_pid=pid)
    assert row["restarts"] == 1
    sub = node.client(on=1)
    sub.subscribe([topic + "/%d" % i for i in range(100)], qos=1)
    works()
    node.upgrade()
    works()


# --- What it refuses, and what fails ----------------------------------------

@pytest.fixture
def own_bin(tmp_path, monkeypatch):
    """Programs in a directory of the test's own, to be replaced."""
    where = tmp_path / "bin"
    where.mkdir()
    for name in os.listdir(mqttc.BIN):
        if name.startswith("mqttc-"):
            os.symlink(os.path.join(mqttc.BIN, name), where / name)
    shutil.copy(os.path.realpath(where / "mqttc-supervise"),
                where / "supervise.new")
    os.rename(where / "supervise.new", where / "mqttc-supervise")
    monkeypatch.setattr(mqttc, "BIN", str(where))
    return where


def install(where, script):
    """A listener that is not one."""
    new = where / "listener.new"
    new.write_text(script)
    new.chmod(0o755)
    os.rename(new, where / "mqttc-listener")


@pytest.mark.parametrize("script,code,says", [
    ("#!/bin/sh\nexit 78\n", 78, "exit code 78"),
    ("#!/bin/sh\nkill -9 $$\n", 75, "signal 9"),
    ("#!/no/such/program\n", 72, "exit code 72"),
    ("not a program at all", 72, "exit code 72"),
])
def test_new_program_that_does_not_start(make_node, own_bin, topic, script,
                                         code, says):
    node = make_node(listeners=2)
    sub = node.client(on=0)
    sub.subscribe(topic, qos=1)
    good = os.readlink(own_bin / "mqttc-listener")
    install(own_bin, script)
    before = node.status()
    for name in ("listener.0", "listener"):
        done = node.tool("mqttc-ctl", "upgrade", name, check=False)
        assert done.returncode == code, done
        assert says in done.stderr and "listener.0" in done.stderr
    assert node.metric("upgrades_failed_total") == 2
    node.wait_log("process.upgrade_failed")
    sub.publish(topic, b"still", qos=1)
    sub.complete(sub.read_publish())
    after = node.status()
    assert {k: r["pid"] for k, r in after.items()} == {
        k: r["pid"] for k, r in before.items()}
    os.unlink(own_bin / "mqttc-listener")
    os.symlink(good, own_bin / "mqttc-listener")
    node.upgrade()
    sub.publish(topic, b"new", qos=1)
    sub.complete(sub.read_publish())


def test_what_is_refused(make_node):
    node = make_node(listeners=2)

    def refused(name, code, says):
        done = node.tool("mqttc-ctl", "upgrade", name, check=False)
        assert done.returncode == code and says in done.stderr, done

    refused("listener.7", 64, "no process")
    refused("router", 64, "restart it")
    refused("supervise", 64, "supervisor")
    # One that is ending: its client does not read its farewell.
    c = node.client(on=0, rcvbuf=4096)
    c.subscribe("x")
    for _ in range(40):
        node.client(on=1).publish("x", b"y" * 200000)
    pid = node.kill("listener.1", signal.SIGSTOP)
    try:
        restart = threading.Thread(target=node.tool, args=(
            "mqttc-ctl", "restart", "listener.1"))
        restart.start()
        node.wait(lambda s: s["listener.1"]["state"] == "draining")
        refused("listener.1", 75, "draining")
    finally:
        os.kill(pid, signal.SIGCONT)
    restart.join()
    node.pids["listener.1"] = node.pid("listener.1")


def test_successor_that_says_nothing_is_seen_and_ended(make_node, own_bin):
    """While it is waited for, status tells and a second upgrade is refused;
    a restart is not held up by it."""
    node = make_node(listeners=1)
    good = os.readlink(own_bin / "mqttc-listener")
    install(own_bin, "#!/bin/sh\nexec sleep 1000\n")
    answers = []
    asked = threading.Thread(target=lambda: answers.append(
        node.tool("mqttc-ctl", "upgrade", "listener.0", check=False)))
    asked.start()
    node.wait(lambda s: "upgrade" in s["listener.0"]["note"])
    done = node.tool("mqttc-ctl", "upgrade", "listener.0", check=False)
    assert done.returncode == 75 and "already" in done.stderr, done
    os.unlink(own_bin / "mqttc-listener")
    os.symlink(good, own_bin / "mqttc-listener")
    node.tool("mqttc-ctl", "restart", "listener.0")
    asked.join()
    assert answers[0].returncode == 75 and "told to end" in answers[0].stderr
    node.pids["listener.0"] = node.pid("listener.0")
    node.upgrade()


def test_next_supervisor_goes_on_after_an_upgrade(make_node, topic):
    node = make_node(listeners=2)
    sub = node.client(on=1)
    sub.subscribe(topic, qos=1)
    node.upgrade()
    pids = {k: r["pid"] for k, r in node.status().items()}
    node.proc.kill()
    node.proc.wait()
    node.start_once()
    for name in ("listener.0", "listener.1", "router"):
        assert node.status()[name]["pid"] == pids[name]
    sub.publish(topic, b"1", qos=1)
    sub.complete(sub.read_publish())
    node.upgrade()
    sub.publish(topic, b"2", qos=1)
    sub.complete(sub.read_publish())
    node.client(on="external").expect_nothing()
