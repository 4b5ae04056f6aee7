"""kill -9 and SIGSTOP of each kind of process on each node of a cluster, under
QoS 1 and 2 load from each node to each: what is lost, doubled, disordered."""

import os
import signal

import pytest

from support import mqttc, wire
from support.cluster import Cluster
from support.stream import Feed, Sink, durable, gather, whole

pytestmark = pytest.mark.skipif(mqttc.FOREIGN is not None,
                                reason="needs nodes of its own")

N = 3
OPTIONS = {"mqtt.max_offline_queue_len": "1000000",
           "mqtt.max_mqueue_len": "1000000"}
KINDS = ["router", "session_store.0", "cluster_link.0", "listener.1",
         "supervise"]


@pytest.fixture
def cluster(request):
    c = Cluster(N, listeners=2, options=OPTIONS)
    c.__enter__()
    yield c
    report = getattr(request.node, "report_call", None)
    bad = AssertionError() if report is not None and report.failed else None
    c.__exit__(type(bad) if bad else None, bad, None)


class World:
    """Each node publishes through its listener 0 to live subscribers on
    listener 0 of each, and to a durable session of each, which is away. With
    listener 1 nobody is connected who counts: it may be killed."""

    def __init__(self, c, qos):
        self.c, self.qos = c, qos
        self.live = []
        for i, node in enumerate(c.nodes):
            sub = node.client("live%d" % i)
            sub.subscribe("t/#", qos=qos)
            self.live.append(Sink(sub))
            with durable(node, "away%d" % i) as d:
                d.subscribe("t/#", qos=qos)
        self.feeds = [Feed(node.client("pub%d" % i, version=wire.V311),
                           "t/%d" % i, qos) for i, node in enumerate(c.nodes)]

    def moved(self, n=40, who=range(N)):
        for i in who:
            self.feeds[i].moved(n)

    def check(self, live=range(N)):
        n = [feed.finish() for feed in self.feeds]
        away = [Sink(durable(node, "away%d" % i))
                for i, node in enumerate(self.c.nodes)]
        gather(away, N * sum(n))
        gather(self.live, N * sum(n), 10)
        for i in range(N):
            for j in range(N):
                topic = "t/%d" % j
                whole("away%d of %d" % (i, j), away[i].numbers(topic), n[j])
                if i in live:
                    whole("live%d of %d" % (i, j),
                          self.live[i].numbers(topic), n[j])


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("name", KINDS)
def test_killed(cluster, name, qos):
    world = World(cluster, qos)
    for node in cluster.nodes:
        world.moved()
        if name == "supervise":             # nobody starts it: others go on
            continue
        pid = node.kill(name)
        node.wait_ready(name, not_pid=pid)
        world.moved()
    if name == "supervise":
        for node in cluster.nodes:
            os.kill(node.proc.pid, signal.SIGSTOP)
        world.moved()
        for node in cluster.nodes:
            os.kill(node.proc.pid, signal.SIGCONT)
    world.moved()
    world.check()


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("name", KINDS[:-1])
def test_stopped_for_a_moment(cluster, name, qos):
    """Not long enough for anybody to be given up. Who waits for it waits;
    nothing is lost or doubled."""
    world = World(cluster, qos)
    for node in cluster.nodes:
        world.moved()
        pid = node.kill(name, signal.SIGSTOP)
        try:
            if name in ("router", "listener.1"):
                world.moved()               # nobody needs it just now
            else:
                others = [i for i in range(N) if cluster[i] is not node]
                for i in others:            # something piles up
                    cluster[i].client().fence()
        finally:
            os.kill(pid, signal.SIGCONT)
    world.moved()
    world.check()


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("name", ["router", "cluster_link.0"])
def test_stopped_until_it_is_given_up(cluster, name, qos):
    """The supervisor ends who stands still; the others go on meanwhile."""
    world = World(cluster, qos)
    world.moved()
    node = cluster[1]
    pid = node.kill(name, signal.SIGSTOP)
    node.expected_gone.add(pid)
    node.wait_ready(name, not_pid=pid, deadline_s=60)
    world.moved()
    n = [feed.finish() for feed in world.feeds]
    for i in range(N):
        late = Sink(durable(cluster[i], "away%d" % i))
        gather([late], sum(n))
        for j in range(N):
            whole("away%d of %d" % (i, j), late.numbers("t/%d" % j), n[j])
            got = world.live[i].numbers("t/%d" % j)
            assert got == sorted(set(got)), (i, j, "twice, or disorder")
            if name == "router" or i == j:
                cluster.wait_for(
                    lambda: len(world.live[i].numbers("t/%d" % j)) == n[j],
                    "live%d has all of %d" % (i, j))


@pytest.mark.parametrize("qos", [1, 2])
def test_a_whole_node_is_killed_and_comes_back(cluster, qos):
    """Its durable session gets what was published meanwhile; those of others
    notice nothing."""
    world = World(cluster, qos)
    world.moved()
    before = world.feeds[2].answered
    cluster.kill(2)
    cluster.wait_seen(0, 2, "forward", "down")
    cluster.wait_seen(1, 2, "forward", "down")
    cluster.start([2])
    world.moved(who=[0, 1])
    n = [world.feeds[i].finish() for i in (0, 1)]
    for i in range(N):
        late = Sink(durable(cluster[i], "away%d" % i))
        gather([late], sum(n) + before)
        for j in (0, 1):
            whole("away%d of %d" % (i, j), late.numbers("t/%d" % j), n[j])
        # What the dead one had acknowledged; what it had not may be there.
        got = late.numbers("t/2")
        assert got == sorted(set(got)), (i, "twice, or disorder")
        assert set(range(before)) <= set(got), (i, "lost")
    for i in (0, 1):
        for j in (0, 1):
            whole("live%d of %d" % (i, j), world.live[i].numbers("t/%d" % j),
                  n[j])
