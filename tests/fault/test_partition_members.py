"""What else happens while nodes are apart: members are sent away, cleaned or come
anew, processes die, and whoever publishes has a session that is kept."""

import random

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
    """make(n, ...): (cluster, network)."""
    made = []

    def begin(n, options=None, which=None, **opts):
        net = network.Network(n)
        made.append((None, net))
        c = Cluster(n, network=net, options=dict(LONG, **(options or {})),
                    start=False, **opts)
        made[-1] = (c, net)
        c.start(which)
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


def names(c, i):
    return {row["name"]: row
            for row in c[i].tool_json("mqttc-cluster", "--nodes", "status")}


def wait_apart(c, *parts):
    for part in parts:
        for i in part:
            for j in (j for p in parts if p is not part for j in p):
                c.wait_seen(i, j, "state", "down")
                c.wait_seen(i, j, "forward", "down")


def wait_flow(c):
    """Everybody is in reach of everybody again, for all purposes."""
    c.wait_linked()
    for i in c.up():
        for j in c.up():
            if i != j:
                c.wait_seen(i, j, "forward", "up")


def clients_stay(c):
    """No process that has clients, or keeps something, was begun anew."""
    for i in c.up():
        for name, row in c[i].status().items():
            assert name == "router" or row["restarts"] == 0, (i, name)


def alive(c, routers=()):
    """As clients_stay; the routers of these may have begun anew."""
    for i in routers:
        c[i].expected_gone.add(c[i].pids["router"])
    clients_stay(c)


# --- Members ------------------------------------------------------------------

def test_who_is_sent_away_meanwhile_stays_away(make):
    c, net = make(3)
    sub = c[2].client("sub", props={"session_expiry_interval": 600})
    sub.subscribe("t", qos=1)
    c.wait_match(0, "t", [c.names[2], c.names[2] + "/durable"])
    net.split([0, 1], [2])
    wait_apart(c, [0, 1], [2])
    c[0].tool("mqttc-cluster", "force-leave", c.names[2])
    for i in (0, 1):
        c.wait_for(lambda: set(names(c, i)) == set(c.names[:2]), "two left")
        c.wait_match(i, "t", [])
    assert set(names(c, 2)) == set(c.names)     # it has not heard
    net.heal()
    c[2].wait_log("cluster.forced")
    c.wait_for(lambda: set(names(c, 2)) == {c.names[2]}, "it is alone")
    alive(c, [2])
    for i in (0, 1):
        assert set(names(c, i)) == set(c.names[:2])
        assert c.match(i, "t") == {}
    sub.fence()
    c[2].client().publish("t", b"own", qos=1)
    p = sub.read_publish()
    assert p.payload == b"own"
    sub.complete(p)


def test_who_was_cleaned_meanwhile_is_in_again(make):
    """The greater part cleans, the other one does not. Who waited for the node
    is answered, and what comes later reaches it as before."""
    c, net = make(3, options={"cluster.autoclean": "1s"})
    live = c[2].client("live")
    live.subscribe("kept/#", qos=1)
    live = Sink(live)
    with durable(c[2], "away") as d:
        d.subscribe("kept/#", qos=1)
    near = c[1].client("near")
    near.subscribe("kept/#", qos=1)
    near = Sink(near)
    joined = names(c, 0)[c.names[2]]["join_id"]
    feed = Feed(c[0].client("pub", version=wire.V311), "kept/0", 1)
    feed.moved(40)
    net.split([0, 1], [2])
    for i in (0, 1):
        c.wait_for(lambda: set(names(c, i)) == set(c.names[:2]), "cleaned")
        c.wait_match(i, "kept/0", {0: [c.names[1]], 1: ["listener.0"]}[i])
    feed.moved(40)                              # nobody waits for it
    assert set(names(c, 2)) == set(c.names)
    net.heal()
    c[2].wait_log("cluster.cleaned")
    for i in range(3):
        c.wait_for(lambda: set(names(c, i)) == set(c.names), "three again")
        assert names(c, i)[c.names[2]]["join_id"] != joined
    alive(c, [2])
    wait_flow(c)
    c.wait_match(0, "kept/0", [c.names[1], c.names[2],
                               c.names[2] + "/durable"])
    feed.moved(40)
    n = feed.finish()
    whole("near", gather([near], n)[0], n)
    late = Sink(durable(c[2], "away"))
    for who, sink in (("live", live), ("away", late)):
        c.wait_for(lambda: n - 1 in sink.numbers(), "the last one")
        got = gather([sink], 0)[0]
        assert got == sorted(set(got)), (who, "twice, or disorder")
        gap = [i for i in range(n) if i not in got]
        assert not gap or gap == list(range(gap[0], gap[-1] + 1)), (who, gap)


def test_who_comes_first_while_they_are_apart(make):
    """It joins one part; the other gets to know it with the rest."""
    c, net = make(3, which=[0, 1])
    net.split([0], [1, 2])
    wait_apart(c, [0], [1])
    c.start([2], linked=False)
    sub = c[2].client("sub")
    c.wait_for(lambda: set(names(c, 1)) == set(c.names), "it is in")
    sub.subscribe("new", qos=1)
    c.wait_match(1, "new", [c.names[2]])
    assert c.names[2] not in names(c, 0) or c.match(0, "new") == {}
    net.heal()
    wait_flow(c)
    assert set(names(c, 0)) == set(c.names)
    c.wait_match(0, "new", [c.names[2]])
    c[0].client().publish("new", b"1", qos=1)
    p = sub.read_publish()
    assert p.payload == b"1"
    sub.complete(p)
    assert len({names(c, i)[c.names[k]]["members_digest"]
                for i in range(3) for k in [i]}) == 1
    clients_stay(c)


