"""A full disk: what has to be kept is refused by its name, 0x97, everything
else runs, and when there is room again nothing of it was lost or comes twice.

The disk is a small tmpfs. "tight" is a store that finds little room left and
stops before it is used up; "full" one whose log cannot be written."""

import errno
import os
import subprocess

import pytest

from support import mqttc, wire
from support.crash import options

pytestmark = pytest.mark.skipif(mqttc.FOREIGN is not None,
                                reason="needs nodes of its own")

MB = 1 << 20
NEVER = {"session_expiry_interval": 3600}


class Disk:
    """A tmpfs of a few MB in the place of node.data_dir."""

    def __init__(self, where, mb=48):
        self.where = where
        os.makedirs(where)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=%dm" % mb, "none", where],
            capture_output=True, text=True)
        if done.returncode:
            os.rmdir(where)
            pytest.skip("mount -t tmpfs: " + done.stderr.strip())

    def close(self):
        subprocess.run(["umount", "-l", self.where], check=True)

    def room(self):
        v = os.statvfs(self.where)
        return v.f_bavail * v.f_frsize

    def fill(self, leave=0):
        """Somebody else takes all but `leave` bytes."""
        block = b"x" * 65536
        with open(os.path.join(self.where, "filler"), "ab", 0) as f:
            while self.room() > leave:
                try:
                    f.write(block[:self.room() - leave])
                except OSError as e:
                    assert e.errno == errno.ENOSPC
                    return

    def free(self):
        os.unlink(os.path.join(self.where, "filler"))


@pytest.fixture
def disk_node(make_node, tmp_path):
    """make(listeners=..) gives (node, disk)."""
    disks = []

    def make(listeners=2, **more):
        disk = Disk(str(tmp_path / ("disk%d" % len(disks))))
        disks.append(disk)
        opts = options(session_store__segment_size="64KB", **more)
        opts["node.data_dir"] = disk.where
        node = make_node(listeners=listeners, options=opts)
        return node, disk

    yield make
    for disk in disks:
        disk.close()


def make_full(node, disk, how):
    if how == "tight":
        disk.fill(leave=8 * MB)
    else:
        fill_in_time(node, disk)
    node.wait_log("full=1")
    node.wait_metric("store_disk_full", lambda v: v > 0)


def fill_in_time(node, disk):
    """Before the store looks how much room there is, or it stops writing while
    it still could: then once more. What was made ready in advance is used up by
    retained messages."""
    for n in range(50):
        said = node.logs().count("full=1")
        disk.fill()
        c = node.client("filler")
        c.send_bytes(b"".join(wire.publish_packet(
            wire.V5, "filler", b"%d" % i + b"x" * 8000, retain=True)
            for i in range(100)))
        c.disconnect()
        c.expect_closed()
        node.wait(lambda s: refused_by_now(node) or
                  node.logs().count("full=1") > said)
        if refused_by_now(node):
            return
        wait_room(node, disk)
    raise AssertionError("the store always looked in time")


def refused_by_now(node):
    return "store.write" in node.logs()


def wait_room(node, disk, before=0):
    disk.free()
    node.wait_metric("store_disk_full", lambda v: v == 0)
    node.wait(lambda s: node.logs().count("full=0") >=
              node.logs().count("full=1"))


def durable(node, name, version=wire.V5, on=0, **opts):
    if version == wire.V5:
        opts.setdefault("props", NEVER)
    return node.client(name, version=version, on=on, clean=False, **opts)


HOW = pytest.mark.parametrize("how", ["tight", "full"])


