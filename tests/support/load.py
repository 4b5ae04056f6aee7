"""load.py: traffic that keeps books, for tests that break something under it.

    load = Load(node)
    load.pair("a", qos=2, pub_on=0, sub_on=1)
    with load:                          # connected, subscribed, publishing
        node.kill("router")
        load.progress()                 # every publisher was answered anew
    load.check()                        # loss, duplicates, order

Every message carries its publisher and number. A publisher notes which were
acknowledged (PUBACK; PUBREC for QoS 2), a subscriber what came and in which
order. Connections that end are an error unless mortal=True.
"""

import threading
import time

from . import wire


class Publisher(threading.Thread):
    def __init__(self, addr, name, topic, qos, window, version, mortal,
                 size):
        super().__init__(daemon=True, name="pub-" + name)
        self.topic, self.qos, self.window = topic, qos, window
        self.label, self.mortal, self.size = name, mortal, size
        self.client = wire.connect(addr, "pub-" + name, version)
        self.sent = 0
        self.acked = set()
        self.flying = {}                # packet identifier: number
        self.finish = threading.Event()
        self.died = False
        self.error = None

    def run(self):
        try:
            self.work()
        except wire.Closed as e:
            self.died = True
            if not self.mortal:
                self.error = e
        except Exception as e:
            self.error = e

    def work(self):
        c = self.client
        pad = b"." * self.size
        while not self.finish.is_set() or self.flying:
            out = []
            while len(self.flying) < self.window and not self.finish.is_set():
                pid = None
                if self.qos:
                    pid = c.next_pid()
                    while pid in self.flying:
                        pid = c.next_pid()
                    self.flying[pid] = self.sent
                body = b"%s %d %s" % (self.label.encode(), self.sent, pad)
                out.append(wire.publish_packet(c.version, self.topic, body,
                                               self.qos, pid))
                self.sent += 1
                if not self.qos and len(out) == self.window:
                    break
            if out:
                c.send_bytes(b"".join(out))
            if not self.qos:
                c.fence()               # as fast as the broker reads
                self.acked.add(self.sent - 1)
                continue
            self.answer(c.read_packet())
            while c.buf:                # whatever else came along
                p = c._parse()
                if p is None:
                    break
                self.answer(p)

    def answer(self, p):
        c = self.client
        if p.kind == wire.PUBACK:
            assert p.reason in (0, 0x10), p
            self.acked.add(self.flying.pop(p.pid))
        elif p.kind == wire.PUBREC:
            assert p.reason in (0, 0x10), p
            self.acked.add(self.flying[p.pid])
            c.pubrel(p.pid)
        elif p.kind == wire.PUBCOMP:
            del self.flying[p.pid]
        elif p.kind == wire.DISCONNECT and self.mortal:
            raise wire.Closed("%r" % p)
        else:
            raise wire.Bad("publisher got %r" % p)


class Subscriber(threading.Thread):
    def __init__(self, addr, name, topic, qos, version, mortal):
        super().__init__(daemon=True, name="sub-" + name)
        self.label, self.mortal = name, mortal
        self.client = wire.connect(addr, "sub-" + name, version, auto=True)
        self.client.subscribe(topic, qos=qos)
        self.got = {}                   # publisher: numbers as they came
        self.lock = threading.Lock()
        self.finish = threading.Event()
        self.died = False
        self.error = None

    def run(self):
        c = self.client
        try:
            while not self.finish.is_set():
                try:
                    p = c.read_packet(0.1)
                except wire.Late:
                    continue
                if p.kind == wire.PUBLISH:
                    who, n, _ = p.payload.split(b" ", 2)
                    with self.lock:
                        self.got.setdefault(who.decode(), []).append(int(n))
                elif p.kind == wire.DISCONNECT and self.mortal:
                    self.died = True
                    return
                else:
                    assert p.kind == wire.PUBREL, "subscriber got %r" % p
        except wire.Closed as e:
            self.died = True
            if not self.mortal:
                self.error = e
        except Exception as e:
            self.error = e

    def numbers(self, who):
        with self.lock:
            return list(self.got.get(who, ()))


