"""wire.py: MQTT 3.1, 3.1.1 and 5.0 by hand, for tests that need every bit.

encode(), Packet and decode() know every packet type and every property.
Decoding is strict: a flag, length, property or string that the
specification forbids raises Bad, so whatever the broker sends is checked by
whichever test happens to receive it.

Client is one connection. It acknowledges nothing unless asked to (auto=True),
sends what it is told to, right or wrong, and waits for events only: every
wait has a deadline that is there to fail a test, never to pace one.
"""

import collections
import os
import select
import socket
import struct
import time

V31, V311, V5 = 3, 4, 5

(CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE,
 SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT,
 AUTH) = range(1, 16)

NAMES = ("RESERVED CONNECT CONNACK PUBLISH PUBACK PUBREC PUBREL PUBCOMP "
         "SUBSCRIBE SUBACK UNSUBSCRIBE UNSUBACK PINGREQ PINGRESP DISCONNECT "
         "AUTH").split()

# Reason codes a test speaks of by name, MQTT 5.0 section 2.4.
SUCCESS = 0x00
NO_MATCHING_SUBSCRIBERS = 0x10
NO_SUBSCRIPTION_EXISTED = 0x11
UNSPECIFIED_ERROR = 0x80
MALFORMED_PACKET = 0x81
PROTOCOL_ERROR = 0x82
UNSUPPORTED_PROTOCOL_VERSION = 0x84
CLIENT_ID_NOT_VALID = 0x85
BAD_USER_NAME_OR_PASSWORD = 0x86
NOT_AUTHORIZED = 0x87
SERVER_UNAVAILABLE = 0x88
SERVER_SHUTTING_DOWN = 0x8B
BAD_AUTHENTICATION_METHOD = 0x8C
KEEP_ALIVE_TIMEOUT = 0x8D
SESSION_TAKEN_OVER = 0x8E
TOPIC_FILTER_INVALID = 0x8F
TOPIC_NAME_INVALID = 0x90
PACKET_ID_IN_USE = 0x91
PACKET_ID_NOT_FOUND = 0x92
RECEIVE_MAXIMUM_EXCEEDED = 0x93
TOPIC_ALIAS_INVALID = 0x94
PACKET_TOO_LARGE = 0x95
QUOTA_EXCEEDED = 0x97
RETAIN_NOT_SUPPORTED = 0x9A
QOS_NOT_SUPPORTED = 0x9B
SHARED_NOT_SUPPORTED = 0x9E

WILL = 0        # the will's properties have a table of their own

# id: (name, type, packets it may stand in); MQTT 5.0 section 2.2.2.2
PROPERTIES = {
    0x01: ("payload_format_indicator", "byte", {PUBLISH, WILL}),
    0x02: ("message_expiry_interval", "u32", {PUBLISH, WILL}),
    0x03: ("content_type", "text", {PUBLISH, WILL}),
    0x08: ("response_topic", "text", {PUBLISH, WILL}),
    0x09: ("correlation_data", "data", {PUBLISH, WILL}),
    0x0b: ("subscription_identifier", "varint", {PUBLISH, SUBSCRIBE}),
    0x11: ("session_expiry_interval", "u32", {CONNECT, CONNACK, DISCONNECT}),
    0x12: ("assigned_client_identifier", "text", {CONNACK}),
    0x13: ("server_keep_alive", "u16", {CONNACK}),
    0x15: ("authentication_method", "text", {CONNECT, CONNACK, AUTH}),
    0x16: ("authentication_data", "data", {CONNECT, CONNACK, AUTH}),
    0x17: ("request_problem_information", "byte", {CONNECT}),
    0x18: ("will_delay_interval", "u32", {WILL}),
    0x19: ("request_response_information", "byte", {CONNECT}),
    0x1a: ("response_information", "text", {CONNACK}),
    0x1c: ("server_reference", "text", {CONNACK, DISCONNECT}),
    0x1f: ("reason_string", "text", {CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP,
                                     SUBACK, UNSUBACK, DISCONNECT, AUTH}),
    0x21: ("receive_maximum", "u16", {CONNECT, CONNACK}),
    0x22: ("topic_alias_maximum", "u16", {CONNECT, CONNACK}),
    0x23: ("topic_alias", "u16", {PUBLISH}),
    0x24: ("maximum_qos", "byte", {CONNACK}),
    0x25: ("retain_available", "byte", {CONNACK}),
    0x26: ("user_property", "pair", {CONNECT, CONNACK, PUBLISH, WILL, PUBACK,
                                     PUBREC, PUBREL, PUBCOMP, SUBSCRIBE,
                                     SUBACK, UNSUBSCRIBE, UNSUBACK,
                                     DISCONNECT, AUTH}),
    0x27: ("maximum_packet_size", "u32", {CONNECT, CONNACK}),
    0x28: ("wildcard_subscription_available", "byte", {CONNACK}),
    0x29: ("subscription_identifier_available", "byte", {CONNACK}),
    0x2a: ("shared_subscription_available", "byte", {CONNACK}),
}
PROPERTY_IDS = {row[0]: (ident, row[1]) for ident, row in PROPERTIES.items()}