@HOW
def test_what_has_to_be_kept_is_refused(disk_node, topic, how):
    node, disk = disk_node()
    a = durable(node, "a")
    a.subscribe(topic + "/kept", qos=2)
    old = durable(node, "old", wire.V311, on=1)
    old.subscribe(topic + "/kept", qos=1)
    pub5 = node.client("pub5", on=1)
    pub3 = [node.client("pub3-%d" % i, version=wire.V311, on=1)
            for i in range(3)]
    live = node.client("live", on=0)
    live.subscribe([topic + "/live", topic + "/kept"], qos=2)
    make_full(node, disk, how)

    # A new session.
    for on in range(2):
        c = wire.Client(node.addr(on))
        c.refused(0x97, client_id="new", clean=False, props=NEVER)
        c = wire.Client(node.addr(on), wire.V311)
        c.refused(v3=(3,), client_id="new", clean=False)
    # A message that a session would keep: nobody gets it.
    for qos, kind in ((1, wire.PUBACK), (2, wire.PUBREC)):
        pub5.send_publish(topic + "/kept", b"no", qos=qos, pid=7)
        assert pub5.wait_ack(kind, 7).reason == 0x97
    # A retained one.
    pub5.send_publish(topic + "/live", b"no", qos=1, pid=8, retain=True)
    assert pub5.wait_ack(wire.PUBACK, 8).reason == 0x97
    for i, (name, retain) in enumerate((("kept", False), ("kept", False),
                                        ("live", True))):
        pub3[i].send_publish("%s/%s" % (topic, name), b"no", qos=1 + i % 2,
                             pid=9, retain=retain)
        pub3[i].expect_closed()
    # QoS 2 of a durable session.
    a.send_publish(topic + "/live", b"no", qos=2, pid=10)
    assert a.wait_ack(wire.PUBREC, 10).reason == 0x97
    # A subscription of one.
    a.subscribe(topic + "/more", qos=1, expect=[0x97])
    old.subscribe(topic + "/more", qos=1, expect=[0x80])
    # Nobody had any of it, and what need not be kept goes on.
    for qos in (0, 1, 2):
        pub5.publish(topic + "/live", b"yes %d" % qos, qos=qos)
        assert live.complete(live.read_publish())[0].payload == b"yes %d" % qos
    pub5.publish(topic + "/kept", b"yes", qos=0)
    for c in (live, a, old):
        p = c.read_publish()
        assert (p.payload, p.qos) == (b"yes", 0)
    again = node.client("clean", on=1)
    again.subscribe(topic + "/clean", qos=1)
    again.publish(topic + "/clean", b"x", qos=1)
    again.complete(again.read_publish())

    wait_room(node, disk)
    pub5.publish(topic + "/kept", b"now", qos=2)
    for c in (live, a, old):
        assert c.complete(c.read_publish())[0].payload == b"now"
    a.subscribe(topic + "/more", qos=1)
    a.publish(topic + "/live", b"now", qos=2)
    assert live.complete(live.read_publish())[0].payload == b"now"
    pub5.publish(topic + "/live", b"kept", qos=1, retain=True)
    live.complete(live.read_publish())
    durable(node, "new").subscribe(topic, qos=1)


@pytest.mark.parametrize("version", [wire.V311, wire.V5])
@pytest.mark.parametrize("group", ["", "$share/g/"])
def test_a_refused_subscription_is_none(disk_node, topic, version, group):
    """Nothing comes for it, and one that it was to replace stays as it was."""
    node, disk = disk_node()                                # 3.9.3
    ids = {"props": 1} if version == wire.V5 else {}
    more = {"props": 2} if version == wire.V5 else {}
    c = durable(node, "c", version)
    c.subscribe(group + topic + "/old", qos=1, **ids)
    make_full(node, disk, "tight")
    for name in ("/new", "/old"):
        c.subscribe(group + topic + name, qos=2, **more,
                    expect=[0x97 if version == wire.V5 else 0x80])
    pub = node.client("pub")
    pub.publish(topic + "/new", b"new")
    pub.publish(topic + "/old", b"old")
    p = c.read_publish()
    assert p.payload == b"old"
    if version == wire.V5:
        assert p.props["subscription_identifier"] == [1]
    wait_room(node, disk)
    for qos in (0, 2):
        pub.publish(topic + "/new", b"new", qos=qos)
        pub.publish(topic + "/old", b"old", qos=qos)
        p = c.complete(c.read_publish())[0]
        assert (p.payload, p.qos) == (b"old", min(qos, 1))
    c.subscribe(group + topic + "/new", qos=1)
    pub.publish(topic + "/new", b"new")
    assert c.read_publish().payload == b"new"


