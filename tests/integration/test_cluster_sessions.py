"""One holder of a client identifier, whatever node it connects to: the older
connection is closed, its will goes out, what a clean start discards is gone."""

import select
import signal
import os

import pytest

from support import mqttc, wire
from support.cluster import Cluster
from support.wire import V311, V5

KEPT = {"session_expiry_interval": 3600}
SHARDS = 2

pytestmark = pytest.mark.skipif(mqttc.FOREIGN is not None,
                                reason="needs nodes of its own")


def wait_known(c, nodes=None):
    """Until the cores in reach know the clients of these nodes."""
    for i in c.up() if nodes is None else nodes:
        c[i].wait_metric("store_claims_known", lambda n: n == SHARDS)


def start(*args, **opts):
    return Cluster(*args, options={"session_store.processes": str(SHARDS)},
                   **opts)


@pytest.fixture(scope="module")
def trio():
    """Two cores and a replicant, for what breaks nothing."""
    with start(3, listeners=2, replicants=(2,)) as c:
        wait_known(c)
        yield c
        for node in c.nodes:
            node.close_clients()


PAIRS = [(0, 1), (1, 0), (0, 2), (2, 0)]


@pytest.mark.parametrize("a,b", PAIRS)
@pytest.mark.parametrize("expiry", [0, 3600])
def test_the_older_is_closed(trio, topic, a, b, expiry):
    opts = {"clean": expiry == 0,
            "props": {"session_expiry_interval": expiry}}
    one = trio[a].client(topic, **opts)
    two = trio[b].client(topic, **opts)
    one.expect_disconnect(wire.SESSION_TAKEN_OVER)
    two.fence()
    # And back, and once more where it is.
    three = trio[a].client(topic, **opts)
    two.expect_disconnect(wire.SESSION_TAKEN_OVER)
    four = trio[a].client(topic, on=1, **opts)
    three.expect_disconnect(wire.SESSION_TAKEN_OVER)
    four.fence()


def test_the_older_is_closed_v311(trio, topic):
    one = trio[0].client(topic, version=V311)
    two = trio[1].client(topic, version=V311)
    one.expect_closed()
    two.fence()


def test_a_clean_start_elsewhere_discards(trio, topic):
    one = trio[0].client(topic, clean=False, props=KEPT)
    one.subscribe(topic, qos=1)
    one.disconnect()
    trio.wait_match(1, topic, [trio.names[0] + "/durable"])
    two = trio[1].client(topic, clean=True)
    trio.wait_match(1, topic, [])
    two.disconnect()
    again = trio[0].client(topic, clean=False, props=KEPT)
    assert not again.connack.session_present


def test_one_that_is_connected_too(trio, topic):
    one = trio[2].client(topic, clean=False, props=KEPT)
    one.subscribe(topic, qos=1)
    trio.wait_match(0, topic, [trio.names[2], trio.names[2] + "/durable"])
    trio[0].client(topic, clean=True)
    one.expect_disconnect(wire.SESSION_TAKEN_OVER)
    trio.wait_match(0, topic, [])


def test_a_session_stays_where_it_is(trio, topic):
    """Without a clean start: a new one elsewhere, the old one is kept."""
    one = trio[0].client(topic, clean=False, props=KEPT)
    one.subscribe(topic, qos=1)
    two = trio[1].client(topic, clean=False, props=KEPT)
    one.expect_disconnect(wire.SESSION_TAKEN_OVER)
    assert not two.connack.session_present
    trio[1].client().publish(topic, b"kept", qos=1)
    again = trio[0].client(topic, clean=False, props=KEPT)
    two.expect_disconnect(wire.SESSION_TAKEN_OVER)
    assert again.connack.session_present
    p = again.read_publish()
    assert p.payload == b"kept"
    again.complete(p)


@pytest.mark.parametrize("a,b", PAIRS)
@pytest.mark.parametrize("clean", [True, False])
def test_its_will(trio, topic, a, b, clean):
    sub = trio[b].client()
    sub.subscribe(topic)
    will = {"topic": topic, "payload": b"gone"}
    opts = {"clean": clean, "props": {} if clean else KEPT}
    trio.wait_match(a, topic, [trio.names[b]])
    one = trio[a].client(topic, will=will, **opts)
    trio[b].client(topic, **opts)
    one.expect_disconnect(wire.SESSION_TAKEN_OVER)
    assert sub.read_publish().payload == b"gone"
    sub.expect_nothing()


