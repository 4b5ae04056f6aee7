"""What a router says to the cluster-links of its node, and they to it: two
real routers, each in a node that is played (support/rig.py)."""

import pytest

from support import mqttc
from support.cluster import free_net
from support.rig import Rig

pytestmark = pytest.mark.skipif(mqttc.FOREIGN is not None,
                                reason="needs the router itself")
UP, SUSPECT, GONE = 1, 2, 3


@pytest.fixture
def two():
    net = free_net(2)
    names = ["n%d@%s%d" % (i, net, i + 1) for i in range(2)]
    rigs = [Rig(node__name=name, cluster__discovery="static",
                cluster__static__seeds=",".join(names), node__cookie="rig")
            for name in names]
    with rigs[0] as a, rigs[1] as b:
        a.name, b.name = names
        yield a, b


def link_of(rig, incarnation=50, instance=0):
    p = rig.process("cluster_link.%d" % instance, incarnation)
    p.read()
    return p


def test_a_link_is_told_who_the_others_are(two):
    a, b = two
    a.start()
    link = link_of(a)
    assert link.wait_nodes(lambda n: True) == {}
    b.start()
    n = link.wait_nodes(lambda n: n.get(b.name, {}).get("state") == UP)
    assert n[b.name] == {"host": b.name.split("@")[1], "state": UP,
                         "incarnation": b.incarnation, "index": 1,
                         "core": True, "ports": [0] * 16}
    # Its links have ports.
    far = [link_of(b, 60 + i, i) for i in range(2)]
    far[0].links(5371)
    far[1].links(6369)
    n = link.wait_nodes(lambda n: n[b.name]["ports"][:2] == [5371, 6369])
    # One of them goes.
    far[1].die()
    n = link.wait_nodes(lambda n: n[b.name]["ports"][:2] == [5371, 0])
    # A link that starts anew is told all again.
    link.die()
    again = link_of(a, 51)
    n = again.wait_nodes(lambda n: True)
    assert n[b.name]["ports"][0] == 5371
    b.kill()
    n = again.wait_nodes(lambda n: n[b.name]["state"] == GONE)
    assert n[b.name]["ports"][0] == 5371        # messages may flow on


def test_where_messages_flow_a_dead_router_masks_nothing(two):
    a, b = two
    a.start()
    b.start()
    owner = b.process("listener.0", 10)
    owner.read()
    owner.snapshot("t")
    owner.wait_ack()
    link = link_of(a)
    # A link speaks of nodes that it was told of.
    link.wait_nodes(lambda n: n.get(b.name, {}).get("state") == UP)
    link.links(5370, {b.name: 1})
    a.wait_stats(lambda s: s.get(b.name + ".routes") == 1)
    b.kill()
    link.wait_nodes(lambda n: n[b.name]["state"] == GONE)
    s = a.wait_stats(lambda s: s[b.name + ".state"] == "down")
    assert s[b.name + ".forward"] == "up"
    # They do not flow: masked, though the routes stay.
    link.links(5370, {b.name: 0})
    s = a.wait_stats(lambda s: s[b.name + ".forward"] == "down")
    assert s[b.name + ".routes"] == 1
    link.links(5370, {b.name: 1})
    a.wait_stats(lambda s: s[b.name + ".forward"] == "up")
    # Without a link nobody knows: by the router's state.
    link.die()
    a.wait_stats(lambda s: s[b.name + ".forward"] == "down")


def test_a_flow_that_is_lost_masks_a_node_whose_router_lives(two):
    a, b = two
    a.start()
    b.start()
    links = [link_of(a, 50 + i, i) for i in range(2)]
    links[0].wait_nodes(lambda n: n.get(b.name, {}).get("state") == UP)
    links[0].links(5370, {b.name: 0})
    a.wait_stats(lambda s: s[b.name + ".forward"] == "down")
    links[1].links(6369, {b.name: 1})           # one way is enough
    s = a.wait_stats(lambda s: s[b.name + ".forward"] == "up")
    assert s[b.name + ".state"] == "up"


def test_nonsense_from_a_link_changes_nothing(two):
    a, b = two
    a.start()
    b.start()
    link = link_of(a)
    link.wait_nodes(lambda n: n.get(b.name, {}).get("state") == UP)
    for body in ("", "08ffffffff0f", "1204deadbeef", "120012001200",
                 "ff" * 40):
        a.do("raw", link.name, 42, body)
    link.links(5370, {"nobody@nowhere": 1})
    a.fence()
    assert a.stats()[b.name + ".forward"] == "up"
    # From who is no link it is not taken.
    other = a.process("listener.0", 10)
    other.read()
    other.snapshot("x")
    other.wait_ack()
    other.links(1, {b.name: 0})
    a.fence()
    assert a.stats()[b.name + ".forward"] == "up"
