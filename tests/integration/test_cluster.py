"""Several nodes: their routers find each other, and each knows what the others
have subscribers for (lib/mesh, lib/rlog, cmd/mqttc-router/nodes.c). What the
index says is the end here: messages between nodes are others' business."""

import os
import signal
import socket

import pytest

from support import mqttc, wire
from support.cluster import META_PORT, Cluster

pytestmark = pytest.mark.skipif(mqttc.FOREIGN is not None,
                                reason="needs nodes of its own")

# A router that is waited for is waited for, however busy this machine is.
PATIENT = {"cluster.suback_timeout": "30s"}


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


# --- Routes -------------------------------------------------------------------

def test_what_one_node_subscribes_to_the_others_know(make_cluster):
    c = make_cluster(2, listeners=2)
    sub, more = c[1].client("sub", on=0), c[1].client("more", on=1)
    sub.subscribe("a/+/b", qos=1)
    assert list(c.routes(0)["a/+/b", None]) == [c.names[1]]
    assert c.match(0, "a/x/b") == {c.names[1]: "up"}
    assert c.match(0, "a/x/c") == {}
    assert list(c.routes(1)["a/+/b", None]) == ["listener.0"]
    more.subscribe("a/+/b")                     # one row, whoever has it
    sub.unsubscribe("a/+/b")
    c.wait_for(lambda: list(c.routes(1)["a/+/b", None]) == ["listener.1"],
               "the first one left")
    assert c.match(0, "a/x/b") == {c.names[1]: "up"}
    more.close()                                # the last one: it goes
    c.wait_match(0, "a/x/b", [])
    assert c.routes(0) == {}


def test_after_the_suback_every_index_has_it(make_cluster):
    c = make_cluster(3, options=PATIENT)
    subs = [c[i].client("s%d" % i) for i in range(3)]
    for k in range(8):
        i = k % 3
        subs[i].subscribe("t/%d/#" % k, qos=1)
        for j in range(3):
            want = "listener.0" if j == i else c.names[i]
            assert set(c.match(j, "t/%d/x" % k)) == {want}, (k, i, j)
    # 8 rows and the name of each node, everywhere the same.
    s = [c.stats(i) for i in range(3)]
    for j in range(3):
        digests = {c.seen(i, j, "digest", s[i]) for i in range(3) if i != j}
        assert len(digests) == 1
    assert c[0].metric("suback_timeouts_total") == 0


def test_a_suback_waits_for_a_router_that_stands_still(make_cluster):
    c = make_cluster(2, options=PATIENT)
    sub = c[1].client("sub")
    stopped = c[0].pid("router")
    os.kill(stopped, signal.SIGSTOP)
    try:
        sub.send_bytes(wire.subscribe_packet(wire.V5, 7, [("t", 1)]))
        sub.fence()                             # answered at once: no SUBACK
        assert not [p for p in sub.inbox if p.kind == wire.SUBACK]
    finally:
        os.kill(stopped, signal.SIGCONT)
    sub.expect(wire.SUBACK, 7)
    assert c.match(0, "t") == {c.names[1]: "up"}


def test_a_node_that_is_down_holds_up_no_suback(make_cluster):
    """Silent for 2 s: it is not waited for, long before the timeout."""
    c = make_cluster(2, options=PATIENT)
    sub = c[1].client("sub")
    stopped = c[0].pid("router")
    os.kill(stopped, signal.SIGSTOP)
    try:
        sub.subscribe("t", qos=1)
        c.wait_seen(1, 0, "state", "down")
    finally:
        os.kill(stopped, signal.SIGCONT)
    c.wait_match(0, "t", [c.names[1]])
    c.wait_linked()
    assert c[1].metric("suback_timeouts_total") == 0


def test_live_and_durable_are_told_apart(make_cluster):
    c = make_cluster(2)
    keep = {"session_expiry_interval": 600}
    sub = c[1].client("kept", props=keep)
    sub.subscribe("t", qos=1)
    durable = c.names[1] + "/durable"
    assert set(c.match(0, "t")) == {c.names[1], durable}
    sub.disconnect()
    c.wait_match(0, "t", [durable])             # its session is there still
    assert list(c.routes(0, "--owner", durable)) == [("t", None)]
    assert c.routes(0, "--owner", c.names[1]) == {}
    c[1].tool("mqttc-ctl", "restart", "session_store.0")
    assert set(c.match(0, "t")) == {durable}


def test_groups_carry_their_members_rounded(make_cluster):
    c = make_cluster(2, listeners=2)
    members = []

    def seen():
        rows = c.routes(0).get(("t", "g"), {})
        return rows[c.names[1]]["members"] if rows else 0
    for k, want in enumerate((1, 2, 2, 4, 4), 1):
        m = c[1].client("m%d" % k, on=k % 2)
        m.subscribe("$share/g/t", qos=1)
        members.append(m)
        assert seen() == want, k
    while members:
        members.pop().close()
        want = {0: 0, 1: 1, 2: 2, 3: 2, 4: 4}[len(members)]
        c.wait_for(lambda: seen() == want, "%d members" % want)


