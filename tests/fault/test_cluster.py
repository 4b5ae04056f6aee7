"""Routers of a cluster that die while routes change, and memory that is short on
the way of a route to other nodes."""

import random

import pytest

from support import mqttc
from support.cluster import Cluster

pytestmark = pytest.mark.skipif(mqttc.FOREIGN is not None,
                                reason="needs nodes of its own")


@pytest.mark.parametrize("nth", [1, 2, 5, 20])
def test_a_route_that_could_not_be_told_is_told_later(nth):
    with Cluster(2, start=False,
                 options={"cluster.suback_timeout": "30s"}) as c:
        c[1].env["FAULTS"] = "router.share:nth=%d" % nth
        c.start(linked=False)
        sub = c[1].client("sub")
        for k in range(20):
            sub.subscribe("t/%d" % k, qos=1)
            # Acknowledged: the other index has it, whatever went wrong.
            assert c.match(0, "t/%d" % k) == {c.names[1]: "up"}, k
        c.wait_linked()
        assert len(c.routes(0)) == 20
        assert "router.share_failed" in c[1].logs()
        assert c[1].metric("suback_timeouts_total") == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_tables_are_the_same_whatever_router_died(seed):
    """Three cores and a replicant; subscribers come and go everywhere while
    one router after another is killed. Then each knows what each has."""
    rnd = random.Random(seed)
    with Cluster(4, replicants=[3],
                 options={"cluster.suback_timeout": "300ms"}) as c:
        clients = [c[i].client("c%d" % i) for i in range(4)]
        have = [set() for _ in range(4)]
        for step in range(1, 1001):
            i, t = rnd.randrange(4), "t/%d" % rnd.randrange(200)
            if t in have[i]:
                clients[i].unsubscribe(t)
                have[i].remove(t)
            else:
                clients[i].subscribe(t)
                have[i].add(t)
            if step % 100 == 0:
                k = rnd.randrange(4)
                if c[k].status()["router"]["pid"]:
                    c[k].kill("router")
        for i in range(4):
            c[i].wait_ready("router")
        c.wait_linked()

        def known(i):
            rows = c.routes(i)
            return [{t for (t, g), dests in rows.items()
                     if ("listener.0" if i == j else c.names[j]) in dests}
                    for j in range(4)]
        for i in range(4):
            c.wait_for(lambda: known(i) == have, "node %d knows all" % i)
        for client in clients:
            client.fence()                      # nobody was disconnected
