"""Nodes that cannot reach each other, and find each other again. Real processes,
each node on a host of its own (support/network.py)."""

import json
import os
import random
import re
import threading
import time

import pytest

from support import mqttc, network, wire
from support.cluster import Cluster
from support.stream import Feed, Sink, durable, gather, whole

WHY_NOT = "needs nodes of its own" if mqttc.FOREIGN else network.why_not()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

LONG = {"mqtt.max_offline_queue_len": "1000000",
        "mqtt.max_mqueue_len": "1000000"}


@pytest.fixture
def make(request):
    """make(n, ...): (cluster, network), linked."""
    made = []

    def begin(n, options=None, **opts):
        net = network.Network(n)
        made.append((None, net))
        c = Cluster(n, network=net, options=dict(LONG, **(options or {})),
                    start=False, **opts)
        made[-1] = (c, net)
        c.start()
        return c, net
    yield begin
    report = getattr(request.node, "report_call", None)
    bad = AssertionError() if report is not None and report.failed else None
    for c, net in made:
        try:
            if c is not None:
                c.__exit__(type(bad) if bad else None, bad, None)
        finally:
            net.close()


def status(c, i):
    """{name: row} as node i says."""
    return {row["name"]: row
            for row in c[i].tool_json("mqttc-cluster", "status")}


def wait_down(c, i, others):
    """Node i has given up these nodes: for asking and for sending."""
    for j in others:
        c.wait_seen(i, j, "state", "down")
        c.wait_seen(i, j, "forward", "down")


def wait_apart(c, *parts):
    for part in parts:
        others = [j for p in parts if p is not part for j in p]
        for i in part:
            wait_down(c, i, others)


def tables(c):
    """What each node says of each table: {(what, of): {by: digest}}."""
    out = {}
    for i in c.up():
        for name, row in status(c, i).items():
            for what in ("digest", "routes", "members_digest"):
                out.setdefault((what, name), {})[c.names[i]] = row[what]
    return out


def wait_same(c):
    """All are one again: linked, flowing, every table everywhere the same."""
    c.wait_linked()
    for i in c.up():
        for j in c.up():
            if i != j:
                c.wait_seen(i, j, "forward", "up")
    c.wait_for(lambda: all(len(set(by.values())) == 1
                           for by in tables(c).values()), "tables are the same")


def nobody_restarted(c):
    for i in c.up():
        c[i].check_alive()
        for name, row in c[i].status().items():
            assert row["restarts"] == 0, (c.names[i], name)


def logged_at(node, pattern):
    """When (s) the node logged the last line that fits."""
    last = None
    for line in node.logs().splitlines():
        if re.search(pattern, line):
            last = line
    assert last, "never logged: " + pattern
    clock, ms = last.split()[0].rstrip("Z").split(".")
    return time.mktime(time.strptime(clock, "%Y-%m-%dT%H:%M:%S")) + \
        int(ms) / 1000


