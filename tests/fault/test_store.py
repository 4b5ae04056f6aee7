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
