"""test_bench.py: mqttc-bench against a small node, against a relay that loses,
repeats and reorders, and against what is no broker at all."""

import json
import os
import select
import signal
import socket
import struct
import subprocess
import threading

import pytest

from support import mqttc, wire

KEYS = [
    "mode", "mqtt", "qos", "size", "publishers", "subscribers", "procs",
    "interrupted", "measured", "wall_s", "per_s", "broker_cpu_s",
    "per_broker_cpu_s", "generator_cpu_s", "per_generator_cpu_s",
    "latency_p50_us", "latency_p90_us", "latency_p99_us", "latency_p999_us",
    "latency_max_us", "published", "delivered", "lost", "duplicate",
    "reordered", "alien", "connects", "refused", "closed", "reset",
    "told", "pss_bytes", "groups", "member_least", "member_most"]
STEP_KEYS = ["mode", "procs", "clients", "filters", "closed", "pss_bytes",
             "bytes_per_client", "bytes_per_filter"]
FAULTS = ("lost", "duplicate", "reordered", "alien", "refused", "closed")
BRIEF = ["--seconds", "0.2", "--warmup", "0", "--settle", "0"]


@pytest.fixture(scope="module")
def node():
    with mqttc.Node(listeners=2) as n:
        yield n


def bench(*args, env=None):
    return subprocess.run(
        [mqttc.program("mqttc-bench"), *args], stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=120,
        env=dict(os.environ, **(env or {})))


def figures(*args, env=None):
    """Every object that it printed."""
    done = bench(*args, "--json", env=env)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def at(node):
    return ["--pub-port", str(node.addr(0)[1]),
            "--sub-port", str(node.addr(1)[1])]


def pids(node):
    return ["--pid", ",".join(map(str, mqttc.processes_marked(node.mark)))]


# --- Each load ---------------------------------------------------------------

@pytest.mark.parametrize("mqtt", ["3.1.1", "5"])
@pytest.mark.parametrize("qos", ["0", "1", "2"])
@pytest.mark.parametrize("load", [
    ["pairs", "--clients", "3"],
    ["fanout", "--subscribers", "5"],
    ["fanin", "--publishers", "5"],
    ["wildcard", "--filters", "40", "--subscribers", "4",
     "--publishers", "2"],
    ["shared", "--groups", "3", "--members", "4",
     "--publishers", "2"]], ids=lambda load: load[0])
def test_what_is_sent_arrives_once_and_in_order(node, load, qos, mqtt):
    r, = figures(*load, "--qos", qos, "--mqtt", mqtt, "--count", "50",
                 "--patience", "20", *at(node), *pids(node))
    assert list(r) == KEYS
    assert r["mode"] == load[0] and r["qos"] == int(qos)
    assert r["published"] == 50 * r["publishers"]
    fan = {"fanout": 5, "shared": 3}.get(load[0], 1)
    assert r["delivered"] == r["measured"] == fan * r["published"]
    assert {k: r[k] for k in FAULTS} == dict.fromkeys(FAULTS, 0)
    if load[0] == "shared":
        # Each of two listeners takes turns of its own.
        assert r["member_most"] - r["member_least"] <= 2
    assert 0 < r["latency_p50_us"] <= r["latency_p999_us"] \
        <= r["latency_max_us"]
    assert r["pss_bytes"] > 100000 and not r["interrupted"]


def test_a_measured_time_passes_and_is_told_from_the_rest(node):
    r, = figures("pairs", "--clients", "2", "--seconds", "0.3",
                 "--warmup", "0.1", *at(node))
    assert 0.3 <= r["wall_s"] and 0 < r["measured"] < r["delivered"]
    assert r["lost"] == 0
    assert r["broker_cpu_s"] is None and r["pss_bytes"] is None


def test_a_rate_is_kept(node):
    r, = figures("pairs", "--clients", "2", "--rate", "100", "--count", "30",
                 *at(node))
    assert r["delivered"] == 60
    assert r["wall_s"] > 0.25                   # 29 gaps of 10 ms


def test_connect_and_churn_count_connections(node):
    r, = figures("connect", "--clients", "60", *at(node), *pids(node))
    assert list(r) == KEYS
    assert r["measured"] == r["connects"] == 60 and r["latency_p50_us"] > 0
    r, = figures("churn", "--clients", "4", *BRIEF, *at(node))
    assert list(r) == KEYS
    assert r["measured"] > 0 and r["refused"] == r["closed"] == 0


