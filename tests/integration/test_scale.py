"""A node that gets more listeners and fewer while it serves: its
sockets are dealt anew."""

import json
import os
import resource
import signal
import subprocess
import threading
import time

import pytest

from support import mqttc, wire

if mqttc.FOREIGN:
    pytest.skip("needs nodes of its own", allow_module_level=True)


@pytest.fixture
def small():
    """Two listeners, with ports for eight."""
    n = mqttc.Node(listeners=8, start=False)
    n.port = mqttc.free_ports(10)
    n.each_port = n.port + 1
    n.listeners = 2
    n.start_once()
    try:
        yield n
    except BaseException:
        n.stop(check=False)
        raise
    n.stop()


@pytest.fixture
def make_full():
    """make_full(max_connections=5): a node whose listeners fill up."""
    made = []

    def make(max_connections, listeners=2):
        made.append(mqttc.Node(listeners=listeners, options={
            "listener.max_connections": str(max_connections)}))
        return made[-1]

    try:
        yield make
    except BaseException:
        for n in made:
            n.stop(check=False)
        raise
    for n in made:
        n.stop()


def scale(n, to):
    n.expected_gone.update(r["pid"] for k, r in n.status().items()
                           if k.startswith("listener.")
                           and int(k[9:]) >= to)
    n.tool("mqttc-ctl", "scale", "listener", str(to))


