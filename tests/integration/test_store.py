"""mqttc-session-store as a process of its node: its directory, its place among
the others, its end."""

import os
import signal
import subprocess

import pytest

from support import mqttc, wire
from support.durable import durable, leave

if mqttc.FOREIGN:
    pytest.skip("needs nodes of its own", allow_module_level=True)

EX_USAGE, EX_CANTCREAT, EX_TEMPFAIL, EX_CONFIG = 64, 73, 75, 78


def data(node, *path):
    return os.path.join(node.dir, "data", *path)


def test_it_serves_beside_the_others(make_node, topic):
    node = make_node(listeners=2, options={"session_store.processes": "2"})
    names = [k for k in node.status() if k.startswith("session_store.")]
    assert names == ["session_store.0", "session_store.1"]
    for name in names:
        mode = os.stat(data(node, name)).st_mode
        assert mode & 0o777 == 0o700
        with open(data(node, name, "lock")) as f:
            assert int(f.read()) == node.pid(name)
        node.wait_log("%s store.open" % name)
        node.wait_metric("store_listeners", lambda v: v == 2, name)
    sub, pub = node.client(on=0), node.client(on=1)
    sub.subscribe(topic, qos=1)
    assert node.metric("suback_timeouts_total") == 0
    pub.publish(topic, b"as ever", qos=1)
    sub.complete(sub.read_publish())
    node.kill("session_store.1", signal.SIGUSR1)
    node.wait_log("session_store.1 store.summary shard=1 shards=2")


def test_killed_it_comes_back_and_nobody_notices(make_node, topic):
    node = make_node(listeners=2)
    sub, pub = node.client(on=0), node.client(on=1)
    sub.subscribe(topic, qos=1)
    for i in range(3):
        pid = node.kill("session_store.0")
        pub.publish(topic, b"%d" % i, qos=1)
        sub.complete(sub.read_publish())
        row = node.wait_ready("session_store.0", not_pid=pid)
        assert row["restarts"] == i + 1
    node.tool("mqttc-ctl", "restart", "session_store.0")
    assert node.status()["session_store.0"]["restarts"] == 4
    pid = node.kill("router")
    node.wait_ready("router", not_pid=pid)
    node.wait_log("router.phase phase=serving")


def test_the_router_does_not_wait_for_it(make_node):
    node = make_node(listeners=1)
    serving = node.logs().count("phase=serving")
    node.tool("mqttc-ctl", "restart", "router")
    node.wait(lambda s: node.logs().count("phase=serving") > serving)


def test_one_process_works_in_a_directory(make_node):
    """Two nodes with one node.data_dir."""
    node = make_node(listeners=1)
    other = mqttc.Node(listeners=1, start=False)
    other.options["node.data_dir"] = data(node)
    other.port = mqttc.free_ports(3)
    other.each_port = other.port + 1
    proc = subprocess.Popen(
        [mqttc.program("mqttc-supervise"), *other.arguments()],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=open(os.path.join(other.dir, "stderr"), "w"),
        env=other.environment(), preexec_fn=mqttc.die_with_parent)
    try:
        other.err_path = os.path.join(other.dir, "stderr")
        other.wait_log("store.locked")
        s = other.wait(lambda s: "exit code 75" in s["session_store.0"]["note"])
        assert s["router"]["state"] == "ready"
        assert node.status()["session_store.0"]["restarts"] == 0
    finally:
        proc.send_signal(signal.SIGTERM)
        assert proc.wait(30) == 0


def test_a_directory_that_cannot_be_made(make_node):
    node = make_node(listeners=1, start=False)
    os.makedirs(data(node))
    with open(data(node, "session_store.0"), "w"):
        pass                                    # a file is in its place
    node.port = mqttc.free_ports(3)
    node.each_port = node.port + 1
    node.err_path = os.path.join(node.dir, "stderr")
    done = subprocess.Popen(
        [mqttc.program("mqttc-supervise"), *node.arguments()],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=open(node.err_path, "w"), env=node.environment(),
        preexec_fn=mqttc.die_with_parent)
    try:
        node.wait_log("store.dir")
        assert "Not a directory" in node.logs()
        os.unlink(data(node, "session_store.0"))
        node.wait(lambda s: s["session_store.0"]["state"] == "ready")
    finally:
        done.send_signal(signal.SIGTERM)
        assert done.wait(30) == 0


