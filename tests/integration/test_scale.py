"""A node that gets more listeners and fewer while it serves: its
sockets are dealt anew."""

import os
import resource
import signal
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
    """Clients that connect and leave; what happened to each."""

    def __init__(self, node, threads=4):
        self.node = node
        self.served, self.refused, self.odd = 0, 0, []
        self.lock = threading.Lock()
        self.ends = threading.Event()
        self.threads = [threading.Thread(target=self.run)
                        for _ in range(threads)]

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *exc):
        self.ends.set()
        for t in self.threads:
            t.join()

    def one(self):
        try:
            with self.node.raw(on="external") as c:
                if c.connect(expect={0, 0x88}).reason == 0:
                    c.disconnect()
                    self.served += 1
                else:
                    self.refused += 1
        except wire.Closed:
            self.refused += 1       # one that drained, before or after CONNECT
        except (AssertionError, OSError) as e:
            with self.lock:
                self.odd.append(repr(e))

    def run(self):
        while not self.ends.is_set():
            self.one()
            time.sleep(0.005)


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
    """Nobody of a listener that stays notices."""
    stay = [small.client(on=i % 2, keepalive=0) for i in range(4)]
    for c in stay:
        c.subscribe("t/#", qos=1)
    crosses(stay, "t/0", 0)
    with Storm(small) as storm:
        for n, to in enumerate((8, 2, 8, 2)):
            scale(small, to)
            crosses(stay, "t/%d" % n, n)
            if to == 8:
                far = [small.client(on=i, keepalive=0) for i in range(2, 8)]
                for c in far:
                    c.subscribe("t/#", qos=1)
                crosses(stay + far, "t/far", n)
                for c in far:
                    c.close()
        end = time.monotonic() + 20
        while storm.served <= 100 and time.monotonic() < end:
            time.sleep(0.01)                # it goes on when we are quick
    assert storm.odd == []
    assert storm.served > 100
    assert storm.refused <= storm.served / 10
    for c in stay:
        c.fence()
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


# A listener that is full

def cpu_ticks(pid):
    with open("/proc/%d/stat" % pid) as f:
        rest = f.read().rsplit(")", 1)[1].split()
    return int(rest[11]) + int(rest[12])


def served_by(n):
    """{listener: clients}"""
    return {p: v for (p, m), v in n.metrics().items()
            if m == "connections" and p.startswith("listener.")}


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
