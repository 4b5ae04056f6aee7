"""Who belongs to a cluster, with real nodes: joining, leaving, being sent away,
and what comes of it for routes (lib/member over lib/mesh)."""

import os

import pytest

from support import mqttc
from support.cluster import Cluster

pytestmark = pytest.mark.skipif(mqttc.FOREIGN is not None,
                                reason="needs nodes of its own")

BY_HAND = {"cluster.discovery": "manual", "cluster.static.seeds": None}


@pytest.fixture
def make_cluster(request):
    made = []

    def make(*args, **opts):
        made.append(Cluster(*args, **opts))
        return made[-1]
    yield make
    failed = getattr(request.node, "report_call", None)
    bad = AssertionError() if failed is not None and failed.failed else None
    for c in made:
        c.__exit__(type(bad) if bad else None, bad, None)


def names(c, i):
    """Members as node i has them: {name: row}."""
    return {row["name"]: row
            for row in c[i].tool_json("mqttc-cluster", "--nodes", "status")}


def join(c, i, to):
    pid = c[i].pid("router")
    c[i].expected_gone.add(pid)                 # it begins anew as a member
    c[i].tool("mqttc-cluster", "--force", "join", c.names[to])
    c[i].wait_ready("router", not_pid=pid)


def by_hand(make_cluster, n, **opts):
    c = make_cluster(n, start=False,
                     options=dict(BY_HAND, **opts.pop("options", {})), **opts)
    c.start(linked=False)
    return c


def test_nodes_are_joined_by_hand(make_cluster):
    c = by_hand(make_cluster, 3)
    subs = [c[i].client("s%d" % i) for i in range(3)]
    for i, sub in enumerate(subs):
        sub.subscribe("t/%d" % i)
    join(c, 1, 0)
    join(c, 2, 1)                               # any core will do
    c.wait_linked()
    for i in range(3):
        for j in range(3):
            want = "listener.0" if j == i else c.names[i]
            c.wait_match(j, "t/%d" % i, [want])
        assert set(names(c, i)) == set(c.names)
    for sub in subs:
        sub.fence()                             # nobody was disconnected
    # They find each other again without being told.
    c.stop(1)
    c.wait_seen(0, 1, "state", "down")
    c.start([1])
    assert set(names(c, 1)) == set(c.names)


def test_who_leaves_is_gone_everywhere(make_cluster):
    c = make_cluster(3)
    sub = c[2].client("sub", props={"session_expiry_interval": 600})
    sub.subscribe("t", qos=1)
    c.wait_match(0, "t", [c.names[2], c.names[2] + "/durable"])
    c[2].expected_gone.add(c[2].pid("router"))
    c[2].tool("mqttc-cluster", "leave")
    for i in (0, 1):
        c.wait_match(i, "t", [])
        c.wait_for(lambda: set(names(c, i)) == set(c.names[:2]), "two left")
        assert ("t", None) not in c.routes(i)
    sub.fence()                                 # a node by itself, and serves
    c.wait_for(lambda: set(names(c, 2)) == {c.names[2]}, "it is alone")


def test_who_is_sent_away_does_not_come_back(make_cluster):
    c = make_cluster(3)
    c[2].client("sub").subscribe("t")
    c.wait_match(0, "t", [c.names[2]])
    c.kill(2)
    c.wait_seen(0, 2, "state", "down")
    c[0].tool("mqttc-cluster", "force-leave", c.names[2])
    for i in (0, 1):
        c.wait_for(lambda: set(names(c, i)) == set(c.names[:2]), "two left")
        c.wait_match(i, "t", [])
    c.start([2], linked=False)
    c[2].wait_log("cluster.forced")
    c[0].wait_log("mesh.refused")
    assert set(names(c, 0)) == set(c.names[:2])
    assert c[0].metric("mesh_links") == 1
    c.wait_for(lambda: set(names(c, 2)) == {c.names[2]}, "it is alone")


def test_two_clusters_that_meet_are_reported(make_cluster):
    c = make_cluster(2, start=False, each={0: {"cluster.name": "one"},
                                           1: {"cluster.name": "two"}})
    c.start(linked=False)
    for i in (0, 1):
        c.wait_for(lambda: "other_cluster" in c[i].logs() or
                   "cluster" in "".join(
                       line for line in c[i].logs().splitlines()
                       if "mesh.refused" in line or "mesh.call_failed" in line
                       and "no_member" in line), "reported at %d" % i)
        assert set(names(c, i)) == {c.names[i]}
        assert c[i].metric("mesh_links") == 0


def test_nodes_with_seeds_are_one_cluster_replicants_too(make_cluster):
    c = make_cluster(4, replicants=[3])
    for i in range(4):
        c.wait_for(lambda: set(names(c, i)) == set(c.names), "all four")
        assert names(c, i)[c.names[3]]["role"] == "replicant"


def test_a_node_with_another_disk_is_another_node(make_cluster):
    c = make_cluster(2)
    c[1].client("sub", props={"session_expiry_interval": 600}).subscribe(
        "t", qos=1)
    c.wait_match(0, "t", [c.names[1], c.names[1] + "/durable"])
    c.kill(1)
    c.wait_seen(0, 1, "state", "down")
    data = os.path.join(c[1].dir, "data")
    os.rename(data, data + ".lost")
    c.start([1], linked=False)
    c[0].wait_log("cluster.disk_lost")
    c.wait_match(0, "t", [])
    c[1].client("new").subscribe("u")
    c.wait_match(0, "u", [c.names[1]])
