"""What clients do leaves nothing behind, and no client makes the node grow
beyond its bounds: memory (proportional set size) and descriptors, measured."""

import os

import pytest

from support import mqttc, wire
from support.wire import V31, V311, V5

MB = 1 << 20


def pss(node, name):
    with open("/proc/%d/smaps_rollup" % node.pids[name]) as f:
        for line in f:
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10


def descriptors(node, name):
    return len(os.listdir("/proc/%d/fd" % node.pids[name]))


def sanitized():
    """Sanitizers keep freed memory; figures mean nothing then."""
    with open(mqttc.program("mqttc-listener"), "rb") as f:
        return b"__asan_init" in f.read()


@pytest.fixture(scope="module")
def bounded():
    if mqttc.FOREIGN:
        pytest.skip("needs a node of its own")
    if sanitized():
        pytest.skip("memory is not comparable under a sanitizer")
    with mqttc.Node(listeners=2) as n:
        yield n


def gone(node):
    node.wait_metric("clients_connected", lambda v: v == 0)


def churn(node, rounds):
    """Clients with everything a client can have, that end in every way."""
    for r in range(rounds):
        cs = []
        for i in range(100):
            c = node.client("churn%d" % i, (V31, V311, V5)[i % 3], on=i % 2,
                            will={"topic": "w/%d" % i, "payload": b"x" * 500},
                            username="u" * 50)
            c.subscribe(["churn/%d/#" % i, "churn/+/%d" % (i % 7), "own/%d" % i],
                        qos=2)
            cs.append(c)
        for i, c in enumerate(cs):
            c.send_publish("churn/%d/%d" % (i, i % 7), b"y" * 2000, i % 3)
        for c in cs:
            c.fence()               # nothing it was sent is acknowledged
        for i, c in enumerate(cs):
            if i % 4 == 0:
                c.disconnect()
            elif i % 4 == 1:
                c.reset()
            elif i % 4 == 2:
                c.try_send(b"\x00\x00")
            c.close()
        node.close_clients()
        gone(node)


def test_connections_leave_nothing(bounded):
    names = ("listener.0", "listener.1", "router")
    churn(bounded, 20)
    before = {n: pss(bounded, n) for n in names}
    fds = {n: descriptors(bounded, n) for n in names}
    churn(bounded, 40)          # a kilobyte each would be 4 MB
    for n in names:
        grown = pss(bounded, n) - before[n]
        assert grown < 4 * MB, "%s grew by %d bytes in 4000 clients" % (n, grown)
        assert descriptors(bounded, n) == fds[n]
    assert bounded.metric("subscriptions") == 0
    assert bounded.metric("filters") == 0


def test_subscriptions_leave_nothing(bounded):
    """A hundred thousand filters that come and go."""
    c = bounded.client()

    def filters(r):
        return ["f/%d/%d/%s" % (r, i, "+/x" if i % 3 else "#")
                for i in range(2000)]

    def rounds(first, n):
        for r in range(first, first + n):
            fs = filters(r)
            c.subscribe(fs)
            c.unsubscribe(fs)

    rounds(0, 15)
    names = ("listener.0", "listener.1", "router")
    before = {n: pss(bounded, n) for n in names}
    rounds(15, 35)
    for n in names:
        grown = pss(bounded, n) - before[n]
        assert grown < 4 * MB, "%s grew by %d bytes" % (n, grown)


def test_slow_readers_are_bounded(bounded, topic):
    """Twenty who read nothing, 400 MB sent to each of them: what is kept
    reaches its bound and stays there."""
    slow = [bounded.client("slow%d" % i, rcvbuf=4096, on=i % 2)
            for i in range(20)]
    for i, c in enumerate(slow):
        c.subscribe(topic, qos=i % 3)
    pub = bounded.client()
    names = ("listener.0", "listener.1")
    before = {n: pss(bounded, n) for n in names}
    body = b"z" * 500000

    def blast(n):
        for i in range(n):
            pub.publish(topic, body, qos=i % 3)
        return {n: pss(bounded, n) - before[n] for n in names}

    half, full = blast(400), blast(400)
    for n in names:
        assert full[n] < 160 * MB, "%s: %d MB" % (n, full[n] // MB)
        assert full[n] - half[n] < 16 * MB, "%s still grows: %d, %d MB" % (
            n, half[n] // MB, full[n] // MB)
    for c in slow:
        c.close()
    bounded.close_clients()
    gone(bounded)


def test_partial_packets_are_bounded(bounded):
    """Five hundred clients announce a megabyte and send little of it."""
    before = pss(bounded, "listener.0")
    cs = []
    for i in range(500):
        c = bounded.client("partial%d" % i)
        c.send_bytes(b"\x30" + wire.varint(1000000) + b"\0\1t" + b"x" * 1000)
        cs.append(c)
    for c in cs[::50]:
        c.try_send(b"y")
    bounded.client().expect_nothing()
    grown = pss(bounded, "listener.0") - before
    assert grown < 16 * MB, "%d MB for 500 announcements" % (grown // MB)
