"""What the kernel tells of a socket it tells once: nothing that was not acted
on at once may be forgotten."""

import socket

import pytest

from support import wire
from support.wire import V5


def count(sub, n):
    got = sub.read_publishes(n)
    assert [int(p.payload) for p in got] == list(range(n))


def burst(topic, n, qos=0):
    return b"".join(
        wire.publish_packet(V5, topic, b"%d" % i, qos, i + 1 if qos else None)
        for i in range(n))


@pytest.mark.parametrize("on", [0, 1])
def test_more_than_one_read_holds_then_silence(node, topic, on):
    sub, pub = node.client(on=on), node.client(on=0)
    sub.subscribe(topic)
    data = burst(topic, 20000)
    assert len(data) > 5 * 128 * 1024
    pub.send_bytes(data)
    count(sub, 20000)
    pub.expect_nothing()


@pytest.mark.parametrize("how", ["shut", "close"])
@pytest.mark.parametrize("n", [1, 20000])
def test_the_end_right_behind_it(node, topic, how, n):
    """All of it counts, and the end is seen: the will comes."""
    sub = node.client(on=1)
    sub.subscribe(topic)
    pub = node.client(on=0, will={"topic": topic, "payload": b"%d" % n})
    pub.send_bytes(burst(topic, n))
    if how == "shut":
        pub.sock.shutdown(socket.SHUT_WR)
    else:
        pub.close()
    got = [int(p.payload) for p in sub.read_publishes(n + 1)]
    got.remove(n)       # its place is a matter of test_will_kept.py
    assert got == list(range(n))


def test_the_end_before_connect(node):
    for n in (0, 1, 10):
        c = node.raw()
        c.send_bytes(wire.connect_packet(V5, "edge")[:n])
        c.sock.shutdown(socket.SHUT_WR)
        c.expect_closed()


def test_data_behind_a_large_fan_out(node, topic):
    """Publishers of other topics meet a listener that works on a fan-out, and
    say nothing more after that."""
    crowd = [node.client(on=0) for _ in range(150)]
    for c in crowd:
        c.subscribe(topic + "/all")
    subs = [node.client(on=0) for _ in range(10)]
    for i, s in enumerate(subs):
        s.subscribe("%s/%d" % (topic, i))
    pubs = [node.client(on=0) for _ in range(10)]
    loud = node.client(on=0)
    for _ in range(4):
        loud.send_publish(topic + "/all", b"x" * 200000)
    for i, p in enumerate(pubs):
        p.send_bytes(burst("%s/%d" % (topic, i), 50))
    for s in subs:
        count(s, 50)
    for c in crowd:
        assert len(c.read_publishes(4)) == 4


def test_numbers_of_descriptors_are_used_again(node, topic):
    """Who gets the descriptor of somebody who left is heard."""
    sub = node.client(on=1)
    sub.subscribe(topic, qos=1)
    for i in range(300):
        c = node.raw(on=0)
        c.connect()
        c.send_publish(topic, b"%d" % i)
        c.close()
    seen = {int(p.payload) for p in sub.read_publishes(300)}
    assert seen == set(range(300))