def test_a_listener_that_dies_takes_its_rows_along(make_cluster):
    c = make_cluster(2, listeners=2)
    gone, stays = c[1].client("gone", on=1), c[1].client("stays", on=0)
    for k in range(50):
        gone.subscribe("g/%d" % k)
    gone.subscribe("both")
    stays.subscribe("both")
    pid = c[1].kill("listener.1")
    c.wait_for(lambda: list(c.routes(0)) == [("both", None)],
               "only one is left")
    c[1].wait_ready("listener.1", not_pid=pid)


# --- Nodes come and go ---------------------------------------------------------

def test_a_node_that_goes_is_masked_and_its_routes_stay(make_cluster):
    c = make_cluster(3)
    sub = c[2].client("kept", props={"session_expiry_interval": 600})
    sub.subscribe(["t", "u/#"], qos=1)
    both = {c.names[2], c.names[2] + "/durable"}
    assert set(c.match(0, "t")) == both
    c.kill(2)
    for i in (0, 1):
        c.wait_seen(i, 2, "state", "down")
        assert c.match(i, "u/x") == dict.fromkeys(both, "down")
        assert c.seen(i, 2, "routes") == "4"
    c.start([2])
    # What is on its disk is there, what was connected is not.
    for i in (0, 1):
        c.wait_for(lambda: c.match(i, "u/x") ==
                   {c.names[2] + "/durable": "up"}, "it is back")


def test_nodes_started_one_by_one_are_one_cluster(make_cluster):
    c = make_cluster(3, start=False)
    c.start([2])
    sub = c[2].client("sub")
    sub.subscribe("first")
    c.start([0])
    assert set(c.match(0, "first")) == {c.names[2]}
    c.start([1])
    assert set(c.match(1, "first")) == {c.names[2]}
    c.stop(0)
    c.wait_seen(1, 0, "state", "down")
    sub.subscribe("second")
    assert set(c.match(1, "second")) == {c.names[2]}


def test_a_router_that_is_killed_loses_nobodys_routes(make_cluster):
    c = make_cluster(2)
    far, near = c[0].client("far"), c[1].client("near")
    far.subscribe("far/#")
    near.subscribe("near/#")
    near.subscribe("old")
    pid = c[1].kill("router")
    # The others keep what it told.
    assert set(c.match(0, "near/x")) == {c.names[1]}
    assert set(c.match(0, "old")) == {c.names[1]}
    c[1].wait_ready("router", not_pid=pid)
    # The index it published had those of the others from the start.
    assert set(c.match(1, "far/x")) == {c.names[0]}
    c.wait_linked()
    assert c.match(0, "near/x") == {c.names[1]: "up"}
    near.unsubscribe("old")
    c.wait_match(0, "old", [])
    assert set(c.routes(0)) == {("far/#", None), ("near/#", None)}


def test_what_went_while_a_router_was_away_goes_everywhere(make_cluster):
    """A new incarnation replaces the rows of the one before at its end mark."""
    c = make_cluster(2, listeners=2)
    stays, goes = c[1].client("stays", on=0), c[1].client("goes", on=1)
    stays.subscribe("stays")
    goes.subscribe("goes")
    assert set(c.match(0, "goes")) == {c.names[1]}
    stopped = c[1].kill("router", signal.SIGSTOP)
    os.kill(c[1].pid("listener.1"), signal.SIGKILL)
    c[1].expected_gone.add(c[1].pids["listener.1"])
    c[1].kill("router")
    c[1].wait_ready("router", not_pid=stopped)
    c.wait_match(0, "goes", [])
    assert c.match(0, "stays") == {c.names[1]: "up"}


# --- Who is no node --------------------------------------------------------------

def test_another_cookie_is_refused_and_logged_on_both_sides(make_cluster):
    c = make_cluster(2, start=False,
                     each={1: {"node.cookie": "another one"}})
    c.start(linked=False)
    c[0].wait_log("mesh.call_failed")
    c[1].wait_log("mesh.call_failed")
    for i in (0, 1):
        c[i].wait_log("mesh.handshake_failed")
        assert "wrong cookie" in c[i].logs()
        assert c[i].metric("mesh_handshakes_failed_total") > 0
        assert c[i].metric("mesh_links") == 0
        assert "another one" not in c[i].logs()
    sub = c[0].client("sub")
    sub.subscribe("t")                          # a node by itself
    assert c.routes(1) == {}