class World:
    """On every node: a live subscriber of live/# and one of kept/#, a durable
    session for kept/# that is away, and a publisher to each of these, which
    publishes numbers to live/I and kept/I."""

    def __init__(self, c, qos):
        self.c, self.qos = c, qos
        self.live, self.kept = [], []
        for i, node in enumerate(c.nodes):
            for topic, sinks in (("live", self.live), ("kept", self.kept)):
                sub = node.client("%s-sub%d" % (topic, i))
                sub.subscribe(topic + "/#", qos=qos)
                sinks.append(Sink(sub))
            with durable(node, "away%d" % i) as d:
                d.subscribe("kept/#", qos=qos)
        self.feeds = {}
        for i, node in enumerate(c.nodes):
            for topic in ("live", "kept"):
                self.feeds[topic, i] = Feed(
                    node.client("%s-pub%d" % (topic, i), version=wire.V311),
                    "%s/%d" % (topic, i), qos)

    def moved(self, topic, who, n=40):
        for i in who:
            self.feeds[topic, i].moved(n)

    def check(self):
        """All nodes are together again: what each got. Live sessions of
        another part may lack what was published meanwhile, and nothing else;
        nobody got anything twice, or in another order."""
        n = {key: feed.finish() for key, feed in self.feeds.items()}
        at = range(len(self.c))
        for i in at:
            late = Sink(durable(self.c[i], "away%d" % i))
            gather([late], sum(n["kept", j] for j in at))
            for j in at:
                whole("away%d of %d" % (i, j), late.numbers("kept/%d" % j),
                      n["kept", j])
        gather(self.live + self.kept, 0)
        lost = {}
        for topic, sinks in (("live", self.live), ("kept", self.kept)):
            for i in at:
                for j in at:
                    got = sinks[i].numbers("%s/%d" % (topic, j))
                    who = "%s at %d from %d" % (topic, i, j)
                    assert got == sorted(set(got)), (who, "twice, or disorder")
                    lost[topic, i, j] = n[topic, j] - len(got)
                    if i == j:
                        assert lost[topic, i, j] == 0, who
                    else:
                        assert got and got[-1] == n[topic, j] - 1, (who, "end")
        return lost


def serves(c, i, what):
    """The node does all that a node alone does."""
    sub, pub = c[i].client("new-%s" % what), c[i].client()
    sub.subscribe("own/%d/%s" % (i, what), qos=1)
    pub.publish("own/%d/%s" % (i, what), b"1", qos=1)
    p = sub.read_publish()
    assert p.payload == b"1"
    sub.complete(p)
    pub.publish("ret/%d/%s" % (i, what), b"kept", qos=1, retain=True)
    sub.subscribe("ret/%d/%s" % (i, what), qos=1)
    p = sub.read_publish()
    assert p.payload == b"kept" and p.retain
    sub.complete(p)
    return sub


SHAPES = {
    "two": ([0], [1, 2]),
    "two-of-four": ([0, 1], [2, 3]),
    "three": ([0], [1], [2]),
}


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_each_part_serves_its_own_and_then_all_is_as_it_was(make, shape, qos):
    parts = SHAPES[shape]
    c, net = make(sum(map(len, parts)))
    world = World(c, qos)
    everybody = range(len(c))
    world.moved("kept", everybody)
    world.moved("live", everybody)
    net.split(*parts)
    wait_apart(c, *parts)
    subs = [serves(c, i, "apart") for i in everybody]
    world.moved("live", everybody)          # who has nobody there need not wait
    for part in parts:                      # who is there, who is not
        for i in part:
            assert {name: row["state"] == "running"
                    for name, row in status(c, i).items()} == {
                        c.names[j]: j in part for j in everybody}
    net.heal()
    wait_same(c)
    world.moved("kept", everybody)
    world.moved("live", everybody)
    for i in everybody:
        # What was retained on one side is on all.
        late = c[(i + 1) % len(c)].client()
        late.subscribe("ret/%d/apart" % i, qos=1)
        assert late.read_publish().payload == b"kept"
        # So are the routes of who came in between.
        c[(i + 1) % len(c)].client().publish("own/%d/apart" % i, b"2", qos=1)
        assert subs[i].read_publish().payload == b"2"
    world.check()
    nobody_restarted(c)
    wait_same(c)