# The reason codes each packet may carry from a server, section 3.x.2.
REASONS = {
    CONNACK: {0, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89,
              0x8a, 0x8c, 0x90, 0x95, 0x97, 0x99, 0x9a, 0x9b, 0x9c, 0x9d,
              0x9f},
    PUBACK: {0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99},
    PUBREC: {0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99},
    PUBREL: {0, 0x92},
    PUBCOMP: {0, 0x92},
    SUBACK: {0, 1, 2, 0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2},
    UNSUBACK: {0, 0x11, 0x80, 0x83, 0x87, 0x8f, 0x91},
    DISCONNECT: {0, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8b, 0x8d, 0x8e,
                 0x8f, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a,
                 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2},
    AUTH: {0, 0x18},
}


class Bad(AssertionError):
    """The broker sent what the specification forbids."""


class Closed(AssertionError):
    """The connection ended while a packet was awaited."""


class Late(AssertionError):
    """What was awaited did not come."""


# --- Encoding ---------------------------------------------------------------

def varint(n):
    out = bytearray()
    while True:
        n, low = divmod(n, 128)
        out.append(low | (0x80 if n else 0))
        if not n:
            return bytes(out)


def data(b):
    return struct.pack(">H", len(b)) + b


def text(s):
    return data(s.encode("utf-8", "surrogatepass") if isinstance(s, str)
                else s)


def one_property(name, value):
    ident, kind = PROPERTY_IDS[name]
    enc = {"byte": lambda v: struct.pack(">B", v),
           "u16": lambda v: struct.pack(">H", v),
           "u32": lambda v: struct.pack(">I", v),
           "varint": varint, "text": text, "data": data,
           "pair": lambda v: text(v[0]) + text(v[1])}[kind]
    return varint(ident) + enc(value)


def properties(props):
    """From a dict, a list of (name, value) pairs, or ready-made bytes. In a
    dict, user_property and subscription_identifier may be lists."""
    if isinstance(props, bytes):
        return props
    out = b""
    for name, value in (props.items() if isinstance(props, dict)
                        else props or ()):
        many = isinstance(value, list)
        for v in (value if many else [value]):
            out += one_property(name, v)
    return varint(len(out)) + out


def packet(kind, flags, body, length=None):
    """Any packet; length overrides the remaining length (int or bytes)."""
    if length is None:
        length = len(body)
    if not isinstance(length, bytes):
        length = varint(length)
    return bytes([kind << 4 | flags]) + length + body


def connect_packet(version=V5, client_id="", clean=True, keepalive=60,
                   will=None, username=None, password=None, props=None,
                   name=None, level=None, flags=None, header_flags=0):
    """will: dict with topic, payload, qos, retain, props. flags replaces the
    connect flags that the other options would give."""
    if name is None:
        name = "MQIsdp" if version == V31 else "MQTT"
    if level is None:
        level = version
    bits = (2 if clean else 0)
    body = b""
    if version >= V5:
        body += properties(props)
    body += text(client_id)
    if will is not None:
        bits |= 4 | will.get("qos", 0) << 3 | (32 if will.get("retain") else 0)
        if version >= V5:
            body += properties(will.get("props"))
        body += text(will["topic"]) + data(will.get("payload", b""))
    if username is not None:
        bits |= 128
        body += text(username)
    if password is not None:
        bits |= 64
        body += data(password)
    if flags is not None:
        bits = flags
    head = text(name) + bytes([level, bits]) + struct.pack(">H", keepalive)
    return packet(CONNECT, header_flags, head + body)