class Load:
    def __init__(self, node, topic, lossless=False):
        """lossless: at the end QoS 0 is waited for as well."""
        self.node = node
        self.lossless = lossless
        self.topic = topic
        self.pubs, self.subs = [], []
        self.wants = []                 # (publisher, subscriber, qos)

    def pair(self, name, qos, pub_on, sub_on, window=10, version=wire.V5,
             mortal_pub=False, mortal_sub=False, size=40):
        """A publisher on one listener, subscribers of it on others: sub_on is
        an index or a list of them; mortal_* says who may lose its connection,
        for mortal_sub also as a set of indexes."""
        topic = "%s/%s" % (self.topic, name)
        on = sub_on if isinstance(sub_on, list) else [sub_on]
        subs = []
        for i in on:
            mortal = (i in mortal_sub if isinstance(mortal_sub, set)
                      else mortal_sub)
            subs.append(Subscriber(self.node.addr(i), "%s.%d" % (name, i),
                                   topic, qos, version, mortal))
        pub = Publisher(self.node.addr(pub_on), name, topic, qos, window,
                        version, mortal_pub, size)
        self.pubs.append(pub)
        self.subs += subs
        self.wants += [(pub, s, qos) for s in subs]

    def __enter__(self):
        for t in self.subs + self.pubs:
            t.start()
        self.progress()
        return self

    def __exit__(self, kind, exc, tb):
        for p in self.pubs:
            p.finish.set()
        for p in self.pubs:
            p.join(wire.DEADLINE * 2)
        if exc is None:
            self.settle()
        for s in self.subs:
            s.finish.set()
        for s in self.subs:
            s.join(wire.DEADLINE)
        for t in self.pubs + self.subs:
            t.client.close()

    def errors(self):
        return ["%s: %r" % (t.name, t.error)
                for t in self.pubs + self.subs if t.error is not None]

    def progress(self, n=20, deadline_s=None):
        """Until every living publisher had n more answers, and every living
        subscriber of it as many more messages."""
        end = time.monotonic() + (deadline_s or wire.DEADLINE)
        goal = [(p, s, len(p.acked), p.sent, len(s.numbers(p.label)), q)
                for p, s, q in self.wants]
        while True:
            late = [(p.name, s.name) for p, s, acked, sent, got, q in goal
                    if not p.died and (
                        (p.sent < sent + n) if q == 0
                        else len(p.acked) < acked + n)
                    or not p.died and not s.died
                    and len(s.numbers(p.label)) < got + n]
            if self.errors():
                raise AssertionError(self.errors())
            if not late:
                return
            if time.monotonic() > end:
                raise AssertionError("no progress: %s" % late)
            time.sleep(0.01)

    def settle(self):
        """Until every living subscriber has the last acknowledged message."""
        end = time.monotonic() + wire.DEADLINE
        for p, s, qos in self.wants:
            if not (qos or self.lossless) or not p.acked:
                continue
            last = max(p.acked)
            while not s.died and s.error is None:
                got = s.numbers(p.label)
                if got and max(got) >= last:
                    break
                if time.monotonic() > end:
                    break
                time.sleep(0.01)

    def counts(self):
        """Rows of (publisher, subscriber, qos, acknowledged, lost,
        duplicates, out of order) for subscribers that lived through it."""
        rows = []
        for p, s, qos in self.wants:
            if s.died:
                continue
            got = s.numbers(p.label)
            first = list(dict.fromkeys(got))
            lost = len(p.acked - set(got)) if qos else 0
            disorder = sum(a > b for a, b in zip(first, first[1:]))
            rows.append((p.name, s.name, qos, len(p.acked), lost,
                         len(got) - len(first), disorder))
        return rows

    def check(self):
        """Nothing acknowledged at QoS 1 or 2 was lost, nothing of QoS 2 (or
        0) came twice, everything came in order, nobody else was cut off."""
        assert self.errors() == []
        rows = self.counts()
        bad = [r for r in rows
               if r[4] or r[6] or (r[5] and r[2] != 1)]
        assert bad == [], "(pub, sub, qos, acked, lost, dup, disorder): %s" % (
            bad,)
        return rows