@pytest.mark.parametrize("one_way", [False, True])
def test_two_that_do_not_reach_each_other_but_a_third(make, one_way):
    """0 and 1 are apart, 2 reaches both."""
    c, net = make(3)
    world = World(c, 1)
    everybody = range(3)
    world.moved("kept", everybody)
    net.cut(0, 1, one_way=one_way)
    wait_apart(c, [0], [1])
    subs = [serves(c, i, "apart") for i in everybody]
    world.moved("live", everybody)
    c.wait_for(lambda: all(row["split"] for row in status(c, 2).values()),
               "the third knows of it")
    # It sees everybody's routes, and they see its.
    for i in (0, 1):
        c.wait_match(2, "own/%d/apart" % i, [c.names[i]])
        c.wait_match(i, "own/2/apart", [c.names[2]])
        c[2].client().publish("own/%d/apart" % i, b"2", qos=1)
        assert subs[i].read_publish().payload == b"2"
    net.heal()
    wait_same(c)
    world.moved("kept", everybody)
    world.moved("live", everybody)
    lost = world.check()
    for (topic, i, j), n in lost.items():
        assert n == 0 or {i, j} == {0, 1}, (topic, i, j, n)
    nobody_restarted(c)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_network_that_comes_and_goes(make, seed):
    """A node is cut off for moments and for longer, another one each time."""
    rnd = random.Random(seed)
    c, net = make(3)
    world = World(c, 1)
    for _ in range(12):
        who = rnd.randrange(3)
        net.split([who], [i for i in range(3) if i != who])
        time.sleep(rnd.choice([0.05, 0.3, 1, 2.5, 4]))
        net.heal()
        time.sleep(rnd.choice([0.05, 0.3, 1, 2.5]))
    wait_same(c)
    world.moved("kept", range(3))
    world.moved("live", range(3))
    world.check()
    nobody_restarted(c)
    wait_same(c)


@pytest.mark.parametrize("ms", [1, 20, 100, 200])
def test_nodes_that_are_far_away(make, ms):
    """A round trip is twice that: nobody is given up, and all arrives."""
    c, net = make(3, options={"cluster.suback_timeout": "30s"})
    net.delay(ms)
    down = [c[i].metric("mesh_down_total") for i in range(3)]
    world = World(c, 2)
    for k in range(5):                      # SUBACK means it, here as well
        sub = c[k % 3].client()
        sub.subscribe("far/%d" % k, qos=1)
        c[(k + 1) % 3].client().publish("far/%d" % k, b"1", qos=1)
        assert sub.read_publish().payload == b"1"
    world.moved("kept", range(3), 100)
    world.moved("live", range(3), 100)
    assert not any(world.check().values())
    assert [c[i].metric("mesh_down_total") for i in range(3)] == down
    assert sum(c[i].metric("suback_timeouts_total") for i in range(3)) == 0
    c.stop(2)                               # one comes from far away
    c.start([2])
    wait_same(c)


def test_replicants_on_either_side(make):
    """Cores 0 and 1, replicants 2 and 3; a core and a replicant on each."""
    c, net = make(4, replicants=[2, 3])
    world = World(c, 1)
    world.moved("kept", range(4))
    net.split([0, 2], [1, 3])
    wait_down(c, 0, [1, 3])
    wait_down(c, 1, [0, 2])
    wait_down(c, 2, [1, 3])
    wait_down(c, 3, [0, 2])
    for i in range(4):
        serves(c, i, "apart")
    world.moved("live", range(4))
    for i, j in ((0, 2), (2, 0), (1, 3), (3, 1)):
        c.wait_match(i, "own/%d/apart" % j, [c.names[j]])
    net.heal()
    wait_same(c)
    world.moved("kept", range(4))
    world.moved("live", range(4))
    world.check()
    nobody_restarted(c)


def test_a_replicant_that_reaches_no_core(make):
    """It serves its own clients, and takes up where it was."""
    c, net = make(3, replicants=[2])
    world = World(c, 1)
    world.moved("kept", range(3))
    net.split([0, 1], [2])
    wait_apart(c, [0, 1], [2])
    for i in range(3):
        serves(c, i, "apart")
    world.moved("live", range(3))
    net.heal()
    wait_same(c)
    world.moved("kept", range(3))
    world.moved("live", range(3))
    world.check()
    nobody_restarted(c)


