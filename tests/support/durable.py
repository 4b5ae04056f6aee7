"""durable.py: clients whose session outlives their connection."""

from . import wire
from .wire import V5

SETTLE_IDS = 12


def durable(node, client_id, version=V5, on=0, expiry=3600, present=None,
            clean=False, props=None, **opts):
    """A client with a session that is kept; present: what CONNACK must say
    of it (3.1 says nothing)."""
    if version == V5:
        props = dict(props or {}, session_expiry_interval=expiry)
    c = node.client(client_id, version, on, clean=clean, props=props, **opts)
    c.on = on
    c.client_id = client_id
    if present is not None and version != wire.V31:
        assert c.connack.session_present == present, c.connack
    return c


def leave(node, c, reason=None, **props):
    """DISCONNECT, and the session-store knows: whoever connects after it on
    the same listener is granted behind it. Returns what came meanwhile."""
    c.disconnect(reason, props or None)
    got = c.drain()
    c.close()
    settled(node, c.on)
    return got


def settled(node, on=0):
    """What the listener told the stores before is done: a CONNECT that is
    not clean waits for its store, and enough ids ask each of three."""
    for i in range(SETTLE_IDS if not node.foreign and
                   node.options.get("session_store.processes") else 1):
        c = node.client("settled.%d.%d" % (on, i), on=on, clean=False)
        c.disconnect()
        c.expect_closed()


class Receiver:
    """The receiving side of a session, as a client that keeps its state over
    connections has it: `got` is each message it was given, QoS 2 once."""

    def __init__(self):
        self.got = []
        self.received = set()           # QoS 2, between PUBLISH and PUBREL
        self.c = None

    def serve(self, c):
        self.c = c

    def take(self, p, answer=True):
        """One packet; answer False leaves it unanswered."""
        c = self.c
        if p.kind == wire.PUBLISH:
            if p.qos < 2 or p.pid not in self.received:
                self.got.append(p.payload)
            if p.qos == 2:
                self.received.add(p.pid)
            if p.qos and answer:
                c.send_raw_ack(wire.PUBACK if p.qos == 1 else wire.PUBREC,
                               p.pid)
        elif p.kind == wire.PUBREL:
            self.received.discard(p.pid)
            if answer:
                c.send_raw_ack(wire.PUBCOMP, p.pid)
        return p

    def until(self, done):
        """Take packets until done(self)."""
        while not done(self):
            self.take(self.c.read_packet())

    def drain(self):
        """Take what is there, to the end of the stream."""
        for p in self.c.drain():
            try:
                self.take(p)
            except wire.Closed:
                self.take_silently(p)

    def take_silently(self, p):
        self.take(p, answer=False)
