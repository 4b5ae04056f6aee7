"""What a listener and a store say to each other of who holds a client id gets
lost."""

import pytest

from support import wire
from support.durable import durable


@pytest.mark.parametrize("clean", [False, True])
def test_an_end_that_was_not_told(make_node, clean):
    """The desk believes in a connection that is gone: it asks for it, hears
    that there is none, and the next client has the place."""
    node = make_node(listeners=2, env={"FAULTS": "session.detach:nth=1"})
    c = durable(node, "a", on=0)
    c.subscribe("t", qos=1)
    c.disconnect()
    c.expect_closed()
    node.client().publish("t", b"x", qos=1)
    c = durable(node, "a", on=1, present=not clean, clean=clean)
    if not clean:
        p = c.read_publish()
        assert p.payload == b"x"
        c.complete(p)
    c.disconnect()
    c.expect_closed()
    c = durable(node, "a", on=0, present=True)
    c.expect_nothing()
    assert c.connack.reason == wire.SUCCESS