def publish_packet(version, topic, payload=b"", qos=0, pid=None, retain=False,
                   dup=False, props=None):
    body = text(topic)
    if pid is not None:
        body += struct.pack(">H", pid)
    if version >= V5:
        body += properties(props)
    flags = (8 if dup else 0) | qos << 1 | (1 if retain else 0)
    return packet(PUBLISH, flags, body + payload)


def ack_packet(version, kind, pid, reason=None, props=None):
    body = struct.pack(">H", pid)
    if version >= V5 and (reason is not None or props is not None):
        body += bytes([reason or 0])
        if props is not None:
            body += properties(props)
    return packet(kind, 2 if kind == PUBREL else 0, body)


def subscribe_packet(version, pid, filters, props=None, flags=2):
    """filters: list of (filter, options byte)."""
    body = struct.pack(">H", pid)
    if version >= V5:
        body += properties(props)
    for f, options in filters:
        body += text(f) + bytes([options])
    return packet(SUBSCRIBE, flags, body)


def unsubscribe_packet(version, pid, filters, props=None, flags=2):
    body = struct.pack(">H", pid)
    if version >= V5:
        body += properties(props)
    for f in filters:
        body += text(f)
    return packet(UNSUBSCRIBE, flags, body)


def disconnect_packet(version, reason=None, props=None):
    body = b""
    if version >= V5 and (reason is not None or props is not None):
        body = bytes([reason or 0])
        if props is not None:
            body += properties(props)
    return packet(DISCONNECT, 0, body)


# --- Decoding ---------------------------------------------------------------

class Packet:
    """A received packet: kind, flags, and what that kind carries (pid,
    reason, props, topic, payload, qos, retain, dup, reasons, ...)."""

    def __init__(self, kind, flags, size):
        self.kind = kind
        self.flags = flags
        self.size = size        # of the whole packet, in bytes
        self.props = {}

    def __repr__(self):
        bits = ["%s=%r" % (k, v if not isinstance(v, bytes) or len(v) < 48
                           else v[:48] + b"..")
                for k, v in self.__dict__.items()
                if k not in ("kind", "flags", "size") and v not in ({}, None)]
        return "<%s %s>" % (NAMES[self.kind], " ".join(bits))


class Reader:
    def __init__(self, b):
        self.b = b
        self.at = 0

    def left(self):
        return len(self.b) - self.at

    def take(self, n):
        if self.left() < n:
            raise Bad("packet ends early: %r" % self.b[:64])
        self.at += n
        return self.b[self.at - n:self.at]

    def byte(self):
        return self.take(1)[0]

    def u16(self):
        return struct.unpack(">H", self.take(2))[0]

    def u32(self):
        return struct.unpack(">I", self.take(4))[0]

    def varint(self):
        n = shift = 0
        while True:
            c = self.byte()
            n |= (c & 0x7f) << shift
            shift += 7
            if not c & 0x80:
                if shift > 7 and c == 0:
                    raise Bad("varint not in its shortest form")  # 1.5.5-1
                return n
            if shift > 21:
                raise Bad("varint too long")

    def data(self):
        return self.take(self.u16())

    def text(self):
        try:
            s = self.data().decode("utf-8")
        except UnicodeDecodeError as e:
            raise Bad("bad UTF-8 from the broker: %s" % e)      # 1.5.4-1
        if "\0" in s:
            raise Bad("U+0000 from the broker")                 # 1.5.4-2
        return s

    def properties(self, kind):
        end = self.varint() + self.at
        if end > len(self.b):
            raise Bad("properties longer than their packet")
        out = {}
        while self.at < end:
            ident = self.varint()
            if ident not in PROPERTIES:
                raise Bad("unknown property %#x" % ident)
            name, form, where = PROPERTIES[ident]
            if kind not in where:
                raise Bad("%s in %s" % (name, NAMES[kind]))
            if form == "pair":
                out.setdefault(name, []).append((self.text(), self.text()))
                continue
            value = getattr(self, form)()
            if name == "subscription_identifier":
                if value == 0:
                    raise Bad("subscription identifier 0")
                out.setdefault(name, []).append(value)
                continue
            if name in out:
                raise Bad("%s twice" % name)
            if form == "byte" and value > 1:
                raise Bad("%s is %d" % (name, value))
            out[name] = value
        if self.at != end:
            raise Bad("properties end inside a property")
        return out