def test_another_number_of_shards_is_refused(make_node):
    node = make_node(listeners=1)
    node.client().subscribe("x")
    node.close_clients()
    assert node.terminate() == 0
    node.proc = None
    node.options["session_store.processes"] = "2"
    done = subprocess.run(
        [mqttc.program("mqttc-supervise"), *node.arguments()],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30,
        env=node.environment())
    assert done.returncode == EX_CONFIG
    assert "shards.fixed" in done.stderr and "made for 1" in done.stderr
    assert not os.path.exists(data(node, "session_store.1"))
    node.options["session_store.processes"] = "1"
    node.start()
    assert node.status()["session_store.0"]["state"] == "ready"


def test_options(make_node):
    program = mqttc.program("mqttc-session-store")

    def run(*args):
        return subprocess.run([program, *args], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=30)

    done = run("-V")
    assert done.returncode == 0
    assert done.stdout.startswith("mqttc-session-store ")
    assert run("-h").stdout.startswith("usage: mqttc-session-store ")
    assert run("-t").returncode == 0
    done = run("-t", "-o", "session.sync=sometimes")
    assert done.returncode == EX_CONFIG
    assert "always, never, or interval:" in done.stderr
    done = run("-n", "listener.0")
    assert done.returncode == EX_USAGE and "session_store" in done.stderr
    node = make_node(listeners=1)
    done = subprocess.run([program, "-n", "session_store.1",
                           *node.arguments()], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=30)
    assert done.returncode == 69 and "no such process" in done.stderr


# --- A store that stands still ----------------------------------------------

def holder(node, shard, shards, n=20):
    """Client ids whose store is that shard: those that a stopped other one
    does not keep from connecting."""
    others = [node.kill("session_store.%d" % i, signal.SIGSTOP)
              for i in range(shards) if i != shard]
    try:
        for i in range(n):
            c = node.raw()
            c.send_bytes(wire.connect_packet(client_id="id%d" % i, clean=False,
                                             props={"session_expiry_interval":
                                                    3600}))
            p = c.read_packet()
            if p.reason == 0:
                return "id%d" % i
        raise AssertionError("no id of shard %d" % shard)
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)


def test_what_a_stopped_store_has_no_room_for_waits_in_the_log(make_node):
    """A QoS 2 message of a stored session goes through its own store, and from
    there to the other one, whose stream is soon full."""
    n = 600
    node = make_node(listeners=2, options={
        "session_store.processes": "2", "bus.stream_max": "64KB", "bus.credit": "64KB",
        "session.attach_timeout": "300ms", "supervise.hang_timeout": "1m",
        "mqtt.max_offline_queue_bytes": "100MB"})
    publisher, subscriber = holder(node, 0, 2), holder(node, 1, 2)
    c = durable(node, subscriber, on=1)
    c.subscribe("t", qos=2)
    leave(node, c)
    pub = durable(node, publisher)
    pid = node.kill("session_store.1", signal.SIGSTOP)
    try:
        for i in range(n):
            assert pub.publish("t", b"%03d" % i + b"x" * 400, qos=2) == 0
        assert node.metric("store_unacknowledged", "session_store.0") == n
    finally:
        os.kill(pid, signal.SIGCONT)
    pub.publish("t", b"%03d" % n, qos=2)
    c = durable(node, subscriber, on=1, present=True, auto=True)
    got = [c.read_until(lambda p: p.kind == wire.PUBLISH)
           for _ in range(n + 1)]
    assert [int(p.payload[:3]) for p in got] == list(range(n + 1))
    node.wait_metric("store_unacknowledged", lambda v: v == 0, "session_store.0")
    assert node.metric("store_unsent_total") == 0


def test_what_nobody_wants_is_done_with_at_once(make_node):
    """Not when something else is acknowledged, which may be never: until then
    the log cannot be shortened past it."""
    node = make_node(listeners=1)
    pub = node.client()
    for i in range(5):
        pub.publish("nobody/%d" % i, b"x", qos=1, retain=True)
    node.wait_metric("store_unacknowledged", lambda v: v == 0,
                     "session_store.0")
