"""Fan-outs larger than a turn of the listener, and what happens around them:
publishers and subscribers that leave, queues, answers of other listeners."""

import pytest

from support import wire
from support.wire import V311, V5

LARGE = b"x" * 65536                    # 64 of them are a turn's output


def crowd(node, topic, n, on=0, qos=0, **opts):
    """n subscribers of topic that read only when asked to."""
    subs = [node.client(on=on, **opts) for _ in range(n)]
    for i, s in enumerate(subs):
        s.pid = 1
        s.send_bytes(wire.subscribe_packet(s.version, 1, [(topic, qos)]))
    for s in subs:
        s.expect(wire.SUBACK, 1)
    return subs


@pytest.mark.parametrize("qos", [1, 2])
def test_answer_when_others_were_faster(node, topic, qos):
    """Another listener acknowledges while the fan-out here is under way."""
    crowd(node, topic, 300, auto=True)
    crowd(node, topic, 1, on=1, auto=True)
    pub = node.client(on=0)
    for _ in range(10):
        assert pub.publish(topic, LARGE, qos=qos) == 0


def test_queued_large_payloads_are_freed(make_node, topic):
    """Queued by a fan-out that began when its turn was over: each ends just
    where a turn does, so the next finds no budget left."""
    node = make_node(listeners=2)
    slow, = crowd(node, topic, 1, qos=1, props={"receive_maximum": 1})
    crowd(node, topic, 192)
    pub = node.client(on=1)
    pub.publish(topic, b"", qos=1)
    for _ in range(8):
        pub.send_publish(topic, LARGE, qos=1)
    for _ in range(8):
        pub.expect(wire.PUBACK)
    for _ in range(9):
        slow.complete(slow.read_publish())
    slow.expect_nothing()               # a leak is a sanitizer's to report


@pytest.mark.parametrize("version", [V311, V5])
def test_publisher_with_much_unanswered(make_node, topic, version):
    """A publisher cut short by a fan-out of its own reaches the bound of
    unanswered messages at that moment."""
    node = make_node(listeners=2, options={"mqtt.receive_maximum": "65535"})
    crowd(node, topic + "/here", 300, auto=True)
    there = node.client(on=1)
    there.subscribe([topic + "/here", topic + "/there"])
    pubs = [node.client(on=0, version=version) for _ in range(3)]
    for pub in pubs:
        out = []
        for pid in range(1, 3001):
            where = "/here" if pid % 250 == 0 else "/there"
            out.append(wire.publish_packet(
                version, topic + where, LARGE if where == "/here" else b"",
                1, pid))
        pub.out = b"".join(out)
    for pub in pubs:
        pub.send_bytes(pub.out)
    for pub in pubs:
        for pid in range(1, 3001):
            pub.expect(wire.PUBACK, pid)
