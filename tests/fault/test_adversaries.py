"""Clients that mean ill, or behave as if they did, beside some that behave:
what the node takes in memory stays below what its limits add up to, and those
who behave lose nothing. What it costs them in latency is printed."""

import json
import signal
import subprocess
import threading
import time

import pytest

from support import mqttc, wire

pytestmark = pytest.mark.skipif(mqttc.FOREIGN is not None,
                                reason="needs a node of its own")

KB, MB = 1 << 10, 1 << 20
OUTPUT, QUEUE, QUEUED, PACKET = 64 * KB, 64 * KB, 100, 256 * KB
CREDIT, STREAM = MB, 4 * MB
OPTIONS = {
    "listener.output_max": "%dKB" % (OUTPUT // KB),
    "mqtt.max_mqueue_bytes": "%dKB" % (QUEUE // KB),
    "mqtt.max_mqueue_len": str(QUEUED),
    "mqtt.max_packet_size": "%dKB" % (PACKET // KB),
    "bus.credit": "%dMB" % (CREDIT // MB),
    "bus.stream_max": "%dMB" % (STREAM // MB),
    "listener.connect_timeout": "5s",
}

# What the limits do not name: a connection and its tables; the last chunk of
# an output, not full; a place in a queue.
CLIENT, CHUNK, PLACE = 2 * KB, 32 * KB, 256
# What a process has at hand: read buffers, pools of chunks, what the
# allocator keeps, room for growth of tables; streams in both directions.
PROCESS = 24 * MB
SANITIZED = "asan" in mqttc.BIN or "ubsan" in mqttc.BIN


def bound(clients=0, outputs=0, partial=0, listeners=2):
    """Bytes that so many clients may take, of them some with an output and
    queue that are full, and some in the midst of a packet."""
    streams = listeners * (listeners - 1) * 2 * (STREAM + CREDIT)
    return (clients * CLIENT + partial * PACKET +
            outputs * (OUTPUT + CHUNK + QUEUE + QUEUED * PLACE) +
            listeners * PROCESS + streams)


def pss(node):
    total = 0
    for pid in mqttc.processes_marked(node.mark):
        try:
            with open("/proc/%d/smaps_rollup" % pid) as f:
                total += sum(int(line.split()[1]) * KB for line in f
                             if line.startswith("Pss:"))
        except OSError:
            pass
    return total


def bench(node, load, *args, ports=None):
    where = ports or ["--pub-port", str(node.addr(0)[1]),
                      "--sub-port", str(node.addr(1)[1])]
    return subprocess.Popen(
        [mqttc.program("mqttc-bench"), load, "--json", "--quiet", *where,
         *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def result(gen):
    out, _ = gen.communicate(timeout=120)
    assert gen.returncode == 0
    return json.loads(out.splitlines()[-1])


WELL = ("pairs", "--clients", "4", "--rate", "100", "--qos", "1",
        "--outstanding", "0", "--patience", "60", "--warmup", "0")


def latency(r):
    return "p50 %d us, p99 %d, p99.9 %d, most %d" % tuple(
        r["latency_%s_us" % k] for k in ("p50", "p99", "p999", "max"))


class Beside:
    """Well-behaved pairs, alone for a second, then beside the adversary that
    the block is; memory is looked at all the time."""

    def __init__(self, node, show, name, most):
        self.node, self.show, self.name, self.most = node, show, name, most
        self.finish = threading.Event()
        self.peak = 0

    def watch(self):
        while not self.finish.wait(0.1):
            self.peak = max(self.peak, pss(self.node))

    def __enter__(self):
        self.alone = result(bench(self.node, *WELL, "--seconds", "1"))
        self.before = pss(self.node)
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        self.gen = bench(self.node, *WELL, "--seconds", "600", "--wait")
        assert self.gen.stdout.readline() == "ready\n"
        self.gen.stdin.write("\n")
        self.gen.stdin.flush()
        return self

    def __exit__(self, kind, exc, tb):
        self.finish.set()
        self.thread.join()
        if exc is not None:
            self.gen.kill()
            self.gen.communicate()
            return
        self.gen.send_signal(signal.SIGINT)
        self.beside = result(self.gen)
        self.peak = max(self.peak, pss(self.node))
        self.node.close_clients()
        self.node.wait_metric("clients_connected", lambda v: v == 0)
        self.report(pss(self.node))
        r = self.beside
        assert r["delivered"] == r["published"] > 0
        assert not any(r[k] for k in ("lost", "duplicate", "reordered",
                                      "alien", "refused", "closed"))
        if not SANITIZED:
            assert self.peak - self.before <= self.most
        self.node.check_alive()

    def report(self, after):
        with self.show():
            print("\n%s\n  others alone   %s\n  others beside  %s\n"
                  "  PSS %.1f MB before, %.1f at most, %.1f after; "
                  "%.1f more allowed" % (
                      self.name, latency(self.alone), latency(self.beside),
                      self.before / MB, self.peak / MB, after / MB,
                      self.most / MB))


@pytest.fixture
def beside(make_node, capsys):
    def make(name, most, **options):
        node = make_node(listeners=2, options=dict(OPTIONS, **options))
        return Beside(node, capsys.disabled, name, most)
    return make


def crowd(node, topic, n, qos=0, on=None, **opts):
    """n subscribers that never read again."""
    subs = []
    for i in range(n):
        subs.append(node.client(on=i % 2 if on is None else on, keepalive=0,
                                rcvbuf=4096, mss=536, **opts))
        subs[-1].send_bytes(wire.subscribe_packet(wire.V5, 1, [(topic, qos)]))
    for s in subs:
        s.expect(wire.SUBACK, 1)
    return subs


@pytest.mark.parametrize("size", [400, 1000])   # copied, shared
@pytest.mark.parametrize("qos", [0, 1])
def test_slow_readers_by_the_thousand(beside, qos, size):
    with beside("1000 that do not read, QoS %d, %d bytes" % (qos, size),
                bound(clients=1000, outputs=1000)) as b:
        crowd(b.node, "slow", 1000, qos=qos)
        pub = b.node.client(on=0, keepalive=0)
        for n in range(4000):           # until each has lost some
            pub.publish("slow", b"x" * size, qos=qos)
            if n % 100 == 99 and b.node.metric(
                    "dropped_queue_full_total") >= 100000:
                break
        pub.fence()
        assert b.node.metric("dropped_queue_full_total") >= 100000


def test_a_publisher_faster_than_all_its_subscribers(beside):
    with beside("one publisher to 50, as fast as the socket takes",
                bound(clients=60, outputs=51)) as b:
        r = result(bench(b.node, "fanout", "--subscribers", "50", "--size",
                         "1000", "--outstanding", "0", "--burst", "1",
                         "--count", "20000"))
        assert r["published"] == 20000 and r["closed"] == 0
        assert r["duplicate"] == r["reordered"] == 0


def test_subscribers_of_everything(beside):
    with beside("20 of # and 20 that do not read it",
                bound(clients=70, outputs=40)) as b:
        crowd(b.node, "#", 20)
        eager = [b.node.client(on=i % 2, keepalive=0) for i in range(20)]
        for c in eager:
            c.subscribe("#")
        r = result(bench(b.node, "pairs", "--clients", "5", "--size", "500",
                         "--count", "4000", "--qos", "1"))
        assert r["lost"] == r["duplicate"] == r["reordered"] == 0
        for c in eager:                 # of which nothing was read so far
            c.fence()


def test_connect_storms(beside):
    with beside("200 that connect and leave, as fast as they can",
                bound(clients=400)) as b:
        r = result(bench(b.node, "churn", "--clients", "200", "--seconds",
                         "3", "--mqtt", "5",
                         ports=["--port", str(b.node.port)]))
        assert r["connects"] > 0
        assert r["refused"] == r["closed"] == 0


HALVES = {
    "nothing": b"",
    "a part of CONNECT": wire.connect_packet(wire.V5, client_id="x" * 50)[:20],
    "a length without end": b"\x10\xff\xff",
}


@pytest.mark.parametrize("what", HALVES, ids=lambda w: w.replace(" ", "_"))
def test_half_open(beside, what):
    """Closed when listener.connect_timeout is over."""
    with beside("1000 that say " + what, bound(clients=1000)) as b:
        half = [b.node.raw(on=i % 2) for i in range(1000)]
        for c in half:
            if HALVES[what]:
                c.send_bytes(HALVES[what])
        for c in half:
            c.expect_closed()


def test_half_of_a_publish(beside):
    """A header alone takes nothing, whatever it announces; what is sent of a
    packet is kept, up to its size."""
    with beside("1000 that send the header of a large PUBLISH, "
                "100 all of it but a byte",
                bound(clients=1100, partial=100)) as b:
        whole = wire.publish_packet(wire.V5, "half", b"x" * (PACKET - 100))
        for i in range(1000):
            b.node.client(on=i % 2, keepalive=0).send_bytes(whole[:20])
        most = [b.node.client(on=i % 2, keepalive=0) for i in range(100)]
        for c in most:
            c.send_bytes(whole[:-1])
        sub = b.node.client(on=0, keepalive=0)
        sub.subscribe("half")
        most[0].send_bytes(whole[-1:])  # it was worth the wait
        assert len(sub.read_publish().payload) == PACKET - 100


def test_windows_of_zero(beside):
    """Subscribers whose kernel takes no more, in the midst of a packet, and
    more that publish and do not read what is answered."""
    with beside("200 in the midst of a packet they do not take, "
                "50 that do not take answers",
                bound(clients=260, outputs=250, partial=50)) as b:
        crowd(b.node, "large", 200)
        pub = b.node.client(on=1, keepalive=0)
        for _ in range(10):
            pub.publish("large", b"x" * (PACKET - 100), qos=1)
        deaf = [b.node.client(on=i % 2, keepalive=0, rcvbuf=4096,
                              mss=536, version=wire.V311) for i in range(50)]
        ping = b"\xc0\x00" * 4096
        for c in deaf:
            c.sock.setblocking(False)
            try:
                for _ in range(1000):
                    c.sock.send(ping)
            except BlockingIOError:
                pass
        pub.fence()


def test_one_client_id_everywhere_at_once(beside):
    with beside("one client id from 12 threads", bound(clients=700)) as b:
        node, last, odd = b.node, [], []
        lock = threading.Lock()

        def again_and_again(on):
            c = None
            try:
                for _ in range(40):
                    if c is not None:
                        c.close()
                    c = wire.connect(node.addr(on), "everywhere",
                                     keepalive=0)
            except wire.Closed:
                pass                    # by whoever was quicker
            except Exception as e:
                odd.append(e)
            with lock:
                last.append(c)

        threads = [threading.Thread(target=again_and_again, args=(on,))
                   for on in (0, 1, "external") * 4]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert odd == []
        # Whatever was going on between listeners is over when there is one.
        last.append(wire.connect(node.addr(1), "everywhere", keepalive=0))
        end = time.monotonic() + 20
        while True:
            holders = [c for c in node.tool_json("mqttc-clients", "list")
                       if c["client_id"] == "everywhere"]
            if len(holders) == 1:
                break
            assert time.monotonic() < end, holders
            time.sleep(0.02)
        living = []
        for c in last:
            try:
                c.fence()
                living.append(c)
            except (wire.Bad, wire.Closed, OSError):
                pass                    # 0x8E came, or the end
        assert living == last[-1:]      # the latest
        living[0].subscribe("mine")
        living[0].publish("mine", b"yes")
        assert living[0].read_publish().payload == b"yes"
        for c in last:
            c.close()