# --- Who dies meanwhile -----------------------------------------------------------

def kept(c, qos):
    """A durable session on every node that is away, and somebody who publishes
    to all of them."""
    for i in range(len(c)):
        with durable(c[i], "away%d" % i) as d:
            d.subscribe("kept/#", qos=qos)
    feeds = [Feed(c[i].client("pub%d" % i, version=wire.V311), "kept/%d" % i,
                  qos) for i in range(len(c))]
    for feed in feeds:
        feed.moved(40)
    return feeds


def all_arrived(c, feeds):
    for feed in feeds:
        feed.moved(40)
    n = [feed.finish() for feed in feeds]
    for i in range(len(c)):
        late = Sink(durable(c[i], "away%d" % i))
        gather([late], sum(n))
        for j in range(len(c)):
            whole("away%d of %d" % (i, j), late.numbers("kept/%d" % j), n[j])


@pytest.mark.parametrize("name", ["cluster_link.0", "session_store.0"])
@pytest.mark.parametrize("qos", [1, 2])
def test_a_process_that_dies_while_they_are_apart(make, name, qos):
    """On either side; what durable sessions of the other one miss comes."""
    c, net = make(2)
    feeds = kept(c, qos)
    net.split([0], [1])
    wait_apart(c, [0], [1])
    for i in (0, 1):
        pid = c[i].kill(name)
        c[i].wait_ready(name, not_pid=pid)
    net.heal()
    wait_flow(c)
    all_arrived(c, feeds)


@pytest.mark.parametrize("qos", [1, 2])
def test_a_router_that_dies_knows_who_is_apart_from_the_others(make, qos):
    """The routes of a node that nobody reaches are with all that are left:
    what is published waits for it, whoever of them begins anew."""
    c, net = make(3)
    feeds = kept(c, qos)
    net.split([0, 1], [2])
    wait_apart(c, [0, 1], [2])
    for i in (0, 1):
        pid = c[i].kill("router")
        c[i].wait_ready("router", not_pid=pid)
        for j in (0, 1):
            c.wait_seen(j, 1 - j, "state", "up")
            assert c.names[2] + "/durable" in c.match(j, "kept/%d" % j)
    net.heal()
    wait_flow(c)
    all_arrived(c, feeds)


# --- Publishers that are kept -------------------------------------------------------

@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("links,stores", [(1, 1), (2, 2)])
def test_kept_publishers_are_answered_when_a_node_falls_silent(
        make, qos, links, stores):
    c, net = make(3, options={"cluster_link.processes": str(links),
                              "session_store.processes": str(stores)})
    sinks = []
    for i in range(3):
        sub = c[i].client("sub%d" % i)
        sub.subscribe("live/#", qos=qos)
        sinks.append(Sink(sub))
    feeds = {k: Feed(c[0].client("pub%d" % k, clean=False,
                                 version=wire.V311), "live/%d" % k, qos)
             for k in range(3)}
    for feed in feeds.values():
        feed.moved(40)
    net.split([0, 1], [2])
    said = c[0].client("retains")
    said.publish("live/ret", b"1", qos=qos, retain=True)
    wait_apart(c, [0, 1], [2])
    for feed in feeds.values():
        feed.moved(40)
    said.publish("live/ret", b"2", qos=qos, retain=True)
    net.heal()
    wait_flow(c)
    for feed in feeds.values():
        feed.moved(40)
    n = {k: feed.finish() for k, feed in feeds.items()}
    gather(sinks[:2], 2 * sum(n.values()) + 4)
    for i in (0, 1):
        for k in n:
            whole("sub%d of %d" % (i, k), sinks[i].numbers("live/%d" % k),
                  n[k])
        assert sinks[i].numbers("live/ret") == [1, 2]
    for k in n:
        c.wait_for(lambda: n[k] - 1 in sinks[2].numbers("live/%d" % k),
                   "the last one")
    gather(sinks[2:], 0)
    for k in n:
        got = sinks[2].numbers("live/%d" % k)
        assert got == sorted(set(got)), (k, "twice, or disorder")
    new = c[2].client()
    new.subscribe("live/ret", qos=qos)
    assert new.read_publish().payload == b"2"
    clients_stay(c)


# --- What both sides retain ----------------------------------------------------------

@pytest.mark.parametrize("stores", [1, 2])
def test_of_what_both_sides_retained_the_newest_is_everywhere(make, stores):
    c, net = make(3, options={"session_store.processes": str(stores)})
    pubs = [c[i].client("pub%d" % i) for i in range(3)]
    rnd, want = random.Random(stores), {}
    for k in range(40):                         # of before, everywhere
        pubs[0].publish("r/%d" % k, b"old", qos=1, retain=True)
        want["r/%d" % k] = b"old"
    net.split([0, 1], [2])
    wait_apart(c, [0, 1], [2])
    for n in range(160):
        topic, i = "r/%d" % rnd.randrange(60), rnd.randrange(3)
        want[topic] = b"%d of %d" % (n, i)
        pubs[i].publish(topic, want[topic], qos=rnd.choice([1, 2]),
                        retain=True)
    net.heal()
    wait_flow(c)

    def has(i):
        sub = c[i].client()
        sub.subscribe("r/#", qos=0)
        got = {}
        try:
            while set(got) != set(want):
                p = sub.read_publish()
                got[p.topic] = p.payload
        except wire.Late:
            pass
        sub.close()
        return got
    for i in range(3):
        # What was told late is there when nobody owes anything any more.
        for j in range(3):
            c[j].wait_metric("store_unacknowledged", lambda v: v == 0)
        got = has(i)
        assert got == want, (i, {t: (got.get(t), want.get(t)) for t in
                                 set(got) | set(want)
                                 if got.get(t) != want.get(t)})