def decode(version, kind, flags, body, size):
    """One packet as a server may send it; Bad if it may not."""
    p = Packet(kind, flags, size)
    r = Reader(body)
    if kind != PUBLISH and flags != (2 if kind == PUBREL else 0):
        raise Bad("%s with flags %#x" % (NAMES[kind], flags))   # 2.1.3-1
    if kind == CONNACK:
        ack = r.byte()
        if ack > 1:
            raise Bad("reserved CONNACK flags %#x" % ack)
        p.session_present = bool(ack)
        p.reason = r.byte()
        if version >= V5:
            p.props = r.properties(kind)
            if p.reason not in REASONS[CONNACK]:
                raise Bad("CONNACK with reason %#x" % p.reason)
        elif p.reason > 5:
            raise Bad("CONNACK with return code %#x" % p.reason)
        if p.reason and p.session_present:
            raise Bad("session present in a refusal")           # 3.2.2-6
    elif kind == PUBLISH:
        p.dup, p.qos, p.retain = bool(flags & 8), flags >> 1 & 3, bool(
            flags & 1)
        if p.qos == 3:
            raise Bad("QoS 3")                                  # 3.3.1-4
        if p.qos == 0 and p.dup:
            raise Bad("DUP at QoS 0")                           # 3.3.1-2
        p.topic = r.text()
        if "+" in p.topic or "#" in p.topic:
            raise Bad("wildcard in topic name %r" % p.topic)    # 3.3.2-2
        p.pid = None
        if p.qos:
            p.pid = r.u16()
            if not p.pid:
                raise Bad("packet identifier 0")                # 2.2.1-4
        if version >= V5:
            p.props = r.properties(kind)
            if "topic_alias" in p.props and not p.props["topic_alias"]:
                raise Bad("topic alias 0")                      # 3.3.2-10
            if not p.topic and "topic_alias" not in p.props:
                raise Bad("neither topic nor alias")
            response = p.props.get("response_topic", "")
            if "+" in response or "#" in response:
                raise Bad("wildcard in response topic")         # 3.3.2-14
        elif not p.topic:
            raise Bad("empty topic")                            # 4.7.3-1
        p.payload = bytes(r.take(r.left()))
    elif kind in (PUBACK, PUBREC, PUBREL, PUBCOMP):
        p.pid = r.u16()
        p.reason = 0
        if version >= V5:
            if r.left():
                p.reason = r.byte()
            if r.left():
                p.props = r.properties(kind)
            if p.reason not in REASONS[kind]:
                raise Bad("%s with reason %#x" % (NAMES[kind], p.reason))
    elif kind in (SUBACK, UNSUBACK):
        p.pid = r.u16()
        if version >= V5:
            p.props = r.properties(kind)
        p.reasons = list(r.take(r.left()))
        allowed = REASONS[kind] if version >= V5 else {0, 1, 2, 0x80}
        for c in p.reasons:
            if c not in allowed:
                raise Bad("%s with reason %#x" % (NAMES[kind], c))
        if version < V5 and kind == UNSUBACK and p.reasons:
            raise Bad("UNSUBACK with a payload")
    elif kind == PINGRESP:
        pass
    elif kind in (DISCONNECT, AUTH):
        if version < V5:
            raise Bad("%s from a 3.x server" % NAMES[kind])
        p.reason = 0
        if r.left():
            p.reason = r.byte()
        if r.left():
            p.props = r.properties(kind)
        if p.reason not in REASONS[kind]:
            raise Bad("%s with reason %#x" % (NAMES[kind], p.reason))
        if kind == DISCONNECT and "session_expiry_interval" in p.props:
            raise Bad("session expiry interval from the server")  # 3.14.2-2
    else:
        raise Bad("%s from a server" % NAMES[kind])
    if r.left():
        raise Bad("%d bytes too many in %r" % (r.left(), p))
    return p


# --- A connection -----------------------------------------------------------

DEADLINE = float(os.environ.get("TEST_DEADLINE", "20"))

# Ours says why it closes a 5.0 connection; another broker need not (4.13.2).
LENIENT = "MQTTC_TEST_BROKER" in os.environ


def ready(sock, read, write, wait_s):
    """Whether sock can be read and written, of what was asked; waits for one
    of them. (Unlike select(2), poll(2) takes any descriptor.)"""
    p = select.poll()
    p.register(sock, (select.POLLIN if read else 0)
               | (select.POLLOUT if write else 0))
    got = p.poll(max(0, wait_s) * 1000)
    ev = got[0][1] if got else 0
    broken = ev & (select.POLLERR | select.POLLHUP)
    return (read and bool(ev & select.POLLIN or broken),
            write and bool(ev & select.POLLOUT or broken))


