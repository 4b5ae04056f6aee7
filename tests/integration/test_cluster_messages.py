"""Messages between nodes: what is published on one reaches the subscribers of
another as if there were only one, whichever process in between dies."""

import os
import signal
import threading
import time

import pytest

from support import mqttc, wire
from support.cluster import Cluster
from support.stream import Sink, durable, gather, whole
from support.wire import V311, V5

# Nothing is dropped because much was published.
LONG = {"mqtt.max_offline_queue_len": "100000"}

pytestmark = pytest.mark.skipif(mqttc.FOREIGN is not None,
                                reason="needs nodes of its own")


@pytest.fixture(scope="module")
def pair():
    """Two nodes of two listeners and two shards each, for what breaks
    nothing."""
    with Cluster(2, listeners=2,
                 options={"session_store.processes": "2"}) as c:
        yield c
        for node in c.nodes:
            node.close_clients()


@pytest.fixture
def make_cluster(request):
    made = []

    def make(*args, **opts):
        c = Cluster(*args, **opts)
        made.append(c)
        return c.__enter__()
    yield make
    failed = getattr(request.node, "report_call", None)
    bad = failed is not None and failed.failed
    for c in made:
        c.__exit__(AssertionError if bad else None,
                   AssertionError() if bad else None, None)


# --- Whole ------------------------------------------------------------------

@pytest.mark.parametrize("version", [V311, V5])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_message_crosses(pair, topic, version, qos):
    sub = pair[1].client(version=version, on=1)
    sub.subscribe(topic, qos=2)
    pub = pair[0].client(version=version)
    pub.publish(topic, b"over", qos=qos)
    p = sub.read_publish()
    assert (p.topic, p.payload, p.qos) == (topic, b"over", qos)
    assert not p.dup and not p.retain
    sub.complete(p)
    sub.expect_nothing()


def test_after_the_suback_it_comes(pair, topic):
    """SUBACK waits for the other node's index: 100 times, for it is a race
    otherwise."""
    sub, pub = pair[1].client(on=1), pair[0].client()
    for i in range(100):
        name = "%s/%d" % (topic, i)
        sub.subscribe(name if i % 2 else name + "/+")
        pub.send_publish(name if i % 2 else name + "/x", b"%d" % i)
        assert sub.read_publish().payload == b"%d" % i


def test_large_ones_too(pair, topic):
    sub, pub = pair[1].client(), pair[0].client()
    sub.subscribe(topic, qos=1)
    for size in (59 * 1024, 61 * 1024, 900 * 1024):
        pub.publish(topic, b"x" * size, qos=1)
        p = sub.read_publish()
        assert len(p.payload) == size
        sub.complete(p)