def test_strangers_on_the_port_harm_nobody(make_cluster):
    c = make_cluster(2)
    addr = (c.net + "1", META_PORT)
    strangers = []
    for noise in (b"", b"GET / HTTP/1.0\r\n\r\n", b"\xff" + b"\0" * 8 + b"\x7f",
                  b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0CURVE" + b"\0" * 47,
                  os.urandom(100000)):
        s = socket.create_connection(addr)
        strangers.append(s)
        try:
            s.sendall(noise)
        except OSError:
            pass
    c[0].wait_metric("mesh_handshakes_failed_total", lambda v: v >= 3)
    sub = c[1].client("sub")
    sub.subscribe("t")
    assert set(c.match(0, "t")) == {c.names[1]}
    assert c[0].metric("mesh_down_total") == 0
    for s in strangers:
        s.close()


def test_without_a_cluster_there_is_no_port_and_no_metric():
    with mqttc.Node(listeners=1) as node:
        assert not [m for p, m in node.metrics() if m.startswith("mesh_")]
        assert "router.bound" not in node.logs()
        assert not os.path.exists(os.path.join(node.dir, "data", "cookie"))


def test_a_port_that_is_taken_is_tried_again(make_cluster):
    c = make_cluster(2, start=False)
    with socket.socket() as s:
        s.bind((c.net + "1", META_PORT))
        s.listen()
        c.start(linked=False)                   # it serves all the same
        c[0].wait_log("router.bind")
        c[0].client("sub").subscribe("t")
    c.wait_linked()
    assert set(c.match(1, "t")) == {c.names[0]}


def test_a_cookie_is_made_for_who_has_none(make_cluster):
    c = make_cluster(1, options={"node.cookie": None})
    path = os.path.join(c[0].dir, "data", "cookie")
    assert os.stat(path).st_mode & 0o777 == 0o600
    with open(path) as f:
        cookie = f.read().strip()
    assert len(cookie) == 64 and cookie not in c[0].logs()


# --- Replicants -------------------------------------------------------------------

def follows(c, i):
    """The numbers of the nodes that node i follows."""
    s = c.stats(i)
    return [j for j in range(len(c)) if j != i and
            c.seen(i, j, "follows", s) == "yes"]


def test_replicants_know_all_and_are_known_to_all(make_cluster):
    c = make_cluster(4, options=PATIENT, replicants=[2, 3])
    for i in (2, 3):
        assert len(follows(c, i)) == 1
        assert c.seen(i, 0, "role") == "core"
        assert c.seen(i, 5 - i, "link") == "none"   # no replicant with another
    clients = [c[i].client("c%d" % i) for i in range(4)]
    for i, client in enumerate(clients):
        client.subscribe("t/%d" % i, qos=1)
        for j in range(4):
            want = "listener.0" if j == i else c.names[i]
            assert set(c.match(j, "t/%d" % i)) == {want}, (i, j)
    c.wait_for(lambda: sum(c[i].metric("rlog_replicants")
                           for i in (0, 1)) == 2, "two replicants")


def test_a_replicant_whose_core_dies_goes_on_with_another(make_cluster):
    c = make_cluster(3, options=PATIENT, replicants=[2])
    sub, far = c[2].client("sub"), c[0].client("far")
    sub.subscribe("mine", qos=1)
    far.subscribe("far")
    before = follows(c, 2)[0]
    pid = c[before].kill("router")
    c.wait_for(lambda: follows(c, 2) == [1 - before], "the other core")
    other = 1 - before
    c.wait_match(other, "mine", [c.names[2]])
    sub.subscribe("more", qos=1)
    assert set(c.match(other, "more")) == {c.names[2]}
    assert set(c.match(2, "far")) == {c.names[0]}
    assert c[2].status()["listener.0"]["restarts"] == 0
    sub.fence()                                 # it never noticed
    c[before].wait_ready("router", not_pid=pid)
    c.wait_linked()
    assert set(c.match(before, "more")) == {c.names[2]}


# --- Figures ------------------------------------------------------------------------

def test_the_figures_of_replication_are_there(make_cluster):
    c = make_cluster(2)
    sub = c[1].client("sub")
    for k in range(20):
        sub.subscribe("t/%d" % k)
    c[1].wait_metric("rlog_last_intercepted_trans", lambda v: v >= 21)
    c[0].wait_metric("rlog_lag", lambda v: v == 0)
    for name in ("rlog_weight", "rlog_replicants", "rlog_server_mql",
                 "rlog_bootstrap_time", "rlog_bootstrap_num_keys",
                 "rlog_message_queue_len", "rlog_replayq_len"):
        assert c[0].metric(name) == 0, name
    c[0].wait_metric("rlog_status", lambda v: v == 3)
    c[0].wait_metric("router_nodes_up", lambda v: v == 1)
    c[0].wait_metric("router_node_rows_total", lambda v: v >= 20)
    assert c[0].metric("mesh_links") == 1