def test_without_autoheal_they_wait_to_be_told(make):
    c, net = make(2, options={"cluster.autoheal": "off"})
    before = c[0].client("before")
    before.subscribe("before", qos=1)
    with durable(c[1], "away") as d:
        d.subscribe("kept", qos=1)
    pub = c[0].client("pub", version=wire.V311)
    net.split([0], [1])
    wait_apart(c, [0], [1])
    feed = Feed(pub, "kept", 1)
    sub = c[1].client("sub")
    sub.subscribe("later", qos=1)
    net.heal()
    c.wait_for(lambda: status(c, 0)[c.names[1]]["parked"] and
               status(c, 1)[c.names[0]]["parked"], "they are parked")
    # In reach, and apart as before.
    assert c.match(0, "later") == {}
    serves(c, 0, "parked")
    assert feed.answered == 0
    said = json.loads(c[0].tool("mqttc-cluster", "--json", "heal"))
    assert said == {"parked": 1}
    wait_same(c)
    c.wait_match(0, "later", [c.names[1]])
    c[0].client().publish("later", b"x", qos=1)
    assert sub.read_publish().payload == b"x"
    c[1].client().publish("before", b"y", qos=1)
    assert before.read_publish().payload == b"y"
    feed.moved(30)
    n = feed.finish()
    whole("away", gather([Sink(durable(c[1], "away"))], n)[0], n)
    assert not any(row["parked"] for i in (0, 1)
                   for row in status(c, i).values())
    nobody_restarted(c)


# --- A node that is down --------------------------------------------------------

@pytest.mark.parametrize("how", ["silent", "killed", "stopped"])
def test_a_node_that_is_down_is_given_up(make, how, record_property):
    """Its live sessions are waited for until then, and no longer."""
    c, net = make(3)
    for i in (1, 2):
        c[i].client("sub%d" % i).subscribe("live", qos=1)
    sink = Sink(c[1].open[-1])
    feed = Feed(c[0].client("pub", version=wire.V311), "live", 1)
    feed.moved(50)
    began = time.time()
    if how == "silent":
        net.split([0, 1], [2])
    elif how == "killed":
        c.kill(2)
    else:
        c.stop(2)
    c.wait_seen(0, 2, "forward", "down")
    feed.moved(50)
    took = logged_at(c[0], r"router\.node_state .*n2@.* state=down") - began
    record_property("down_after_s", took)
    print("%s: router down after %.2f s, all of it %.2f s" % (
        how, took, time.time() - began))
    if how == "silent":
        net.heal()
        wait_same(c)
    n = feed.finish()
    whole("the other one", gather([sink], n)[0], n)


def test_what_waits_for_a_node_out_of_reach_is_bounded(make):
    """With a listener up to bus.stream_max; then its publishers wait, others
    do not, and nothing is lost."""
    c, net = make(2, options={"bus.credit": "128KB",
                             "bus.stream_max": "256KB"})
    with durable(c[1], "away") as d:
        d.subscribe("kept/#", qos=1)
    near = c[0].client("near")
    near.subscribe("near", qos=1)
    other = c[0].client("other")
    net.split([0], [1])
    wait_apart(c, [0], [1])
    before = memory(c[0].pid("listener.0"))
    feed = Feed(c[0].client("pub", version=wire.V311), "kept/a", 1,
                window=4000, pad=10000)     # 40 MB
    c[0].wait_metric("publishers_parked_total", lambda v: v > 0)
    for i in range(20):                     # others are not held up
        other.publish("near", b"1", qos=1)
        near.complete(near.read_publish())
    # What it holds is bounded, whatever the publisher has still to say.
    assert feed.answered == 0 and feed.sent < 4000
    assert memory(c[0].pid("listener.0")) - before < 8 << 20
    net.heal()
    wait_same(c)
    feed.moved(200)
    n = feed.finish()
    whole("away", gather([Sink(durable(c[1], "away"))], n)[0], n)


def memory(pid):
    """Resident bytes of a process."""
    with open("/proc/%d/statm" % pid) as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
