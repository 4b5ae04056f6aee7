"""Memory that is short on the way of a route to other nodes."""

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