class Storm:
    """mqttc-bench on the port that all share."""

    def __init__(self, node, load, *args):
        self.gen = subprocess.Popen(
            [mqttc.program("mqttc-bench"), load, "--mqtt", "5", "--json",
             "--quiet", "--hold", "--patience", "20", "--port",
             str(node.port), *args],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.gen.kill()
        self.gen.communicate()

    def end(self, early):
        """Its figures: all have connected, or early."""
        if early:
            self.gen.send_signal(signal.SIGINT)
        assert self.gen.stdout.readline() == "done\n"
        out, _ = self.gen.communicate("\n", timeout=60)
        return json.loads(out)


def crosses(clients, topic, n):
    """Every client hears what every other one says."""
    for i, pub in enumerate(clients):
        body = b"%d.%d" % (n, i)
        pub.publish(topic, body, qos=1)
        for c in clients:
            p = c.read_until(lambda p: p.kind == wire.PUBLISH)
            assert p.payload == body
            c.complete(p)


def test_two_eight_two_under_a_storm(small):
    """5000 connections a second that leave at once, and 1000 that stay.
    Nobody of a listener that stays notices, nobody is reset, who is told to
    go is told so, and who has not said yet who he is, that he cannot stay."""
    stay = [small.client(on=i % 2, keepalive=0) for i in range(4)]
    for c in stay:
        c.subscribe("t/#", qos=1)
    crosses(stay, "t/0", 0)
    with Storm(small, "churn", "--clients", "200", "--rate", "5000",
               "--seconds", "600", "--warmup", "0") as churn, \
            Storm(small, "connect", "--clients", "3000", "--rate",
                  "1000") as kept:
        small.wait_metric("connects_total", lambda v: v > 1000)
        for n, to in enumerate((8, 2, 8, 2)):
            scale(small, to)
            crosses(stay, "t/%d" % n, n)
            if to == 8:
                far = [small.client(on=i, keepalive=0) for i in range(2, 8)]
                for c in far:
                    c.subscribe("t/#", qos=1)
                crosses(stay + far, "t/far", n)
                small.wait_metric("connects_total", lambda v: v > 50,
                                  process="listener.7")
                for c in far:
                    c.close()
        k = kept.end(early=False)
        c = churn.end(early=True)
    assert c["connects"] > 1000
    assert k["connects"] + k["refused"] == 3000
    for r in c, k:
        assert r["reset"] == 0 and r["closed"] == r["told"]
        assert r["refused"] <= r["connects"] / 10
    assert k["told"] > 0                    # of listeners that went away
    for s in stay:
        s.fence()
    small.check_alive()


def test_who_is_scaled_away_tells_its_clients(small):
    scale(small, 3)
    here = small.client(on=0)
    here.subscribe("will", qos=1)
    gone = small.client(on=2, will={"topic": "will"})
    gone.subscribe("t")
    assert "listener.2" in small.tool("mqttc-route", "list")
    scale(small, 2)
    gone.expect_disconnect(0x8B)
    here.read_until(lambda p: p.kind == wire.PUBLISH and p.topic == "will")
    end = time.monotonic() + 20
    while "listener.2" in small.tool("mqttc-route", "list"):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert not any(p == "listener.2" for p, _ in small.metrics())


def test_who_is_about_to_say_who_he_is_gets_an_answer(small):
    """Accepted by a listener that is scaled away, the CONNECT on its way."""
    scale(small, 3)
    late = [small.raw(on=2) for _ in range(20)]
    for c in late[:-1]:
        c.send_bytes(b"\x10")               # the start of a CONNECT
    with small.raw(on=2) as c:
        c.connect()                         # so the others are accepted
    scaling = threading.Thread(target=scale, args=(small, 2))
    scaling.start()
    small.wait_log("listener.2 listener.drain")
    for i, c in enumerate(late):
        connect = wire.connect_packet(wire.V5, client_id="late%d" % i)
        c.send_bytes(connect[1:] if c is not late[-1] else connect)
    for c in late:
        assert c.expect(wire.CONNACK).reason == wire.SERVER_UNAVAILABLE
        c.expect_closed()
    scaling.join()


# A listener that is full

def cpu_ticks(pid):
    with open("/proc/%d/stat" % pid) as f:
        rest = f.read().rsplit(")", 1)[1].split()
    return int(rest[11]) + int(rest[12])


def refused(n):
    return n.metric("accept_refused_total")


def try_one(n, **opts):
    """A client, or None if it was refused, as politely as can be."""
    c = n.raw(on="external")
    try:
        c.connect(expect={0, 0x97}, keepalive=0, **opts)
        if c.connack.reason == 0:
            return c
    except (wire.Closed, ConnectionError):
        pass
    c.close()
    return None


def test_who_is_full_leaves_clients_to_the_others(make_full):
    n = make_full(max_connections=10)
    first = [n.client(on=0, keepalive=0) for _ in range(10)]
    n.wait_log("listener.0 listener.full")
    n.wait_log("sockets.dealt moved=8")
    rest = [try_one(n) for _ in range(10)]      # all on the other one
    assert all(rest)
    assert refused(n) == 0
    n.wait_log("listener.1 listener.full")
    # All are full: who connects is refused, and nobody is busy with that.
    dealt = n.logs().count("sockets.dealt")
    assert [try_one(n) for _ in range(20)] == [None] * 20
    assert refused(n) == 20
    pids = [r["pid"] for k, r in n.status().items() if k != "supervise"]
    before = sum(map(cpu_ticks, pids))
    idle = [n.raw(on="external") for _ in range(5)]
    time.sleep(1)
    assert sum(map(cpu_ticks, pids)) - before < 20
    assert n.logs().count("sockets.dealt") <= dealt + 1
    # One has room again and is dealt all of them.
    rest.pop().disconnect()
    n.wait_log("listener.1 listener.room")
    end = time.monotonic() + 20
    while (c := try_one(n)) is None:
        assert time.monotonic() < end
    for c in first + rest + [c]:
        c.fence()
    assert len(idle) == 5
    n.check_alive()


def test_a_refusal_is_said_to_who_has_spoken(make_full):
    n = make_full(max_connections=1, listeners=1)
    n.client(on=0, keepalive=0)
    n.wait_log("listener.full")
    pid = n.pid("listener.0")
    for version, reason in ((wire.V5, 0x97), (wire.V311, 3)):
        os.kill(pid, signal.SIGSTOP)
        c = n.raw(on=0, version=version)
        c.send_bytes(wire.connect_packet(version, client_id="late"))
        os.kill(pid, signal.SIGCONT)
        assert c.expect(wire.CONNACK).reason == reason
        c.expect_closed()


def test_full_is_said_to_the_next_supervisor(make_full):
    n = make_full(max_connections=5)
    first = [n.client(on=0, keepalive=0) for _ in range(5)]
    n.wait_log("listener.0 listener.full")
    n.proc.kill()
    n.proc.wait()
    n.reader.join()
    n.start_once()
    end = time.monotonic() + 20
    while not all(got := [try_one(n) for _ in range(3)]):
        assert time.monotonic() < end
    for c in first + got:
        c.fence()


def test_out_of_descriptors(make_full):
    n = make_full(max_connections=100000)
    pid = n.pid("listener.0")
    # 128 are for the listener itself.
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (138, 138))
    # Its own port is its own: refused there, and the rest goes elsewhere.
    kept = []
    for _ in range(20):
        try:
            kept.append(n.client(on=0, keepalive=0))
        except (AssertionError, ConnectionError):
            pass
    assert len(kept) == 10
    n.wait_log("listener.0 listener.full")
    was = refused(n)
    assert was == 10
    n.wait_log("sockets.dealt moved=8")
    assert all([try_one(n) for _ in range(30)])
    assert refused(n) == was
    before = cpu_ticks(pid)
    time.sleep(1)
    assert cpu_ticks(pid) - before < 20
    for c in kept:
        c.fence()
        c.disconnect()
    n.wait_log("listener.0 listener.room")
    n.check_alive()