def test_who_has_no_name_is_given_one(node):
    had = len(node.tool_json("mqttc-clients", "list"))
    p = subprocess.Popen(
        [mqttc.program("mqttc-bench"), "connect", "--clients", "5",
         "--nameless", "--prefix", "named", "--hold", *at(node)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert p.stdout.readline() == "done\n"
        ids = [c["client_id"]
               for c in node.tool_json("mqttc-clients", "list")]
    finally:
        p.communicate("\n", timeout=60)
    assert len(ids) == had + 5 and not any("named" in i for i in ids)
    assert p.returncode == 0


def test_idle_reports_each_step(node):
    a, b = figures("idle", "--clients", "10,30", *BRIEF, *at(node),
                   *pids(node))
    assert list(a) == list(b) == STEP_KEYS
    assert (a["clients"], b["clients"]) == (10, 30)
    assert a["bytes_per_client"] is None
    assert b["bytes_per_client"] is not None
    a, b = figures("idle", "--clients", "10", "--filters", "10,100", *BRIEF,
                   *at(node), *pids(node))
    assert (a["filters"], b["filters"]) == (10, 100)
    assert b["bytes_per_client"] is None
    assert b["bytes_per_filter"] is not None


def test_processes_share_the_clients_and_spread_their_addresses(node):
    p = subprocess.Popen(
        [mqttc.program("mqttc-bench"), "connect", "--clients", "31",
         "--procs", "3", "--sources", "7", "--prefix", "spread", "--hold",
         "--json", *at(node)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True)
    try:
        assert p.stdout.readline() == "done\n"
        mine = [c for c in node.tool_json("mqttc-clients", "list")
                if "spread." in json.dumps(c)]
        assert len(mine) == 31
        seen = {a for c in mine for v in c.values() if isinstance(v, str)
                for a in [v.rsplit(":", 1)[0]] if a.startswith("127.")}
        assert len(seen) == 7
    finally:
        out, _ = p.communicate("\n", timeout=60)
    assert p.returncode == 0
    r = json.loads(out)
    assert r["procs"] == 3 and r["connects"] == 31


@pytest.mark.parametrize("load", ["pairs --clients", "fanout --subscribers",
                                  "fanin --publishers"])
def test_processes_share_the_messages(node, load):
    r, = figures(*load.split(), "5", "--procs", "2", "--count", "40",
                 *at(node))
    assert r["procs"] == 2 and r["lost"] == 0
    n = {"pairs": 200, "fanout": 5 * 40, "fanin": 200}[load.split()[0]]
    assert r["delivered"] == n


def test_people_get_a_text(node):
    done = bench("pairs", "--clients", "2", "--count", "600", *at(node))
    assert done.returncode == 0 and done.stderr == ""
    assert "1,200 published, 1,200 delivered" in done.stdout
    assert "0 lost, 0 duplicate, 0 reordered" in done.stdout


# --- What goes wrong is counted ----------------------------------------------

class Relay:
    """Between generator and broker: edit(n, packet) says what becomes of the
    n-th PUBLISH towards a client: a list of packets."""

    def __init__(self, to, edit):
        self.to, self.edit = to, edit
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.socks, self.threads = [self.server], []
        self.go(self.accept)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.cut()
        for t in self.threads:
            t.join(10)

    def go(self, what, *args):
        t = threading.Thread(target=what, args=args, daemon=True)
        self.threads.append(t)
        t.start()

    def cut(self):
        for s in self.socks:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            s.close()

    def accept(self):
        try:
            while True:
                client = self.server.accept()[0]
                broker = socket.create_connection(self.to)
                self.socks += [client, broker]
                self.go(self.pump, client, broker, lambda b, n: (b, b""))
                self.go(self.pump, broker, client, self.edited)
        except OSError:
            pass

    def pump(self, src, dst, take):
        left, self_n = b"", [0]
        try:
            while True:
                b = src.recv(65536)
                if not b:
                    break
                out, left = take(left + b, self_n)
                dst.sendall(out)
        except OSError:
            pass
        for s in (src, dst):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def edited(self, b, count):
        out = b""
        while len(b) >= 2:
            size, shift, i = 0, 0, 1
            while i < len(b):
                size |= (b[i] & 127) << shift
                shift += 7
                i += 1
                if not b[i - 1] & 128:
                    break
            else:
                break
            if len(b) < i + size:
                break
            packet, b = b[:i + size], b[i + size:]
            if packet[0] >> 4 == 3:
                out += b"".join(self.edit(count[0], packet))
                count[0] += 1
            else:
                out += packet
        return out, b


def through(relay, node, *args):
    r, = figures("pairs", "--clients", "1", "--count", "100",
                 "--outstanding", "0", "--patience", "0.3", *args,
                 "--pub-port", str(node.addr(0)[1]),
                 "--sub-port", str(relay.port))
    return {k: r[k] for k in ("published", "delivered") + FAULTS}


def test_a_relay_that_changes_nothing_changes_nothing(node):
    with Relay(node.addr(1), lambda n, p: [p]) as relay:
        assert through(relay, node) == dict(
            dict.fromkeys(FAULTS, 0), published=100, delivered=100)


def test_lost_duplicate_and_reordered_are_told_apart(node):
    held = []

    def edit(n, packet):
        if n in (10, 11, 50, 99):       # lost, the very last among them
            return []
        if n in (20, 21, 22):           # duplicate
            return [packet, packet]
        if n in (30, 31):               # 32 30 31: two come late
            held.append(packet)
            return []
        if n == 32:
            return [packet, *held]
        return [packet]

    with Relay(node.addr(1), edit) as relay:
        assert through(relay, node) == dict(
            dict.fromkeys(FAULTS, 0), published=100, delivered=96, lost=4,
            duplicate=3, reordered=2)


def test_a_load_that_waits_for_what_is_lost_goes_on(node):
    with Relay(node.addr(1), lambda n, p: [] if n % 10 == 3 else [p]) as relay:
        r = through(relay, node, "--outstanding", "1", "--count", "12")
    assert r == dict(dict.fromkeys(FAULTS, 0), published=12, delivered=11,
                     lost=1)


class Sharing:
    """A broker that knows QoS 0 and groups alone. pick(n, group, members)
    says which members get the n-th message."""

    def __init__(self, pick):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = str(self.server.getsockname()[1])
        self.pick, self.groups, self.n = pick, {}, 0
        self.ends = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.ends.set()
        self.thread.join(10)
        self.server.close()

    def run(self):
        left = {}                       # socket: the start of a packet
        while not self.ends.is_set():
            for s in select.select([self.server, *left], [], [], 0.1)[0]:
                if s is self.server:
                    left[s.accept()[0]] = b""
                    continue
                b = s.recv(65536)
                if not b:
                    del left[s]
                    s.close()
                    continue
                b = left[s] + b
                while len(b) >= 2 and len(b) >= 2 + b[1]:
                    self.on_packet(s, b[:2 + b[1]])
                    b = b[2 + b[1]:]
                left[s] = b
        for s in left:
            s.close()

    def on_packet(self, s, p):          # none here has 128 bytes
        if p[0] == 0x10:
            s.sendall(b"\x20\x02\x00\x00")
        elif p[0] == 0x82:
            share, name, topic = p[6:-1].split(b"/", 2)
            assert share == b"$share"
            self.groups.setdefault((name, topic), []).append(s)
            s.sendall(b"\x90\x03" + p[2:4] + p[-1:])
        elif p[0] == 0x30:
            topic = p[4:4 + p[3]]
            for (name, of), members in sorted(self.groups.items()):
                if of == topic:
                    for m in self.pick(self.n, name, members):
                        m.sendall(p)
            self.n += 1


def share(pick, *args):
    with Sharing(pick) as broker:
        r, = figures("shared", "--groups", "2", "--members", "4",
                     "--publishers", "1", "--count", "100", "--burst", "1",
                     "--patience", "0.5", "--port", broker.port, *args)
    return {k: r[k] for k in ("published", "delivered", "groups",
                              "member_least", "member_most") + FAULTS}


def test_a_group_gets_each_message_once_by_whichever_member():
    def pick(n, group, members):        # three of four, not in their turn
        return [members[(n * 7 + n // 3) % 3 if group == b"g0" else 0]]

    r = share(pick)
    least, most = r.pop("member_least"), r.pop("member_most")
    assert r == dict(dict.fromkeys(FAULTS, 0), published=100, delivered=200,
                     groups=2)
    assert (least, most) == (0, 100)


def test_a_group_that_gets_one_twice_or_not_at_all_is_seen():
    def pick(n, group, members):
        if group == b"g1" and n == 50:
            return []
        if group == b"g1" and n == 60:
            return members[:2]
        return [members[n % 4]]

    r = share(pick)
    assert (r["lost"], r["duplicate"], r["delivered"]) == (1, 1, 199)
    assert r["reordered"] == r["alien"] == 0
    assert r["member_least"] == 24 and r["member_most"] in (25, 26)


def test_order_is_that_of_a_member():
    held = []

    def pick(n, group, members):
        return [members[0]] if group == b"g0" else [members[1]]

    class Late(Sharing):
        def on_packet(self, s, p):
            if p[0] == 0x30 and len(held) < 1:
                held.append(p)          # the first comes after the second
                return
            super().on_packet(s, p)
            if p[0] == 0x30 and len(held) == 1:
                held.append(None)
                super().on_packet(s, held[0])

    with Late(pick) as broker:
        r, = figures("shared", "--members", "2", "--publishers", "1",
                     "--count", "10", "--burst", "1", "--port", broker.port)
    assert (r["reordered"], r["lost"], r["delivered"]) == (1, 0, 10)


def test_processes_share_the_members_of_every_group():
    with Sharing(lambda n, group, members: [members[n % len(members)]]) as b:
        r, = figures("shared", "--groups", "2", "--members", "5",
                     "--publishers", "4", "--procs", "2", "--count", "30",
                     "--port", b.port)
        assert sorted(map(len, b.groups.values())) == [2, 2, 3, 3]
    assert (r["published"], r["delivered"], r["lost"]) == (120, 240, 0)
    assert r["member_least"] == 20 and r["member_most"] == 30


def test_bytes_that_are_not_ours_are_alien(node):
    def edit(n, packet):
        return [packet[:-64] + b"\xff" * 64] if n == 5 else [packet]

    with Relay(node.addr(1), edit) as relay:
        r = through(relay, node)
    assert (r["alien"], r["lost"], r["delivered"]) == (1, 1, 99)


def test_a_packet_that_is_none_is_a_protocol_error(node):
    with Relay(node.addr(1), lambda n, p: [b"\xf0\x00"]) as relay:
        done = bench("pairs", "--clients", "1", "--count", "10",
                     "--pub-port", str(node.addr(0)[1]),
                     "--sub-port", str(relay.port))
    assert done.returncode == os.EX_PROTOCOL
    assert "malformed" in done.stderr and done.stdout == ""


def test_a_broker_that_goes_away_ends_the_load_with_its_report(node):
    cut = threading.Event()

    def edit(n, packet):
        if n == 3:                      # so the ones before have gone
            cut.set()
        return [packet]

    with Relay(node.addr(1), edit) as relay:
        p = subprocess.Popen(
            [mqttc.program("mqttc-bench"), "pairs", "--clients", "2",
             "--rate", "100", "--seconds", "600", "--json",
             "--port", str(relay.port)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert cut.wait(30)
        relay.cut()
        out, err = p.communicate(timeout=60)
    assert p.returncode == os.EX_UNAVAILABLE
    assert "every connection was closed" in err
    r = json.loads(out)
    assert r["closed"] == 4 and r["delivered"] > 0


# --- Interrupts, refusals, usage ---------------------------------------------

def test_an_interrupt_ends_the_load_and_not_the_report(node):
    with node.client("watcher") as watcher:
        watcher.subscribe("early/#")
        p = subprocess.Popen(
            [mqttc.program("mqttc-bench"), "pairs", "--clients", "1",
             "--rate", "50", "--seconds", "600", "--warmup", "0",
             "--prefix", "early", "--json", *at(node)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        watcher.read_publishes(5)
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=60)
    assert p.returncode == 0, err
    r = json.loads(out)
    assert r["interrupted"] and r["delivered"] >= 4 and r["lost"] == 0


def test_nobody_there_is_69():
    port = str(mqttc.free_ports(1))
    for load in ("pairs", "connect", "churn", "idle"):
        done = bench(load, "--clients", "2", "--port", port)
        assert done.returncode == os.EX_UNAVAILABLE
        assert done.stderr == ("mqttc-bench: cannot connect to 127.0.0.1:%s: "
                               "Connection refused\n" % port)
        assert done.stdout == ""
    done = bench("pairs", "--host", "no.such.host.invalid", "--port", port)
    assert done.returncode == os.EX_NOHOST


class Answering:
    """A server that answers whatever it is sent with the same bytes."""

    def __init__(self, answer):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = str(self.server.getsockname()[1])
        self.answer = answer
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        socks = []
        try:
            while True:
                s = self.server.accept()[0]
                socks.append(s)
                s.recv(4096)
                s.sendall(self.answer)
        except OSError:
            pass

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.server.close()


@pytest.mark.parametrize("mqtt, answer, code, text", [
    ("3.1.1", b"\x20\x02\x00\x05", os.EX_NOPERM, "not authorized (0x05)"),
    ("3.1.1", b"\x20\x02\x00\x03", os.EX_UNAVAILABLE, "server unavailable"),
    ("5", b"\x20\x03\x00\x87\x00", os.EX_NOPERM, "Not authorized (0x87)"),
    ("5", b"\x20\x03\x00\x9f\x00", os.EX_UNAVAILABLE, "rate exceeded"),
    ("5", b"\x20\x05\x00\x00\x02\x24\x00", os.EX_UNAVAILABLE,
     "no QoS above 0"),
    ("3.1.1", b"HTTP/1.1 400 Bad Request\r\n\r\n", os.EX_PROTOCOL,
     "malformed"),
    ("3.1.1", b"\x20\x01\x00", os.EX_PROTOCOL, "malformed CONNACK")])
def test_a_refusal_says_why(mqtt, answer, code, text):
    with Answering(answer) as server:
        done = bench("pairs", "--clients", "2", "--qos", "1", "--mqtt", mqtt,
                     "--port", server.port)
    assert text in done.stderr
    assert done.returncode == code


@pytest.mark.parametrize("end, reset, told", [
    (b"", 0, 0), (b"\xe0\x02\x8b\x00", 0, 1), (None, 1, 0)])
def test_how_a_connection_was_closed_is_told_apart(end, reset, told):
    class Closing(Answering):
        def run(self):
            s = self.server.accept()[0]
            s.recv(4096)
            s.sendall(b"\x20\x03\x00\x00\x00")
            more = self.server.accept()[0]      # so the first is up
            if end is None:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                             struct.pack("ii", 1, 0))
            else:
                s.sendall(end)
            s.close()
            more.recv(4096)
            more.sendall(b"\x20\x03\x00\x00\x00")
            more.recv(1)

    with Closing(b"") as server:
        r, = figures("connect", "--clients", "2", "--handshakes", "1",
                     "--mqtt", "5", "--port", server.port)
    assert (r["connects"], r["closed"], r["reset"], r["told"]) == (
        2, 1, reset, told)


def test_a_storm_counts_who_was_refused():
    class Choosy(Answering):
        def run(self):
            socks = []
            try:
                while True:
                    s = self.server.accept()[0]
                    socks.append(s)
                    s.recv(4096)
                    s.sendall(b"\x20\x02\x00" + (
                        b"\x03" if len(socks) % 3 == 0 else b"\x00"))
            except OSError:
                pass

    with Choosy(b"") as server:
        r, = figures("connect", "--clients", "30", "--port", server.port)
    assert (r["connects"], r["refused"], r["closed"]) == (20, 10, 0)


def test_a_broker_that_says_nothing_is_not_waited_for_for_ever():
    with Answering(b"") as server:
        done = bench("connect", "--clients", "2", "--patience", "0.05",
                     "--port", server.port)
    assert done.returncode == os.EX_UNAVAILABLE
    assert "no answer" in done.stderr


@pytest.mark.parametrize("args", [
    [], ["nonsense"], ["pairs", "idle"], ["pairs", "--qos", "3"],
    ["pairs", "--clients", "1,2"], ["pairs", "--size", "x"],
    ["pairs", "--filters", "4"], ["pairs", "--port", "70000"],
    ["pairs", "--clients", "2", "--procs", "3"], ["pairs", "--mqtt", "3"],
    ["wildcard", "--filters", "5"], ["pairs", "--members", "2"],
    ["shared", "--members", "2", "--procs", "3"], ["pairs", "--prefix", "a+b"],
    ["pairs", "--bogus"]], ids=" ".join)
def test_a_wrong_command_line_is_64(args):
    done = bench(*args)
    assert done.returncode == os.EX_USAGE
    assert "usage: mqttc-bench" in done.stderr and done.stdout == ""


def test_a_process_that_is_not_there_is_69(node):
    done = bench("pairs", "--pid", "4194303", *at(node))
    assert done.returncode == os.EX_UNAVAILABLE
    assert "no broker process" in done.stderr


def test_help_and_version():
    for args in (["-h"], ["--help"]):
        done = bench(*args)
        assert done.returncode == 0 and "churn" in done.stdout
    for args in (["-V"], ["--version"]):
        assert bench(*args).stdout.startswith("mqttc-bench ")


def test_user_name_and_password_go_out():
    got = []

    class Listening(Answering):
        def run(self):
            try:
                s = self.server.accept()[0]
                got.append(s.recv(4096))
                s.sendall(b"\x20\x02\x00\x04")
                s.recv(1)
            except OSError:
                pass

    with Listening(b"") as server:
        done = bench("connect", "--clients", "1", "--username", "me",
                     "--port", server.port,
                     env={"MQTTC_BENCH_PASSWORD": "secret"})
    assert done.returncode == os.EX_NOPERM
    assert got[0].endswith(wire.text("me") + wire.text("secret"))
