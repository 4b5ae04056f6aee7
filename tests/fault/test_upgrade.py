"""An upgrade in which one of the three dies or stops at any moment: exactly
one process serves the clients afterwards. Which one, and whether they notice,
depends on who died and when."""

import os
import signal
import subprocess
import time

import pytest

from support import mqttc, wire

pytestmark = pytest.mark.skipif(mqttc.FOREIGN is not None,
                                reason="needs nodes of its own")


@pytest.fixture(scope="session", autouse=True)
def fault_points():
    with open(mqttc.program("mqttc-listener"), "rb") as f:
        if b"handover.send" not in f.read():
            pytest.skip("no fault points in these programs")


class Clients:
    """Some of them with something half done, on both listeners."""

    def __init__(self, node, topic):
        self.topic = topic
        self.sub = node.client(on=0)
        self.sub.subscribe(topic, qos=2)
        self.far = node.client(on=1)
        self.far.subscribe(topic, qos=1)
        self.slow = node.client(on=0, rcvbuf=4096)
        self.slow.subscribe(topic + "/slow", qos=1)
        self.pub = node.client(on=0)
        for i in range(30):
            self.far.publish(topic + "/slow", b"%02d" % i + b"s" * 100000,
                             qos=1)
        self.idle = [node.client(on=0) for _ in range(200)]
        self.pub.publish(topic, b"open", qos=2)
        self.open = self.sub.read_publish()
        self.far.complete(self.far.read_publish())

    def go_on(self):
        """All of them are where they were."""
        self.sub.complete(self.open)
        for i in range(10):
            self.pub.publish(self.topic, b"%d" % i, qos=1 + i % 2)
            for c in (self.sub, self.far):
                p = c.read_publish()
                assert int(p.payload) == i
                c.complete(p)
        for i in range(30):
            p = self.slow.read_publish()
            assert p.payload == b"%02d" % i + b"s" * 100000
            self.slow.puback(p.pid)
        for c in [self.sub, self.far, self.slow, self.pub] + self.idle:
            c.expect_nothing()

    def are_gone(self):
        for c in [self.sub, self.slow, self.pub] + self.idle:
            c.drain()
        self.far.expect_nothing()


def serves(node, pid=None):
    """The listener is ready, and alone; a new client is served."""
    node.wait(lambda s: s["listener.0"]["state"] == "ready"
              and s["listener.0"]["note"] == ""
              and pid in (None, s["listener.0"]["pid"]))
    end = time.monotonic() + 20
    while True:
        running = [p for p, line in
                   mqttc.processes_marked(node.mark).items()
                   if "listener.0" in line]
        if running == [node.pid("listener.0")]:
            break
        assert time.monotonic() < end, running
        time.sleep(0.02)
    node.client(on=0).expect_nothing()
    node.client(on="external").expect_nothing()


def upgrade(node):
    return node.tool("mqttc-ctl", "upgrade", "listener.0", check=False,
                     timeout=60)


OPTIONS = {"supervise.hang_timeout": "4s"}

# Where the successor or the old one stumbles, and still or no longer may.
BEFORE = ["handover.recv:nth=1", "handover.recv:nth=5", "handover.send:nth=1",
          "handover.send:nth=4"]


@pytest.mark.parametrize("point", [
    p + how for p in BEFORE for how in ("", ":do=kill", ":do=stop")
    if not (p.startswith("handover.send") and how)]
    + ["handover.prepared:nth=1:do=stop", "handover.prepared:nth=1:do=kill",
       "handover.take:nth=1:do=kill", "handover.take:nth=1:do=stop"])
def test_the_old_one_serves_on(make_node, topic, point):
    """The successor fails, dies or stops before it has taken; or the old one
    cannot tell."""
    node = make_node(listeners=2, options=OPTIONS, env={"FAULTS": point})
    pid = node.pid("listener.0")
    clients = Clients(node, topic)
    done = upgrade(node)
    assert done.returncode in (74, 75), done
    assert "listener.0 was not upgraded: " in done.stderr
    serves(node, pid)
    clients.go_on()
    assert node.metric("upgrades_failed_total") == 1
    # And once more: also after a failure it is as it was.
    done = upgrade(node)
    assert (done.returncode == 0) == point.startswith("handover.send")
    if done.returncode:
        serves(node, pid)
    node.pids["listener.0"] = node.pid("listener.0")


@pytest.mark.parametrize("nth", [1, 3])
def test_the_old_one_dies_before_all_is_told(make_node, topic, nth):
    node = make_node(listeners=2, env={
        "FAULTS": "handover.send:nth=%d:do=kill" % nth})
    pid = node.pid("listener.0")
    clients = Clients(node, topic)
    done = upgrade(node)
    assert done.returncode == 75 and "died" in done.stderr, done
    node.expected_gone.add(pid)
    clients.are_gone()
    serves(node)
    row = node.status()["listener.0"]
    assert row["restarts"] == 1 and row["pid"] != pid
    node.pids["listener.0"] = row["pid"]


@pytest.mark.parametrize("point", ["handover.commit:nth=1:do=kill",
                                   "handover.committed:nth=1:do=kill"])
def test_the_old_one_dies_when_all_is_told(make_node, topic, point):
    """Nobody notices: the successor knows everything."""
    node = make_node(listeners=2, env={"FAULTS": point})
    pid = node.pid("listener.0")
    clients = Clients(node, topic)
    done = upgrade(node)
    assert done.returncode == 0, done
    node.expected_gone.add(pid)
    serves(node)
    row = node.status()["listener.0"]
    assert row["restarts"] == 0 and row["pid"] != pid
    clients.go_on()
    node.pids["listener.0"] = row["pid"]


@pytest.mark.parametrize("point", ["handover.commit:nth=1:do=stop",
                                   "handover.committed:nth=1:do=stop"])
def test_the_old_one_stops(make_node, topic, point):
    """It is silent, so it is killed; then its place is the successor's, if
    that is still there: at any rate one process serves."""
    node = make_node(listeners=2, options=OPTIONS, env={"FAULTS": point})
    pid = node.pid("listener.0")
    clients = Clients(node, topic)
    done = upgrade(node)
    node.expected_gone.add(pid)
    node.wait(lambda s: s["listener.0"]["pid"] not in (0, pid))
    serves(node)
    row = node.status()["listener.0"]
    if done.returncode == 0:
        assert row["restarts"] == 0
        clients.go_on()
    else:
        assert row["restarts"] == 1
        clients.are_gone()
    node.pids["listener.0"] = row["pid"]


@pytest.mark.parametrize("nth", [1, 2, 3, 4, 5])
def test_the_supervisor_dies(make_node, topic, nth):
    """At each of its steps: a listener serves, nobody is closed, and the next
    supervisor adopts it."""
    node = make_node(listeners=2, env={
        "FAULTS": "supervise.upgrade:nth=%d:do=kill" % nth})
    clients = Clients(node, topic)
    done = upgrade(node)
    assert done.returncode == 69, done
    assert node.proc.wait(30) == -9
    del node.env["FAULTS"]
    node.start_once()
    serves(node)
    clients.go_on()
    assert node.status()["listener.0"]["restarts"] == 0
    done = upgrade(node)
    assert done.returncode == 0, done
    clients.pub.publish(topic, b"11", qos=1)
    clients.sub.complete(clients.sub.read_publish())
    node.pids["listener.0"] = node.pid("listener.0")
