"""kill -9 of every kind of process under durable sessions: no acknowledged
QoS 1 or 2 message is lost to one, none of QoS 2 comes twice, the order of each
publisher and topic holds, sessions are where they were.

CRASH_ROUNDS says how many processes die, CRASH_SEED in which order."""

import errno
import os
import random
import signal
import subprocess

import pytest

from support import mqttc, wire
from support.crash import WRONG, Crash, options

pytestmark = pytest.mark.skipif(mqttc.FOREIGN is not None,
                                reason="needs nodes of its own")

ROUNDS = int(os.environ.get("CRASH_ROUNDS", "200"))
SEED = int(os.environ.get("CRASH_SEED", "0")) or random.randrange(1, 1 << 30)


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_random_kills(make_node, topic, shards):
    node = make_node(listeners=2, options=options(
        session_store__processes=str(shards)))
    crash = Crash(node, topic, "%d/%d" % (SEED, shards))
    crash.everybody()
    print("seed", crash.seed)
    with crash:
        crash.run((ROUNDS + 2) // 3)
    print(crash.summary())
    crash.check()


def test_routes_of_a_dead_store_are_not_forgotten(make_node, topic):
    """Router and stores die while no supervisor is there. The next one knows of
    no store that ran; listeners go on with what they know."""
    node = make_node(listeners=2, options=options(
        session_store__processes="2"))
    crash = Crash(node, topic, SEED)
    for i in range(3):
        crash.subscriber(str(i), 1 + i % 2, restless=False)
    crash.publisher("one", 1, durable=False)
    crash.publisher("two", 2, durable=False)
    with crash:
        for _ in range(max(ROUNDS // 20, 3)):
            rows = node.status()
            node.proc.kill()
            node.proc.wait()
            node.expected_gone.add(rows["supervise"]["pid"])
            for name in ("router", "session_store.0", "session_store.1"):
                crash.kill(name, rows[name]["pid"])
            crash.next_supervisor()
            crash.all_ready()
            crash.progress()
    crash.check()


# --- One QoS 2 message, sent again through another listener -----------------

@pytest.mark.parametrize("shards", [1, 2])
def test_qos2_publisher_whose_listener_dies(make_node, topic, shards):
    """Somewhere between PUBLISH and PUBCOMP, again and again, with one packet
    identifier for all."""
    node = make_node(listeners=2, options=options(
        session_store__processes=str(shards)))
    crash = Crash(node, topic, "%d/%d" % (SEED, shards))
    for i, version in enumerate((wire.V5, wire.V311)):
        crash.subscriber(str(i), 2, version, restless=False)
    crash.publisher("one", 2, wire.V311, window=1, pids=1)
    crash.publisher("two", 2, wire.V5, window=2, pids=2)
    print("seed", crash.seed)
    with crash:
        while sum(crash.killed.values()) < ROUNDS // 2:
            name = "listener.%d" % crash.rng.randrange(2)
            crash.await_events(crash.rng.choice([1, 2, 3, 10, 30]), .5)
            row = node.status()[name]
            if row["pid"]:
                crash.kill(name, row["pid"])
        crash.all_ready()
        crash.progress()
    print(crash.summary())
    crash.check()


# --- Wills --------------------------------------------------------------------

def kill_all(node, *names):
    """At once, as far as that goes; until they are back."""
    before = node.status()
    for name in names:
        node.expected_gone.add(before[name]["pid"])
    for name in names:
        os.kill(before[name]["pid"], signal.SIGKILL)
    for name in names:
        node.wait_ready(name, not_pid=before[name]["pid"])


def checkpoint(node):
    """Until one has what there is now: the next may have begun before."""
    for _ in range(2):
        done = node.metric("store_checkpoints_total")
        c = node.client("checkpoint", clean=False, on=0, props={
            "session_expiry_interval": 3600})
        c.disconnect()
        c.expect_closed()
        node.wait_metric("store_checkpoints_total", lambda v: v > done)


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("qos", [1, 2])
def test_will_of_who_lost_listener_and_store(make_node, topic, durable, qos):
    """It goes out once, also when the CONNECT is in the checkpoint and not in
    the log that is read."""
    node = make_node(listeners=2, options=options())
    watch = node.client("watch", on=0, clean=False, props={
        "session_expiry_interval": 3600})
    watch.subscribe(topic + "/#", qos=2)
    props = {"session_expiry_interval": 3600 if durable else 0}
    for i in range(5):
        node.client("w%d" % i, on=1, props=props, will={
            "topic": "%s/%d" % (topic, i), "payload": b"bye %d" % i,
            "qos": qos})
        if i == 2:
            checkpoint(node)
        quiet = node.client("q%d" % i, on=1, props=props, will={
            "topic": topic + "/quiet", "payload": b"never", "qos": qos})
        quiet.disconnect()
        quiet.expect_closed()
    # The store has heard who left.
    node.wait_metric("store_connected", lambda v: v == 6)
    kill_all(node, "session_store.0", "listener.1")
    got = sorted(watch.complete(watch.read_publish())[0].payload
                 for _ in range(5))
    assert got == [b"bye %d" % i for i in range(5)]
    watch.expect_nothing()
    # Once and for all, as soon as the store has what was acknowledged.
    node.wait_metric("store_acknowledged_total", lambda v: v >= 5 * qos)
    kill_all(node, "session_store.0", "listener.0")
    again = node.client("watch", on=1, clean=False, props={
        "session_expiry_interval": 3600})
    assert again.connack.session_present
    again.expect_nothing()
    for i in range(5):
        node.client("w%d" % i, on=1, props=props, clean=not durable)
    again.expect_nothing()


# --- Retained messages --------------------------------------------------------

@pytest.mark.parametrize("shards", [1, 3])
def test_retained_values_while_processes_die(make_node, topic, shards):
    """Every topic keeps the newest value that was acknowledged, or one that was
    sent later."""
    node = make_node(listeners=2, options=options(
        session_store__processes=str(shards)))
    crash = Crash(node, topic, "%d/%d" % (SEED, shards))
    crash.subscriber("all", 1, restless=False)
    for i, (version, qos) in enumerate(((wire.V5, 1), (wire.V311, 1),
                                        (wire.V5, 2), (wire.V311, 2))):
        crash.publisher("r%d" % i, qos, version, retain=True)
    print("seed", crash.seed)
    with crash:
        crash.run(ROUNDS // 4)
    print(crash.summary())
    crash.check()
    for restart in range(2):
        late = node.client("late", on=restart)
        late.subscribe(topic + "/#", qos=1)
        kept = {}
        while len(kept) < 2 * len(crash.pubs):
            p = late.complete(late.read_publish())[0]
            assert p.retain and p.topic not in kept, p
            kept[p.topic] = int(p.payload.split()[1])
        late.expect_nothing()
        late.disconnect()
        for p in crash.pubs:
            for t in p.topics:
                assert kept[t] >= max(p.acked[t]), (t, kept[t])
                assert kept[t] < p.sent[t], (t, kept[t])
        kill_all(node, *["session_store.%d" % i for i in range(shards)])


# --- A store that stands still ------------------------------------------------

def test_stopped_store_goes_on(make_node, topic):
    """SIGSTOP below the hang timeout: what it keeps waits, the rest runs."""
    node = make_node(listeners=2, options=options(
        session_store__processes="2"))
    crash = Crash(node, topic, SEED)
    crash.everybody()
    live = node.client("live", on=0, auto=True)
    live.subscribe("live", qos=1)
    pub = node.client("other", on=1)
    with crash:
        for i in range(2):
            pid = node.kill("session_store.%d" % i, signal.SIGSTOP)
            try:
                for k in range(200):        # nothing of it is stored
                    pub.publish("live", b"%d" % k, qos=1)
                    assert live.read_publish().payload == b"%d" % k
                crash.await_events(1 << 30, 2)
            finally:
                os.kill(pid, signal.SIGCONT)
            crash.progress()
    crash.check()


# --- Power cuts ---------------------------------------------------------------

@pytest.mark.parametrize("shards", [1, 2])
def test_power_cuts(make_node, topic, shards):
    """session.sync = always: what was acknowledged was on the disk."""
    with open(mqttc.program("mqttc-session-store"), "rb") as f:
        if b"journal.fsync" not in f.read():
            pytest.skip("no fault points in these programs")
    node = make_node(listeners=2, options=options(
        session_store__processes=str(shards), session__sync="always"))
    crash = Crash(node, topic, "%d/%d" % (SEED, shards))
    for i, version in enumerate((wire.V5, wire.V311, wire.V5,
                                 wire.V311)):
        crash.subscriber(str(i), 1 + i // 2, version)
    for i, (version, qos) in enumerate(((wire.V5, 1), (wire.V311, 1),
                                        (wire.V5, 2), (wire.V311, 2))):
        crash.publisher("p%d" % i, qos, version)
    crash.publisher("clean", 1, durable=False)
    print("seed", crash.seed)
    with crash:
        for _ in range(max(ROUNDS // 10, 3)):
            crash.await_events(crash.rng.choice([10, 100, 1000]), 2)
            crash.power_cut()
            crash.progress()
    print(crash.summary())
    crash.check([w for w in WRONG if w != "store.damage"])


# --- A full disk --------------------------------------------------------------

@pytest.fixture
def small_disk(tmp_path):
    """A directory of 64 MB of its own."""
    where = str(tmp_path / "disk")
    os.mkdir(where)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none",
                           where], capture_output=True)
    if done.returncode:
        pytest.skip("mount is not for us")
    yield where
    subprocess.run(["umount", "-l", where], check=True)


def fill(where):
    """To the last byte; returns the file that does it."""
    path = os.path.join(where, "filler")
    size = 1 << 20
    with open(path, "ab", buffering=0) as f:
        while size:
            try:
                f.write(b"\0" * size)
            except OSError as e:
                assert e.errno == errno.ENOSPC
                size //= 2
    return path


@pytest.mark.parametrize("killed", [False, True])
def test_full_disk(make_node, topic, small_disk, killed):
    """New durable sessions are refused, messages for durable sessions wait, all
    else goes on; with room again so does the rest, and nothing was lost."""
    node = make_node(listeners=2, options=options(
        node__data_dir=os.path.join(small_disk, "data")))
    crash = Crash(node, topic, SEED)
    crash.everybody()
    live = node.client("live", on=0, auto=True)
    live.subscribe("live", qos=1)
    pub = node.client("other", on=1)
    with crash:
        for i in range(3):
            crash.full = True
            filler = fill(small_disk)
            node.wait_metric("store_disk_full", lambda v: v == 1)
            fill(small_disk)            # what was given back meanwhile
            for k in range(200):
                pub.publish("live", b"%d" % k, qos=1)
                assert live.read_publish().payload == b"%d" % k
            with node.client("clean%d" % i, on=1) as c:
                c.subscribe("live")
            for version, reasons in (wire.V5, {0x88, 0x97}), (wire.V311, {3}):
                c = node.raw(version)
                c.connect("new%d" % i, expect=reasons, version=version,
                          clean=False, props={"session_expiry_interval": 60}
                          if version == wire.V5 else None)
            if killed:
                node.kill("session_store.0")
                crash.await_events(1 << 30, .5)
            os.unlink(filler)
            node.wait_metric("store_disk_full", lambda v: v == 0)
            crash.all_ready()
            crash.has_room()
            crash.progress()
    crash.check()