def test_one_copy_for_a_node(pair, topic):
    """However many subscribers: what the link takes is one message each."""
    subs = [pair[1].client(on=i % 2) for i in range(10)]
    for s in subs:
        s.subscribe(topic, qos=1)
    pub = pair[0].client()
    before = pair[1].metric("link_records_total")
    for i in range(20):
        pub.publish(topic, b"%d" % i, qos=1)
    for s in subs:
        for i in range(20):
            p = s.read_publish()
            assert p.payload == b"%d" % i
            s.complete(p)
    assert pair[1].metric("link_records_total") - before == 20


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_order(pair, topic, qos):
    n = 400
    sub = pair[1].client(on=1, auto=True)
    sub.subscribe(topic + "/#", qos=qos)
    pubs = [pair[i % 2].client(on=i // 2, version=V311, auto=True)
            for i in range(4)]
    got = {}
    for at in range(0, n, 20):
        for who, pub in enumerate(pubs):
            pub.send_bytes(b"".join(
                wire.publish_packet(V311, "%s/%d" % (topic, who), b"%d" % i,
                                    qos, i + 1 if qos else None)
                for i in range(at, at + 20)))
        for pub in pubs:
            if qos == 0:
                pub.fence()
                continue
            for i in range(at, at + 20):
                pub.wait_ack(wire.PUBACK if qos == 1 else wire.PUBREC, i + 1)
                if qos == 2:
                    pub.pubrel(i + 1)
            for i in range(at, at + 20 if qos == 2 else at):
                pub.wait_ack(wire.PUBCOMP, i + 1)
        left = 80
        while left:
            p = sub.read_packet()
            if p.kind == wire.PUBLISH:
                got.setdefault(p.topic, []).append(int(p.payload))
                left -= 1
    for who in range(4):
        assert got["%s/%d" % (topic, who)] == list(range(n))


# --- What is kept ------------------------------------------------------------

@pytest.mark.parametrize("qos", [1, 2])
def test_a_durable_session_gets_what_it_missed(pair, topic, qos):
    client_id = "dur" + topic.replace("/", "")
    with durable(pair[1], client_id) as c:
        c.subscribe(topic, qos=2)
    pub = pair[0].client()
    for i in range(50):
        pub.publish(topic, b"%d" % i, qos=qos)
    c = durable(pair[1], client_id, on=1)
    assert c.connack.session_present
    for i in range(50):
        p = c.read_publish()
        assert (p.payload, p.qos) == (b"%d" % i, qos)
        c.complete(p)
    c.expect_nothing()


def test_live_and_durable_at_once(pair, topic):
    """One record for both: each gets it once."""
    with durable(pair[1], "both") as c:
        c.subscribe(topic, qos=1)
    live = pair[1].client(on=1)
    live.subscribe(topic, qos=1)
    pub = pair[0].client()
    before = pair[1].metric("link_records_total")
    pub.publish(topic, b"x", qos=1)
    p = live.read_publish()
    live.complete(p)
    live.expect_nothing()
    c = durable(pair[1], "both")
    c.complete(c.read_publish())
    c.expect_nothing()
    assert pair[1].metric("link_records_total") - before == 1


def test_qos2_of_a_durable_publisher_crosses(pair, topic):
    """Its shard is the source."""
    sub = pair[1].client()
    sub.subscribe(topic, qos=2)
    pub = durable(pair[0], "pub2")
    for i in range(30):
        pub.publish(topic, b"%d" % i, qos=2)
        p = sub.read_publish()
        assert p.payload == b"%d" % i
        sub.complete(p)
    sub.expect_nothing()


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_retained_is_the_same_everywhere(pair, topic, qos):
    there = pair[1].client()
    there.subscribe(topic, qos=2)
    pub = pair[0].client()
    pub.publish(topic, b"kept", qos=qos, retain=True)
    p = there.read_publish()
    assert (p.payload, p.retain) == (b"kept", False)
    there.complete(p)
    for node in pair.nodes:
        c = node.client(on=1)
        c.subscribe(topic, qos=2)
        p = c.read_publish()
        assert (p.payload, p.retain, p.qos) == (b"kept", True, qos)
        c.complete(p)
        c.expect_nothing()
    pair[1].client().publish(topic, b"newer", qos=1, retain=True)
    pair[1].client().publish(topic, b"", qos=1, retain=True)
    pair[0].client().publish(topic + "/fence", b"x", qos=1, retain=True)
    c = pair[0].client()
    c.subscribe(topic)
    c.expect_nothing()


def test_a_will_crosses(pair, topic):
    sub = pair[1].client()
    sub.subscribe(topic, qos=1)
    c = pair[0].client(will={"topic": topic, "payload": b"gone", "qos": 1})
    c.close()
    p = sub.read_publish()
    assert p.payload == b"gone"


def test_expiry_crosses_as_a_duration(pair, topic):
    with durable(pair[1], "exp") as c:
        c.subscribe(topic, qos=1)
    pub = pair[0].client()
    pub.publish(topic, b"x", qos=1,
                props={"message_expiry_interval": 100})
    p = durable(pair[1], "exp").read_publish()
    assert 90 <= p.props["message_expiry_interval"] <= 100


# --- Groups -------------------------------------------------------------------

@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_group_spans_nodes(pair, topic, qos):
    """Each message to one member, wherever; each member gets some."""
    filt = "$share/g%d/%s" % (qos, topic)
    subs = [pair[i % 2].client(on=i // 2, auto=True) for i in range(4)]
    for s in subs:
        s.subscribe(filt, qos=2)
    subs = [Sink(s) for s in subs]
    pub = pair[0].client()
    n = 80
    for i in range(n):
        pub.publish(topic, b"%d" % i, qos=qos)
    got = gather(subs, n)
    assert sorted(x for g in got for x in g) == list(range(n))
    assert all(len(g) > 0 for g in got), list(map(len, got))


def test_a_group_of_another_node_alone(pair, topic):
    sub = pair[1].client(on=1)
    sub.subscribe("$share/only/" + topic, qos=1)
    plain = pair[1].client(on=0)
    plain.subscribe(topic, qos=1)
    pub = pair[0].client()
    for i in range(10):
        pub.publish(topic, b"%d" % i, qos=1)
    for c in (sub, plain):
        for i in range(10):
            p = c.read_publish()
            assert p.payload == b"%d" % i
            c.complete(p)
        c.expect_nothing()


def test_a_durable_member_that_is_away_is_the_last_choice(pair, topic):
    filt = "$share/away/" + topic
    with durable(pair[1], "awaymember") as c:
        c.subscribe(filt, qos=1)
    live = pair[0].client()
    live.subscribe(filt, qos=1)
    pub = pair[0].client(on=1)
    for i in range(10):
        pub.publish(topic, b"%d" % i, qos=1)
    for i in range(10):
        live.complete(live.read_publish())
    live.close()
    pair.wait_for(lambda: pub.publish(topic, b"last", qos=1) == 0,
                  "the index knows that nobody is connected")
    c = durable(pair[1], "awaymember")
    p = c.read_publish()
    assert p.payload == b"last"
    c.complete(p)


def test_a_retained_message_for_a_group_comes_once(pair, topic):
    subs = [pair[i].client() for i in range(2)]
    for s in subs:
        s.subscribe("$share/r/" + topic, qos=1)
    subs = [Sink(s) for s in subs]
    pub = pair[0].client(on=1)
    for i in range(20):
        pub.publish(topic, b"%d" % i, qos=1, retain=True)
    got = gather(subs, 20)
    assert sorted(got[0] + got[1]) == list(range(20))


# --- Who dies ------------------------------------------------------------------

class Load:
    """QoS 1 or 2 from node 0 to a live and a durable session of node 1, as
    fast as it is acknowledged."""

    def __init__(self, c, topic, qos):
        self.c, self.topic, self.qos, self.n = c, topic, qos, 0
        sub = c[1].client("livesub", on=1)
        sub.subscribe(topic, qos=qos)
        self.sub = Sink(sub)
        with durable(c[1], "dursub") as d:
            d.subscribe(topic, qos=qos)
        self.pub = c[0].client("pub")
        self.pub.deadline_s = 60
        self.stop = threading.Event()
        self.failed = []
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            while not self.stop.is_set():
                self.pub.publish(self.topic, b"%d" % self.n, qos=self.qos)
                self.n += 1
        except BaseException as e:
            self.failed.append(e)

    def moved(self, n):
        end = time.monotonic() + 60
        want = self.n + n
        while self.n < want:
            assert not self.failed, self.failed
            assert time.monotonic() < end, "publishing stands still"
            time.sleep(0.01)

    def check(self):
        self.stop.set()
        self.thread.join()
        assert not self.failed, self.failed
        whole("live", gather([self.sub], self.n)[0], self.n)
        late = Sink(durable(self.c[1], "dursub"))
        whole("durable", gather([late], self.n)[0], self.n)


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("who", [(0, "cluster_link.0"), (1, "cluster_link.0"),
                                 (0, "router"), (1, "router"),
                                 (1, "session_store.0")])
def test_nothing_is_lost_or_doubled_when_a_process_is_killed(make_cluster,
                                                             who, qos):
    c = make_cluster(2, listeners=2, options=LONG)
    load = Load(c, "k/t", qos)
    node, name = who
    for _ in range(4):
        load.moved(50)
        was = c[node].pid(name)
        c[node].kill(name)
        c[node].wait_ready(name, not_pid=was)
    load.moved(50)
    load.check()


@pytest.mark.parametrize("who", [0, 1])
def test_a_link_that_stands_still_holds_up_and_loses_nothing(make_cluster, who):
    c = make_cluster(2, listeners=2, options=LONG)
    load = Load(c, "s/t", 1)
    for _ in range(2):
        load.moved(20)
        pid = c[who].pid("cluster_link.0")
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.3)
        os.kill(pid, signal.SIGCONT)
    load.moved(20)
    load.check()


def test_several_links_keep_the_order_of_each_client(make_cluster):
    c = make_cluster(2, listeners=2,
                     options={"cluster_link.processes": "3"})
    sub = c[1].client()
    sub.subscribe("o/#", qos=1)
    sub = Sink(sub)
    pubs = [c[0].client("p%d" % i, version=V311, on=i % 2) for i in range(8)]
    for at in range(0, 200, 20):
        for who, pub in enumerate(pubs):
            pub.send_bytes(b"".join(
                wire.publish_packet(V311, "o/%d" % who, b"%d" % i, 1, i + 1)
                for i in range(at, at + 20)))
        for pub in pubs:
            for i in range(at, at + 20):
                pub.wait_ack(wire.PUBACK, i + 1)
    gather([sub], 1600)
    got = {}
    for name, i in sub.got:
        got.setdefault(name, []).append(i)
    for who in range(8):
        assert got["o/%d" % who] == list(range(200))
    used = [c[1].metric("link_records_total", "cluster_link.%d" % i)
            for i in range(3)]
    assert sum(used) == 1600 and sum(1 for u in used if u > 0) >= 2, used


def test_a_node_that_dies_is_given_up(make_cluster):
    """Its live sessions are gone: publishers are answered. The third node
    notices nothing."""
    c = make_cluster(3, listeners=1)
    subs = [c[i].client() for i in (1, 2)]
    for s in subs:
        s.subscribe("d/t", qos=1)
    sub = Sink(subs[1])
    pub = c[0].client()
    pub.deadline_s = 30
    pub.publish("d/t", b"0", qos=1)
    c.kill(1)
    for i in range(1, 20):
        pub.publish("d/t", b"%d" % i, qos=1)
    assert gather([sub], 20) == [list(range(20))]


def test_a_durable_session_of_a_node_that_was_away(make_cluster):
    """What its node missed comes when it is back, in order, once."""
    c = make_cluster(2, listeners=1)
    with durable(c[1], "back") as d:
        d.subscribe("b/t", qos=1)
    pub = c[0].client(version=V311)
    pub.deadline_s = 60
    c.kill(1)
    pub.send_bytes(b"".join(wire.publish_packet(V311, "b/t", b"%d" % i, 1, i + 1)
                            for i in range(50)))
    c.start([1])
    for i in range(50):
        pub.wait_ack(wire.PUBACK, i + 1)
    d = durable(c[1], "back")
    assert d.connack.session_present
    for i in range(50):
        p = d.read_publish()
        assert p.payload == b"%d" % i
        d.complete(p)
    d.expect_nothing()


def test_an_upgrade_of_a_listener_keeps_the_streams(make_cluster):
    c = make_cluster(2, listeners=2, options=LONG)
    load = Load(c, "u/t", 1)
    for node in (0, 1, 0, 1):
        load.moved(30)
        c[node].upgrade()
    load.moved(30)
    load.check()