def at_once(c, client_id, n, **opts):
    """n connections that say CONNECT at once; those that are still there when
    nothing more happens: exactly one answers."""
    made = [c[i % len(c)].raw(on=i // len(c) % 2) for i in range(n)]
    for one in made:
        one.send_bytes(wire.connect_packet(client_id=client_id, **opts))
    over = set()

    def all_but_one():
        for one in made:
            if one in over:
                continue
            try:
                while select.select([one.sock], [], [], 0)[0]:
                    one.read_packet()
            except wire.Closed:
                over.add(one)
        return len(over) >= n - 1

    c.wait_for(all_but_one, "all but one are closed", 60)
    assert len(over) == n - 1
    left, = set(made) - over
    left.version = V5
    left.fence()
    return left


@pytest.mark.parametrize("opts", [
    {"clean": True},
    {"clean": True, "will": {"topic": "w", "payload": b""}},
    {"clean": False, "props": KEPT},
], ids=["clean", "will", "durable"])
def test_a_hundred_at_once(trio, topic, opts):
    at_once(trio, topic, 100, **opts)


def test_one_that_was_served_at_once_is_the_older(topic):
    """A clean start that its store hears of after a later one was granted."""
    with start(2) as c:
        wait_known(c)
        pids = [c[0].pid("session_store.%d" % i) for i in range(SHARDS)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        one = c[0].client(topic)
        two = c[1].client(topic)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        one.expect_disconnect(wire.SESSION_TAKEN_OVER)
        two.fence()
        # Nor is the later one taken for something to be let go of.
        three = c[0].client(topic)
        two.expect_disconnect(wire.SESSION_TAKEN_OVER)
        three.fence()


def test_many_at_once(trio, topic):
    """Each of many at one node, then each at the next."""
    n = 200
    first = [trio[0].client("%s.%d" % (topic, i)) for i in range(n)]
    second = [trio[2].client("%s.%d" % (topic, i)) for i in range(n)]
    for one in first:
        one.expect_disconnect(wire.SESSION_TAKEN_OVER)
    for one in second:
        one.fence()


def test_a_node_alone_asks_nobody(topic):
    with Cluster(1) as c:
        one = c[0].client(topic)
        two = c[0].client(topic)
        one.expect_disconnect(wire.SESSION_TAKEN_OVER)
        two.fence()
        assert c[0].metric("router_claims_total") == 0
        assert "claims.on" not in c[0].stderr()


def test_those_who_were_there_before(topic):
    """Two nodes that each have the client when they meet: the later stays."""
    with start(2, start=False) as c:
        c.start([0], linked=False)
        one = c[0].client(topic, clean=False, props=KEPT)
        lone = c[0].client(topic + "/lone")
        c.start([1], linked=False)
        two = c[1].client(topic)
        c.wait_linked()
        one.expect_disconnect(wire.SESSION_TAKEN_OVER)
        wait_known(c)
        two.fence()
        lone.fence()


def test_a_core_killed(topic):
    with start(3) as c:
        wait_known(c)
        one = c[0].client(topic, clean=False, props=KEPT)
        c[2].client(topic + "/lost", clean=False, props=KEPT)
        c.kill(2)
        two = c[1].client(topic, clean=False, props=KEPT)
        one.expect_disconnect(wire.SESSION_TAKEN_OVER)
        lost = c[1].client(topic + "/lost", clean=False, props=KEPT)
        c.start([2])
        wait_known(c)
        two.fence()
        lost.fence()
        three = c[2].client(topic)
        two.expect_disconnect(wire.SESSION_TAKEN_OVER)
        three.fence()


def test_a_core_stopped(topic):
    """Who does not answer holds up a claim for a moment only."""
    with start(3) as c:
        wait_known(c)
        one = c[0].client(topic, clean=False, props=KEPT)
        there = c[2].client(topic + "/there")
        os.kill(c[2].pid("router"), signal.SIGSTOP)
        two = c[1].client(topic, clean=False, props=KEPT)
        one.expect_disconnect(wire.SESSION_TAKEN_OVER)
        # It has this one, and cannot say so: both, until it is back.
        late = c[1].client(topic + "/there", clean=False, props=KEPT)
        os.kill(c[2].pid("router"), signal.SIGCONT)
        there.expect_disconnect(wire.SESSION_TAKEN_OVER)
        c.wait_linked()
        two.fence()
        late.fence()


def test_a_router_killed(topic):
    """What stores have is told to the next one."""
    with start(2) as c:
        wait_known(c)
        kept = [c[i].client("%s/%d" % (topic, i)) for i in (0, 1)]
        for i in (0, 1):
            pid = c[i].pid("router")
            c[i].kill("router")
            c[i].wait_ready("router", not_pid=pid)
        c.wait_linked()
        wait_known(c)
        for i in (0, 1):
            new = c[1 - i].client("%s/%d" % (topic, i))
            kept[i].expect_disconnect(wire.SESSION_TAKEN_OVER)
            new.fence()


def test_a_store_killed(topic):
    with start(2) as c:
        wait_known(c)
        kept = [c[0].client("%s/%d" % (topic, i), clean=i % 2 == 0,
                            props=KEPT if i % 2 else {}) for i in range(8)]
        for i in range(SHARDS):
            name = "session_store.%d" % i
            pid = c[0].pid(name)
            c[0].kill(name)
            c[0].wait_ready(name, not_pid=pid)
        wait_known(c)
        for i, one in enumerate(kept):
            new = c[1].client("%s/%d" % (topic, i))
            one.expect_disconnect(wire.SESSION_TAKEN_OVER)
            new.fence()


def test_a_replicant_changes_its_core(topic):
    with start(3, replicants=(2,)) as c:
        wait_known(c)
        core = next(i for i in (0, 1) if c.seen(2, i, "follows") == "yes")
        one = c[2].client(topic)
        c.kill(core)
        c.wait_seen(2, 1 - core, "follows", "yes")
        wait_known(c)
        two = c[1 - core].client(topic)
        one.expect_disconnect(wire.SESSION_TAKEN_OVER)
        two.fence()