@HOW
@pytest.mark.parametrize("kill", [False, True])
def test_what_gives_back_room_is_taken(disk_node, topic, how, kill):
    """Acknowledgements, PUBREL, UNSUBSCRIBE, the end of a session: nothing of
    it is forgotten, also when the store is killed before there is room."""
    node, disk = disk_node()
    a = durable(node, "a")
    a.subscribe(topic + "/1", qos=1)
    a.subscribe(topic + "/2", qos=2)
    gone = durable(node, "gone", on=1)
    gone.subscribe(topic + "/1", qos=1)
    b = durable(node, "b", on=1)
    pub = node.client("pub", on=1)
    for i in range(3):
        pub.publish(topic + "/1", b"one %d" % i, qos=1)
        pub.publish(topic + "/2", b"two %d" % i, qos=2)
    got = a.read_publishes(6)
    gone.complete(*gone.read_publishes(3))
    b.send_publish(topic + "/2", b"mine", qos=2, pid=5)
    assert b.wait_ack(wire.PUBREC, 5).reason == 0
    got.append(a.read_publish())
    make_full(node, disk, how)

    for p in got:
        if p.qos == 1:
            a.puback(p.pid)
        else:
            a.pubrec(p.pid)
    b.pubrel(5)
    a.unsubscribe(topic + "/1")
    gone.send_bytes(wire.disconnect_packet(
        wire.V5, 0, {"session_expiry_interval": 0}))
    gone.expect_closed()
    pub.fence()
    if kill:
        pid = node.kill("session_store.0")
        if how == "full":               # it cannot be started
            disk.free()
        node.wait_ready("session_store.0", not_pid=pid)
    if not kill or how == "tight":
        wait_room(node, disk)
    b.wait_ack(wire.PUBCOMP, 5)
    for p in got:
        if p.qos == 2:
            a.wait_ack(wire.PUBREL, p.pid)
            a.pubcomp(p.pid)
    again = durable(node, "gone", on=0)
    assert not again.connack.session_present
    pub.publish(topic + "/1", b"none", qos=1)
    pub.publish(topic + "/2", b"last", qos=2)
    # A store that was started meanwhile may not have heard of a PUBCOMP yet:
    # its PUBREL comes once more.
    p = a.read_until(lambda p: p.kind == wire.PUBLISH)
    assert p.payload == b"last"
    again = [p for p in a.inbox if p.kind == wire.PUBREL]
    assert kill or not again
    a.inbox.clear()
    for p in again:
        a.pubcomp(p.pid)
    a.complete(p)
    a.expect_nothing()
    a.disconnect()
    a = durable(node, "a", on=1)
    assert a.connack.session_present
    a.expect_nothing()


@HOW
def test_a_session_goes_on(disk_node, topic, how):
    """One that is there needs nothing new: its client is served."""
    node, disk = disk_node()
    a = durable(node, "a")
    a.subscribe(topic, qos=2)
    a.disconnect()
    old = durable(node, "old", wire.V311, on=1)
    old.subscribe(topic, qos=1)
    old.disconnect()
    pub = node.client("pub")
    for i in range(4):
        pub.publish(topic, b"%d" % i, qos=1 + i % 2)
    make_full(node, disk, how)
    a = durable(node, "a", on=1)
    assert a.connack.session_present
    old = durable(node, "old", wire.V311)
    assert old.connack.session_present
    for c in (old, a):
        got = c.read_publishes(4)
        assert [p.payload for p in got] == [b"%d" % i for i in range(4)]
        for p in got:
            if p.qos == 1:
                c.puback(p.pid)
            else:
                c.pubrec(p.pid)
    # To begin anew would be a new one: refused, what there was stays.
    wire.Client(node.addr(0)).refused(0x97, client_id="a", clean=True,
                                      props=NEVER)
    node.wait_metric("store_acknowledged_total", lambda v: v >= 8)
    a.fence()
    wait_room(node, disk)
    back = durable(node, "a")
    assert back.connack.session_present
    # The PUBRECs were kept: only PUBREL is due, nothing is sent again.
    for p in got:
        if p.qos == 2:
            back.wait_ack(wire.PUBREL, p.pid)
            back.pubcomp(p.pid)
    back.expect_nothing()