class Client:
    """One connection to addr (host, port). Nothing is sent before connect()
    or send_bytes()."""

    def __init__(self, addr, version=V5, auto=False, rcvbuf=None,
                 source=None, mss=None):
        self.version = version
        self.auto = auto
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        if mss:
            # The broker's kernel gives room for ten and more of them.
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, mss)
        if source:
            self.sock.bind((source, 0))
        self.sock.settimeout(DEADLINE)
        self.sock.connect(addr)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buf = bytearray()
        self.inbox = collections.deque()    # decoded, not yet asked for
        self.eof = False
        self.pid = 0
        self.connack = None
        self.aliases = {}
        self.deadline_s = DEADLINE

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        """Cut the connection without DISCONNECT."""
        self.sock.close()

    def reset(self):
        """Cut it with a TCP reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                             struct.pack("ii", 1, 0))
        self.sock.close()

    def next_pid(self):
        self.pid = self.pid % 65535 + 1
        return self.pid

    # Sending

    def send_bytes(self, b):
        """All of b, reading meanwhile so that neither side can stop both."""
        view = memoryview(b)
        end = time.monotonic() + self.deadline_s
        while view:
            readable, writable = ready(self.sock, not self.eof, True,
                                       end - time.monotonic())
            if readable:
                self._fill()
            if writable:
                try:
                    n = self.sock.send(view[:1 << 18], socket.MSG_DONTWAIT)
                except BlockingIOError:
                    n = 0
                except (BrokenPipeError, ConnectionResetError):
                    raise Closed("connection ended while sending")
                view = view[n:]
            elif not readable and time.monotonic() > end:
                raise Late("the broker does not read")

    def send_slowly(self, b, step=1):
        """Each step bytes in a segment of their own."""
        for i in range(0, len(b), step):
            self.send_bytes(b[i:i + step])

    def try_send(self, b):
        """As send_bytes, but the broker may hang up meanwhile: False then."""
        try:
            self.send_bytes(b)
        except Closed:
            return False
        return True

    # Receiving

    def _fill(self):
        try:
            b = self.sock.recv(1 << 18, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except ConnectionResetError:
            b = b""
        if b:
            self.buf += b
        else:
            self.eof = True

    def _parse(self):
        """The next packet in the buffer, or None."""
        n = shift = 0
        for i in range(1, 5):
            if len(self.buf) <= i:
                return None
            c = self.buf[i]
            n |= (c & 0x7f) << shift
            shift += 7
            if not c & 0x80:
                break
        else:
            raise Bad("remaining length too long: %r" % bytes(self.buf[:5]))
        if len(self.buf) < i + 1 + n:
            return None
        head = self.buf[0]
        body = bytes(self.buf[i + 1:i + 1 + n])
        del self.buf[:i + 1 + n]
        return decode(self.version, head >> 4, head & 15, body, i + 1 + n)

    def _next(self, end):
        """The next packet off the wire; Closed, Late."""
        while True:
            p = self._parse()
            if p is not None:
                break
            if self.eof:
                raise Closed("connection closed, %d bytes left over"
                             % len(self.buf))
            left = end - time.monotonic()
            if left <= 0 or not ready(self.sock, True, False, left)[0]:
                raise Late("nothing came in %g s" % self.deadline_s)
            self._fill()
        if p.kind == PUBLISH:
            alias = p.props.get("topic_alias")
            if alias is not None:
                limit = getattr(self, "alias_maximum", 0)
                if alias > limit:
                    raise Bad("topic alias %d above our maximum" % alias)
                if p.topic:
                    self.aliases[alias] = p.topic
                elif alias not in self.aliases:
                    raise Bad("topic alias %d was never set" % alias)
            p.name = p.topic or self.aliases[alias]
        if self.auto:
            self._answer(p)
        return p

    def _answer(self, p):
        if p.kind == PUBLISH and p.qos:
            self.send_raw_ack(PUBACK if p.qos == 1 else PUBREC, p.pid)
        elif p.kind == PUBREL:
            self.send_raw_ack(PUBCOMP, p.pid)

    def send_raw_ack(self, kind, pid, reason=None, props=None):
        self.send_bytes(ack_packet(self.version, kind, pid, reason, props))

    def read_packet(self, deadline_s=None):
        """The next packet, laid-aside ones first."""
        if self.inbox:
            return self.inbox.popleft()
        return self._next(time.monotonic() + (deadline_s or self.deadline_s))

    def read_until(self, wanted, deadline_s=None):
        """The first packet for which wanted(p); others are laid aside."""
        for i, p in enumerate(self.inbox):
            if wanted(p):
                del self.inbox[i]
                return p
        end = time.monotonic() + (deadline_s or self.deadline_s)
        while True:
            p = self._next(end)
            if wanted(p):
                return p
            self.inbox.append(p)

    def expect(self, kind, pid=None):
        """The next packet is of this kind (and for this identifier)."""
        p = self.read_packet()
        assert p.kind == kind, "%s awaited, %r came" % (NAMES[kind], p)
        if pid is not None:
            assert p.pid == pid, "%d awaited in %r" % (pid, p)
        return p

    def read_publishes(self, n):
        """The next n packets, all of which are PUBLISH."""
        return [self.expect(PUBLISH) for _ in range(n)]

    def read_publish(self):
        return self.expect(PUBLISH)

    def fence(self):
        """PINGREQ; whatever came before its PINGRESP."""
        self.send_bytes(packet(PINGREQ, 0, b""))
        end = time.monotonic() + self.deadline_s
        got = list(self.inbox)
        self.inbox.clear()
        while True:
            try:
                p = self._next(end)
            except Closed:
                self.inbox.extend(got)      # for who wants to know why
                raise
            if p.kind == PINGRESP:
                return got
            got.append(p)

    def expect_nothing(self):
        """The broker has processed all we sent, and had nothing to say."""
        got = self.fence()
        assert got == [], "came unasked: %r" % got

    def expect_closed(self):
        """End of stream, with nothing before it."""
        try:
            p = self.read_packet()
        except Closed:
            assert not self.buf, "half a packet: %r" % bytes(self.buf[:64])
            return
        raise AssertionError("end of stream awaited, %r came" % p)

    def expect_disconnect(self, *reasons):
        """Refused: DISCONNECT with one of these reasons (5.0), then the end
        of the stream. Packets laid aside or under way before it are passed
        over when they answer earlier packets."""
        if self.version < V5 or LENIENT:
            while True:
                try:
                    p = self.read_packet()
                except Closed:
                    return None
                if p.kind == DISCONNECT:
                    self.inbox.appendleft(p)
                    break
        while True:
            p = self.read_packet()
            if p.kind == DISCONNECT:
                break
        assert p.reason in reasons, "%s awaited, %r came" % (
            " or ".join("%#x" % r for r in reasons), p)
        self.expect_closed()
        return p

    def drain(self):
        """Read to the end of the stream; what came."""
        got = []
        while True:
            try:
                got.append(self.read_packet())
            except Closed:
                return got

    # Conversations

    def connect(self, client_id="", expect=SUCCESS, alias_maximum=0, **opts):
        """CONNECT, then CONNACK with this reason (a number, a set, or None
        for any). Further options as connect_packet. Returns the CONNACK."""
        opts.setdefault("version", self.version)
        self.version = opts["version"]
        if alias_maximum:
            props = dict(opts.get("props") or {})
            props["topic_alias_maximum"] = alias_maximum
            opts["props"] = props
        props = opts.get("props")
        if isinstance(props, dict):
            self.alias_maximum = props.get("topic_alias_maximum", 0)
        self.send_bytes(connect_packet(client_id=client_id, **opts))
        p = self.expect(CONNACK)
        if expect is not None:
            wanted = expect if isinstance(expect, set) else {expect}
            assert p.reason in wanted, "%r" % p
        self.connack = p
        if p.reason:
            self.expect_closed()                # 3.2.2-7
        return p

    def refused(self, *reasons, v3=None, **opts):
        """CONNECT that must not succeed: CONNACK with one of the reasons (5.0)
        or return codes (v3), or no CONNACK at all; the end of the stream."""
        opts.setdefault("version", self.version)
        self.version = opts["version"]
        self.send_bytes(connect_packet(**opts))
        return self.expect_refused(*reasons, v3=v3)

    def expect_refused(self, *reasons, v3=None):
        try:
            p = self.read_packet()
        except Closed:
            return None
        if self.version >= V5 and p.kind == DISCONNECT:
            assert p.reason in reasons, "%r" % p
        else:
            assert p.kind == CONNACK, "%r" % p
            wanted = reasons if self.version >= V5 else (v3 or ())
            assert p.reason in wanted, "%r came" % p
        self.expect_closed()
        return p

    def disconnect(self, reason=None, props=None):
        """DISCONNECT; the broker closes."""
        self.send_bytes(disconnect_packet(self.version, reason, props))

    def subscribe(self, filters, qos=0, props=None, pid=None, expect=None,
                  no_local=False, retain_as_published=False,
                  retain_handling=0):
        """One filter or a list of filters or (filter, options) pairs.
        Returns the reason codes, which must be the QoS asked for unless
        expect says otherwise (a list, or False for anything)."""
        options = (qos | (4 if no_local else 0)
                   | (8 if retain_as_published else 0)
                   | retain_handling << 4)
        if isinstance(filters, (str, bytes)):
            filters = [filters]
        filters = [f if isinstance(f, tuple) else (f, options)
                   for f in filters]
        pid = pid or self.next_pid()
        if isinstance(props, int):
            props = {"subscription_identifier": props}
        self.send_bytes(subscribe_packet(self.version, pid, filters, props))
        p = self.read_until(lambda p: p.kind == SUBACK)
        assert p.pid == pid, "%r" % p                           # 3.8.4-2
        assert len(p.reasons) == len(filters), "%r" % p         # 3.8.4-6
        if expect is None:
            expect = [o & 3 for _, o in filters]
        if expect is not False:
            assert p.reasons == expect, "%r" % p
        return p.reasons

    def unsubscribe(self, filters, props=None, pid=None):
        """Returns the reason codes ([] in 3.x)."""
        if isinstance(filters, (str, bytes)):
            filters = [filters]
        pid = pid or self.next_pid()
        self.send_bytes(unsubscribe_packet(self.version, pid, filters, props))
        p = self.read_until(lambda p: p.kind == UNSUBACK)
        assert p.pid == pid, "%r" % p                           # 3.10.4-4
        if self.version >= V5:
            assert len(p.reasons) == len(filters), "%r" % p     # 3.11.3-1
        return p.reasons

    def send_publish(self, topic, payload=b"", qos=0, pid=None, retain=False,
                     dup=False, props=None):
        """Only sends. Returns the packet identifier."""
        if qos and pid is None:
            pid = self.next_pid()
        self.send_bytes(publish_packet(self.version, topic, payload, qos, pid,
                                       retain, dup, props))
        return pid

    def publish(self, topic, payload=b"", qos=0, **opts):
        """Sends and sees the flow to its end, so that on return the broker
        has taken the message: QoS 0 by a PINGREQ, 1 by PUBACK, 2 by PUBREC,
        PUBREL, PUBCOMP. Returns the reason of PUBACK or PUBREC."""
        pid = self.send_publish(topic, payload, qos, **opts)
        if qos == 0:
            self.inbox.extend(self.fence())
            return None
        if qos == 1:
            return self.wait_ack(PUBACK, pid).reason
        p = self.wait_ack(PUBREC, pid)
        if p.reason < 0x80:
            self.send_raw_ack(PUBREL, pid)
            done = self.wait_ack(PUBCOMP, pid)
            assert done.reason == SUCCESS, "%r" % done
        return p.reason

    def wait_ack(self, kind, pid):
        return self.read_until(lambda p: p.kind == kind and p.pid == pid)

    def puback(self, pid, reason=None, props=None):
        self.send_raw_ack(PUBACK, pid, reason, props)

    def pubrec(self, pid, reason=None, props=None):
        self.send_raw_ack(PUBREC, pid, reason, props)

    def pubrel(self, pid, reason=None, props=None):
        self.send_raw_ack(PUBREL, pid, reason, props)

    def pubcomp(self, pid, reason=None, props=None):
        self.send_raw_ack(PUBCOMP, pid, reason, props)

    def complete(self, *publishes):
        """Acknowledge received PUBLISHes to the end of their flow."""
        for p in publishes:
            if p.qos == 1:
                self.puback(p.pid)
            elif p.qos == 2:
                self.pubrec(p.pid)
                self.wait_ack(PUBREL, p.pid)
                self.pubcomp(p.pid)
        return publishes


def connect(addr, client_id="", version=V5, auto=False, rcvbuf=None, **opts):
    """A Client that is connected."""
    c = Client(addr, version, auto, rcvbuf)
    try:
        c.connect(client_id, **opts)
    except BaseException:
        c.close()
        raise
    return c
