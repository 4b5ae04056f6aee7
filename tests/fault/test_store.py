"""The session store meets failures of the system, one at a time."""

import os
import signal
import subprocess

import pytest

from support import mqttc
from support.keeper import unstarted

pytestmark = pytest.mark.skipif(mqttc.FOREIGN is not None,
                                reason="needs nodes of its own")


@pytest.fixture(autouse=True)
def fault_points():
    with open(mqttc.program("mqttc-session-store"), "rb") as f:
        if b"store.mkdir" not in f.read():
            pytest.skip("no fault points in these programs")


@pytest.mark.parametrize("point", ["store.mkdir", "store.lock"])
def test_a_store_that_does_not_start_keeps_nobody_else_away(point):
    n = unstarted(mqttc.Node)
    n.env["FAULTS"] = point + ":nth=1"          # of each process
    n.err_path = os.path.join(n.dir, "stderr")
    with open(n.err_path, "w") as err:
        supervise = subprocess.Popen(
            [mqttc.program("mqttc-supervise"), *n.arguments()],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err,
            env=n.environment(), preexec_fn=mqttc.die_with_parent)
    try:
        n.wait(lambda s: s["listener.0"]["state"] == "ready"
               and s["listener.1"]["state"] == "ready"
               and s["session_store.0"]["restarts"] > 0)
        assert "store.dir" in n.logs()
        sub, pub = n.client(on=0), n.client(on=1)
        sub.subscribe("x", qos=1)
        pub.publish("x", b"as ever", qos=1)
        sub.complete(sub.read_publish())
        n.close_clients()
    finally:
        supervise.send_signal(signal.SIGTERM)
        assert supervise.wait(30) == 0


def test_what_is_stored_is_retained_before_it_is_published():
    """A store that is starting does not know to whom its messages go. What
    it acknowledged is what a subscriber is told all the same, also what an
    earlier one had taken and not retained yet."""
    env = {"FAULTS": "store.onward:nth=0,store.retained:nth=2:do=kill"}
    with mqttc.Node(listeners=1, env=env) as node:
        before = node.pid("session_store.0")
        pub = node.client()
        for body in (b"first", b"second"):
            pub.publish("t", body, qos=1, retain=True)
        node.expected_gone.add(before)
        node.wait_ready("session_store.0", not_pid=before)
        sub = node.client()
        sub.subscribe("t", qos=1)
        p = sub.read_publish()
        assert (p.payload, bool(p.retain)) == (b"second", True)
        sub.complete(p)
        pub.publish("t", b"third", qos=1, retain=True)
        sub = node.client()
        sub.subscribe("t", qos=1)
        assert sub.read_publish().payload == b"third"