@pytest.mark.parametrize("publishers", [1, 8])
def test_messages_on_their_way_are_not_lost(disk_node, topic, publishers):
    """The disk fills up under load: what was acknowledged is there, in order,
    once; what was refused is not; nobody waits for the store."""
    node, disk = disk_node(bus__credit="256KB",
                           mqtt__receive_maximum="65535")
    a = durable(node, "a")
    a.subscribe(topic + "/#", qos=2)
    a.disconnect()
    pubs = [node.client("p%d" % i, on=i % 2) for i in range(publishers)]
    acked = [[] for _ in pubs]
    sent = [0] * len(pubs)
    refused = [0] * len(pubs)

    def send(i, n):
        for _ in range(n):
            sent[i] += 1
            pubs[i].send_publish("%s/%d" % (topic, i),
                                 b"%d " % sent[i] + b"x" * 3000, qos=1,
                                 pid=sent[i])

    def take(i, upto):
        while len(acked[i]) + refused[i] < upto:
            p = pubs[i].expect(wire.PUBACK)
            if p.reason == 0:
                acked[i].append(p.pid)
            else:
                assert p.reason == 0x97
                refused[i] += 1

    for i in range(publishers):
        send(i, 20)
        take(i, 20)
    disk.fill()
    # Those that came before the store knew are answered when there is room.
    while not refused_by_now(node) and "full=1" not in node.logs():
        for i in range(publishers):
            send(i, 10)
    node.wait_log("full=1")
    for i in range(publishers):
        pubs[i].inbox.extend(pubs[i].fence())
        send(i, 5)
    wait_room(node, disk)
    for i in range(publishers):
        take(i, sent[i])
        assert refused[i] >= 5
    a = durable(node, "a", on=1)
    want = sum(len(x) for x in acked)
    seen = [[] for _ in pubs]
    for _ in range(want):
        p = a.complete(a.read_publish())[0]
        seen[int(p.topic.rsplit("/", 1)[1])].append(int(p.payload.split()[0]))
    assert seen == acked
    a.expect_nothing()


def test_a_store_is_started_on_a_full_disk(disk_node, topic):
    node, disk = disk_node()
    a = durable(node, "a")
    a.subscribe(topic, qos=2)
    pub = node.client("pub", on=1)
    live = node.client("live", on=1)
    live.subscribe(topic + "/live", qos=1)
    a.disconnect()
    for i in range(5):
        pub.publish(topic, b"%d" % i, qos=2)
    make_full(node, disk, "full")
    pid = node.kill("session_store.0")
    # With or without a store: who needs none is served.
    for i in range(3):
        pub.publish(topic + "/live", b"x", qos=1)
        live.complete(live.read_publish())
    disk.free()
    node.wait_ready("session_store.0", not_pid=pid, deadline_s=60)
    node.wait_metric("store_disk_full", lambda v: v == 0)
    a = durable(node, "a", on=1)
    assert a.connack.session_present
    for i in range(5):
        assert a.complete(a.read_publish())[0].payload == b"%d" % i
    pub.publish(topic, b"more", qos=2)
    assert a.complete(a.read_publish())[0].payload == b"more"