def test_accept_meets_the_descriptor_limit(make_full):
    """EMFILE, well before the listener would call itself full: others of the
    process took what it counted on."""
    n = make_full(max_connections=0)
    kept = [n.client(on=0, keepalive=0) for _ in range(3)]
    for a, b in (0, 1), (1, 0):             # libzmq needs some to connect
        n.wait_log("listener.%d bus.peer_up peer=listener.%d" % (a, b))
    n.wait_log("router router.synced owner=listener.0")
    n.wait_log("listener.0 bus.peer_up peer=session_store.0")
    n.wait_log("session_store.0 bus.peer_up peer=listener.0")
    pid = n.pid("listener.0")
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    taken = {int(fd) for fd in os.listdir("/proc/%d/fd" % pid)}
    lowest = min(set(range(max(taken) + 2)) - taken)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest, before[1]))
    for i, (version, reason) in enumerate(((wire.V5, 0x97), (wire.V311, 3))):
        os.kill(pid, signal.SIGSTOP)
        c = n.raw(on=0, version=version)
        c.send_bytes(wire.connect_packet(version, client_id="late"))
        os.kill(pid, signal.SIGCONT)
        assert c.expect(wire.CONNACK).reason == reason
        c.expect_closed()
        assert refused(n) == i + 1
    n.wait_log("listener.0 listener.full")
    assert "limit=descriptors" in n.logs()
    n.wait_log("sockets.dealt moved=8")
    assert all([try_one(n) for _ in range(30)])     # by the other one
    assert refused(n) == 2
    before_ticks = cpu_ticks(pid)
    time.sleep(1)                           # in which it has nothing to do
    assert cpu_ticks(pid) - before_ticks < 20
    for c in kept:
        c.fence()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    kept.pop().disconnect()
    n.wait_log("listener.0 listener.room")
    n.client(on=0, keepalive=0).fence()
    n.check_alive()


def test_room_is_left_for_the_bus_of_many_listeners(make_full):
    """Each sibling takes descriptors of a listener, and so does a store: 5,
    and 8 are left."""
    n = make_full(max_connections=0, listeners=16)
    for i in range(1, 16):
        n.wait_log("listener.0 bus.peer_up peer=listener.%d " % i)
    n.wait_log("listener.0 bus.peer_up peer=session_store.0 ")
    pid = n.pid("listener.0")
    limit = 64 + 8 * 16 + 10
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))
    for _ in range(10):
        n.client(on=0, keepalive=0)
    n.wait_log("listener.0 listener.full clients=10 limit=connections")
    n.kill("listener.7")                    # all are connected to anew
    n.wait_ready("listener.7", not_pid=n.pids["listener.7"])
    incarnation = n.status()["listener.7"]["incarnation"]
    n.wait_log("listener.0 bus.peer_up peer=listener.7 incarnation=%s"
               % incarnation)
    n.check_alive()
