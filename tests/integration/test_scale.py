"""A node that gets more listeners and fewer while it serves: DESIGN section 1,
dealt sockets."""

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
            with wire.connect(self.node.addr("external")) as c:
                c.disconnect()
            self.served += 1
        except wire.Closed:
            self.refused += 1       # one that drained, before or after CONNECT
        except wire.Bad as e:
            with self.lock:
                if "0x88" in str(e) or "136" in str(e):
                    self.refused += 1
                else:
                    self.odd.append(repr(e))
        except OSError as e:
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
