"""crash.py: clients with sessions that outlive their connections, under
processes that die at any moment; they keep books.

    with Crash(node, topic, seed) as crash:
        crash.subscriber("a", qos=2, version=wire.V311)
        crash.publisher("p", qos=2)
        crash.run(rounds=50)            # kill -9, again and again
    crash.check()                       # loss, duplicates, order

What is done in which order comes from the seed; when, from the machine. Each
client does what MQTT asks of it: a publisher sends again what was not
answered, with the packet identifier it had, when its session goes on; a
subscriber passes on a QoS 2 message once, by its packet identifier. A session
that should be there and is not is an error.
"""

import collections
import os
import random
import signal
import threading
import time

from . import mqttc, wire

NEVER = 0xffffffff
OFTEN = {               # how often a process of that kind is the one to die
    "listener": 3, "session_store": 3, "router": 1, "supervise": 1,
}
WRONG = ("store.damage", "store.unreadable", "serve.lost", "session.lost",
         "store.refused", "store.operation")


# Small segments and frequent checkpoints, so that some are always under way.
OPTIONS = {
    "supervise.backoff_max": "200ms",
    "cluster.suback_timeout": "1m",
    "mqtt.max_offline_queue_len": "10000000",
    "mqtt.max_offline_queue_bytes": "1GB",
    "session_store.segment_size": "256KB",
    "session_store.checkpoint_interval": "500ms",
    "session_store.snapshot_interval": "2s",
}


def options(**more):
    return dict(OPTIONS, **{k.replace("__", "."): v for k, v in more.items()})


class Actor(threading.Thread):
    """One client id; connects wherever it can, until it is done."""

    def __init__(self, crash, name, version, durable=True):
        super().__init__(daemon=True, name=name)
        self.crash, self.version, self.durable = crash, version, durable
        self.client_id = "%s-%s" % (crash.prefix, name)
        self.rng = random.Random("%s %s" % (crash.seed, name))
        self.c = None
        self.known = False      # a CONNACK said that the session is there
        self.finish = threading.Event()
        self.error = None
        self.moves = 0          # rises with whatever gets done
        self.connects = 0

    def options(self):
        opts = {"clean": not self.durable, "keepalive": 0}
        if self.version >= wire.V5 and self.durable:
            opts["clean"] = False
            opts["props"] = {"session_expiry_interval": 7200}
        return opts

    def connect(self):
        """Until somebody takes us; returns True if the session goes on."""
        while True:
            where = self.rng.choice(self.crash.places)
            c = None
            began = time.monotonic()
            try:
                self.c = c = wire.Client(self.crash.node.addr(where),
                                         self.version)
                ack = c.connect(self.client_id, expect=None,
                                **self.options())
                if ack.reason == 0:
                    break
                assert ack.reason in ((0x88, 0x89, 0x8b, 0x8e)
                                      if self.version >= wire.V5 else (3,)) or (
                    ack.reason == 0x97 and self.crash.was_full(began)), \
                    "%r" % ack
            except (OSError, wire.Closed):
                pass
            if c is not None:
                c.close()
            self.crash.pause()
        self.connects += 1
        if self.known and self.durable and not ack.session_present:
            raise wire.Bad("the session is gone")
        if not self.durable and ack.session_present:
            raise wire.Bad("a session from nowhere")
        self.known = True
        return ack.session_present

    def run(self):
        try:
            while not self.is_done():
                try:
                    present = self.connect()
                    self.serve(present)
                except (OSError, wire.Closed):
                    self.c.close()
            self.c.close()
        except Exception as e:
            self.error = e
            with self.crash.moved:
                self.crash.moved.notify_all()

    def progress(self):
        self.moves += 1
        self.crash.event()

    def is_taken_away(self, p):
        """DISCONNECT from the broker: we connect anew."""
        if p.kind != wire.DISCONNECT:
            return False
        assert p.reason in (0x80, 0x89, 0x8b, 0x8e), p
        return True


class Subscriber(Actor):
    def __init__(self, crash, name, version, qos, filters, restless):
        super().__init__(crash, name, version)
        self.qos, self.filters, self.restless = qos, filters, restless
        self.subscribed = None          # when the SUBACK had come
        self.held = set()               # QoS 2 identifiers not released
        self.got = {}                   # (publisher, topic): [(n, qos)]
        self.kept = {}                  # the same of retained messages
        self.again = 0
        self.lock = threading.Lock()

    def is_done(self):
        return self.finish.is_set()

    def options(self):
        opts = super().options()
        if self.version >= wire.V5:
            opts["props"]["receive_maximum"] = self.rng.choice([1, 7, 100])
        return opts

    def serve(self, present):
        c = self.c
        if not present:
            self.held.clear()
        if self.subscribed is None:
            for f in self.filters:
                c.send_bytes(wire.subscribe_packet(
                    self.version, c.next_pid(), [(f, self.qos)]))
            left = len(self.filters)
            while left:
                p = c.read_packet()
                if p.kind == wire.SUBACK:
                    assert p.reasons == [self.qos], p
                    left -= 1
                elif not self.take(p):
                    return
            self.subscribed = time.monotonic()
        # How long until the next journey; some end in the midst of things.
        ends = (self.rng.choice([5, 100, 1000]) if self.restless
                else 1 << 60)
        quiet = self.rng.random() < .5
        n = 0
        while not self.is_done():
            try:
                p = c.read_packet(0.1)
            except wire.Late:
                continue
            n += p.kind == wire.PUBLISH
            if n >= ends and not self.crash.over:
                if quiet:
                    c.disconnect()
                else:
                    self.take_in(p)     # it came, but that is not said
                c.close()
                return
            if not self.take(p):
                return

    def take(self, p):
        if p.kind == wire.PUBLISH:
            self.take_in(p)
            if p.qos:
                self.c.send_raw_ack(
                    wire.PUBACK if p.qos == 1 else wire.PUBREC, p.pid)
        elif p.kind == wire.PUBREL:
            self.held.discard(p.pid)
            self.c.send_raw_ack(wire.PUBCOMP, p.pid)
        elif self.is_taken_away(p):
            self.c.close()
            return False
        else:
            raise wire.Bad("subscriber got %r" % p)
        return True

    def take_in(self, p):
        if p.kind != wire.PUBLISH:
            return
        if p.qos == 2:
            if p.pid in self.held:
                assert p.dup, "not said to come again: %r" % p
                self.again += 1
                return
            self.held.add(p.pid)
        who, n = p.payload.split(b" ", 1)
        with self.lock:
            # A new subscription gets what is retained; that says nothing
            # about the order, and may come live as well.
            (self.kept if p.retain else self.got).setdefault(
                (who.decode(), p.topic), []).append((int(n), p.qos))
        self.progress()

    def numbers(self, key):
        with self.lock:
            return list(self.got.get(key, ()))


class Publisher(Actor):
    def __init__(self, crash, name, version, qos, durable, topics, window,
                 pids, retain):
        super().__init__(crash, name, version, durable)
        self.qos, self.topics, self.window = qos, topics, window
        self.flying = collections.OrderedDict()     # pid: [topic, n, state]
        self.sent = dict.fromkeys(topics, 0)
        self.when = {}                  # (topic, n): first sent
        self.acked = {t: set() for t in topics}
        self.pid, self.pids, self.retain = 0, pids, retain

    def is_done(self):
        return self.finish.is_set() and not self.flying

    def serve(self, present):
        c = self.c
        if not present and self.qos == 2:
            # Nobody can say what became of these; sent again they might
            # come twice.
            self.flying.clear()
        out = [self.packet(pid, f, present)
               for pid, f in self.flying.items()]
        c.send_bytes(b"".join(out))
        resent = set(self.flying)
        ends = self.rng.choice([20, 300, 1 << 60])
        n = 0
        while True:
            out = []
            while (len(self.flying) < self.window
                   and not self.finish.is_set()):
                self.pid = self.pid % self.pids + 1
                if self.pid in self.flying:
                    continue
                t = self.rng.choice(self.topics)
                f = [t, self.sent[t], "sent"]
                self.when[t, f[1]] = time.monotonic()
                self.sent[t] += 1
                self.flying[self.pid] = f
                out.append(self.packet(self.pid, f, False))
            if out:
                c.send_bytes(b"".join(out))
            if self.is_done():
                c.disconnect()
                return
            n += 1
            if n >= ends and not self.crash.over:
                c.close()               # in the midst of it
                return
            p = c.read_packet()
            if self.is_taken_away(p):
                c.close()
                return
            self.answer(p, resent)

    def packet(self, pid, f, dup):
        if f[2] == "released":
            return wire.ack_packet(self.version, wire.PUBREL, pid)
        return wire.publish_packet(
            self.version, f[0], b"%s %d" % (self.name.encode(), f[1]),
            self.qos, pid, self.retain, dup)

    def answer(self, p, resent):
        f = self.flying.get(p.pid)
        assert f is not None, "answer to nothing: %r" % p
        if (p.kind in (wire.PUBACK, wire.PUBREC) and p.reason == 0x97
                and self.crash.was_full(self.when[f[0], f[1]])):
            del self.flying[p.pid]      # not taken, and told so
            return
        if p.kind == wire.PUBACK and self.qos == 1:
            assert p.reason in (0, 0x10), p
            self.acked[f[0]].add(f[1])
            del self.flying[p.pid]
            self.progress()
        elif p.kind == wire.PUBREC and self.qos == 2:
            assert p.reason in (0, 0x10), p
            self.acked[f[0]].add(f[1])
            f[2] = "released"
            self.c.send_raw_ack(wire.PUBREL, p.pid)
            self.progress()
        elif p.kind == wire.PUBCOMP and self.qos == 2:
            assert f[2] == "released", p
            assert p.reason == 0 or p.pid in resent, p
            del self.flying[p.pid]
        else:
            raise wire.Bad("publisher got %r" % p)


class Crash:
    made = 0

    def __init__(self, node, topic, seed, often=None):
        Crash.made += 1
        self.node, self.topic, self.seed = node, topic, seed
        self.prefix = "%d" % Crash.made
        self.rng = random.Random("%s kills" % seed)
        self.often = OFTEN if often is None else often
        self.places = ["external"] + list(range(node.listeners))
        self.subs, self.pubs, self.groups = [], [], {}
        self.moved = threading.Condition()
        self.events = 0
        self.over = False               # no more journeys
        self.started = False
        self.full = False               # the disk: new work may be refused
        self.room_since = 0
        self.killed = collections.Counter()

    # Who takes part

    def subscriber(self, name, qos, version=wire.V5, filters=None,
                   restless=True):
        s = Subscriber(self, "sub-" + name, version, qos,
                       filters or [self.topic + "/#"], restless)
        return self.add(self.subs, s)

    def group(self, name, members, qos):
        """A shared subscription; some of its members come and go."""
        f = ["$share/%s/%s/#" % (name, self.topic)]
        self.groups[name] = [
            self.subscriber("%s%d" % (name, i), qos,
                            wire.V5 if i % 2 else wire.V311, f,
                            restless=i % 3 > 0) for i in range(members)]

    def publisher(self, name, qos, version=wire.V5, durable=True, window=8,
                  pids=65535, retain=False):
        """pids: how many packet identifiers it makes use of."""
        p = Publisher(self, "pub-" + name, version, qos, durable,
                      ["%s/%s/%d" % (self.topic, name, i) for i in (0, 1)],
                      window, pids, retain)
        return self.add(self.pubs, p)

    def everybody(self, window=8):
        """Each kind there is. What the slowest must be given at the end grows
        with the window."""
        for i, (version, qos) in enumerate(((wire.V5, 2), (wire.V311, 2),
                                            (wire.V5, 1), (wire.V311, 1),
                                            (wire.V5, 2), (wire.V311, 2))):
            self.subscriber(str(i), qos, version, restless=i < 4)
        self.subscriber("many", 2, filters=[self.topic + "/#",
                                            self.topic + "/+/0"])
        self.group("two", 4, 2)
        self.group("one", 3, 1)
        self.publisher("v5q2", 2, window=window)
        self.publisher("v3q2", 2, wire.V311, window=window)
        self.publisher("fewpids", 2, window=min(window, 4), pids=4)
        self.publisher("v5q1", 1, window=window)
        self.publisher("v3q1", 1, wire.V311, window=window)
        self.publisher("v5q1c", 1, durable=False, window=window)
        self.publisher("v5q2c", 2, durable=False, window=window)

    def add(self, to, actor):
        to.append(actor)
        if self.started:
            actor.start()
        return actor

    def was_full(self, then):
        """May what was begun then be refused?"""
        return self.full or then < self.room_since

    def has_room(self):
        """All listeners know that the disk has room."""
        self.node.wait(lambda s: self.node.logs().count("full=0") >=
                       self.node.logs().count("full=1"))
        self.room_since = time.monotonic()
        self.full = False

    # While it runs

    def event(self):
        with self.moved:
            self.events += 1
            self.moved.notify_all()

    def pause(self):
        """Before a client tries again."""
        with self.moved:
            self.moved.wait(0.02)

    def await_events(self, n, at_most_s):
        """n more, or so long: what died may be needed for any."""
        with self.moved:
            goal = self.events + n
            self.moved.wait_for(lambda: self.events >= goal, at_most_s)

    def errors(self):
        return ["%s: %r" % (a.name, a.error)
                for a in self.subs + self.pubs if a.error is not None]

    def await_all(self, what, done, deadline_s=90):
        end = time.monotonic() + deadline_s
        while True:
            if self.errors():
                raise AssertionError(self.errors())
            late = [a.name for a in self.subs + self.pubs if not done(a)]
            if not late:
                return
            if time.monotonic() > end:
                raise AssertionError("%s: not %s" % (what, late))
            with self.moved:
                self.moved.wait(0.05)

    def progress(self):
        """Until every client got something done."""
        before = {a: a.moves for a in self.subs + self.pubs}
        self.await_all("progress", lambda a: a.moves > before[a])

    def __enter__(self):
        self.started = True
        for s in self.subs:
            s.start()
        self.await_all("subscribed",
                       lambda a: a in self.pubs or a.subscribed is not None)
        for p in self.pubs:
            p.start()
        self.progress()
        return self

    def next_supervisor(self):
        self.node.reader.join()
        self.node.proc.stdout.close()
        for left in (2, 1, 0):
            try:
                return self.node.start_once()
            except mqttc.Failed:
                # One of its children, on its way to exec, may hold the lock.
                if self.node.proc.poll() != 75 or not left:
                    raise
                time.sleep(0.1)

    def kill(self, name, pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.node.expected_gone.add(pid)
        self.killed[name] += 1

    def kill_one(self):
        """One of those that run; False if the one drawn does not."""
        rows = self.node.status()
        names = sorted(rows)
        name = self.rng.choices(
            names, [self.often[n.split(".")[0]] for n in names])[0]
        pid = rows[name]["pid"]
        if not pid or rows[name]["state"] in ("down", "failed"):
            return False
        if name != "supervise":
            self.kill(name, pid)
            return True
        self.node.proc.kill()
        self.node.proc.wait()
        self.node.expected_gone.add(pid)
        self.killed[name] += 1
        if self.rng.random() < .5:      # nobody is there to start it again
            name = self.rng.choice([n for n in names if n != "supervise"])
            if rows[name]["pid"]:
                self.kill(name, rows[name]["pid"])
            self.await_events(self.rng.choice([1, 100]), .2)
        self.next_supervisor()
        return True

    def power_cut(self):
        """All at once, and what was not synced is gone. (What the log says is
        synced, in programs with fault points.)"""
        pids = [row["pid"] for row in self.node.status().values()
                if row["pid"]]
        for sig in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                os.kill(pid, sig)
        self.node.proc.wait()
        for pid in pids:
            self.node.expected_gone.add(pid)
        while any(mqttc.process_alive(pid) for pid in pids):
            time.sleep(0.001)
        self.killed["all"] += 1
        data = os.path.join(self.node.dir, "data")
        for name in os.listdir(data):
            if name.startswith("session_store.") and "shards" not in name:
                self.cut(os.path.join(data, name))
        self.next_supervisor()

    def cut(self, where):
        with open(os.path.join(where, "synced")) as f:
            synced = int(f.read())
        for name in os.listdir(where):
            path = os.path.join(where, name)
            if not name.startswith("seg-") or not name.endswith(".log"):
                continue
            keep = synced - int(name[4:-4], 16)
            size = os.stat(path).st_size
            if keep <= 0:
                os.unlink(path)         # neither its name nor its bytes
            elif keep < size:
                os.truncate(path, keep)
                if self.rng.random() < .5:
                    os.truncate(path, size)

    def all_ready(self):
        self.node.wait(lambda s: all(r["state"] == "ready"
                                     for r in s.values()), 60)

    def run(self, rounds, rest=10):
        """Kill as often; every rest rounds everything comes to itself. Some
        subscribe in the midst of it."""
        done = 0
        late = {rounds // 4: (2, wire.V5), rounds // 2: (1, wire.V311),
                rounds * 3 // 4: (2, wire.V311)}
        while done < rounds:
            if self.errors():
                raise AssertionError(self.errors())
            self.await_events(self.rng.choice([1, 20, 200]), .5)
            if not self.kill_one():
                continue
            done += 1
            if done in late:
                qos, version = late.pop(done)
                self.subscriber("late%d" % done, qos, version)
            if done % rest == 0:
                self.all_ready()
                self.progress()

    def __exit__(self, kind, exc, tb):
        self.over = True
        try:
            if exc is None:
                self.settle()
        finally:
            for a in self.pubs + self.subs:
                a.finish.set()
            for a in self.pubs + self.subs:
                if exc is not None and a.c is not None:
                    a.c.close()
                a.join(5)

    def settle(self):
        """Everything runs, everybody is back, everything has come."""
        self.all_ready()
        self.await_all("subscribed",
                       lambda a: a in self.pubs or a.subscribed is not None)
        self.progress()
        # There is something for the last who came, too.
        last = max(s.subscribed for s in self.subs)
        self.await_all("acknowledged", lambda a: a in self.subs or all(
            any(a.when[t, n] > last for n in list(a.acked[t]))
            for t in a.topics))
        for p in self.pubs:
            p.finish.set()
        self.await_all("answered", lambda a: a in self.subs or a.is_done())
        due = [(s, key, n) for s, key, n in self.due()]
        for s, key, n in due:
            seen, end = s.moves, time.monotonic() + 20
            while (n not in {k for k, _ in s.numbers(key)}
                   and time.monotonic() < end and not self.errors()):
                if s.moves != seen:     # slowly, but it gets on
                    seen, end = s.moves, time.monotonic() + 20
                with self.moved:
                    self.moved.wait(0.05)
        left, end = None, time.monotonic() + 20
        while True:
            now = sum(len(r[3]) for r in self.group_counts())
            if now != left:
                left, end = now, time.monotonic() + 20
            if now == 0 or time.monotonic() > end or self.errors():
                break
            with self.moved:
                self.moved.wait(0.05)
        # What comes behind the last one would be too much.
        marks = {}
        for s in self.subs:
            marks[s] = s.moves
        probe = wire.connect(self.node.addr(0), self.prefix + "probe")
        probe.expect_nothing()
        probe.close()

    def due(self):
        """(subscriber, (publisher, topic), n) of the newest it must get of
        each topic."""
        for s in self.subs:
            for p in self.pubs:
                for t in p.topics:
                    n = [n for n in p.acked[t] if s.subscribed is not None
                         and p.when[t, n] > s.subscribed]
                    if n and self.wants(s, t):
                        yield s, (p.name, t), max(n)

    @staticmethod
    def wants(s, topic):
        return any(f.endswith("#") and topic.startswith(f[:-1])
                   for f in s.filters)

    # Afterwards

    def counts(self):
        """Rows of (publisher, topic, subscriber, acknowledged, lost,
        duplicates of QoS 2, out of order)."""
        rows = []
        for s in self.subs:
            for p in self.pubs:
                for t in p.topics:
                    if not self.wants(s, t):
                        continue
                    got = s.numbers((p.name, t))
                    numbers = [n for n, _ in got]
                    kept = {n for n, _ in s.kept.get((p.name, t), ())}
                    # What was sent before the SUBACK may come when it is
                    # sent again. What was not answered in a clean session is
                    # of one that ended: nobody sends it again, and the
                    # listener it went to may still be passing it on when the
                    # client has a new one elsewhere.
                    first = [n for n in dict.fromkeys(numbers)
                             if p.when[t, n] > s.subscribed
                             and (p.durable or n in p.acked[t])]
                    must = {n for n in p.acked[t]
                            if p.when[t, n] > s.subscribed}
                    twice = sum(q == 2 for _, q in got) - len(
                        {n for n, q in got if q == 2})
                    rows.append((p.name, t, s.name, len(must),
                                 sorted(must - set(numbers) - kept), twice,
                                 [(a, b) for a, b in zip(first, first[1:])
                                  if a > b]))
        return rows

    def group_counts(self):
        """Rows of (group, publisher, topic, lost, QoS 2 that came to more than
        one or twice)."""
        rows = []
        for name, members in self.groups.items():
            since = max(m.subscribed for m in members)
            for p in self.pubs:
                for t in p.topics:
                    got = [g for m in members for g in m.numbers((p.name, t))]
                    must = {n for n in p.acked[t] if p.when[t, n] > since}
                    two = collections.Counter(n for n, q in got if q == 2)
                    rows.append((name, p.name, t,
                                 sorted(must - {n for n, _ in got}),
                                 sorted(n for n, k in two.items() if k > 1)))
        return rows

    def check(self, wrong=WRONG):
        """wrong: what may not stand in the log."""
        assert self.errors() == []
        bad = [r for r in self.counts() if r[4] or r[5] or r[6]]
        bad += [r for r in self.group_counts() if r[3] or r[4]]
        said = [line for line in self.node.logs().splitlines()
                if any(w in line for w in wrong)
                and "what=tail" not in line]    # SIGKILL within a write
        assert not bad and not said, (
            "seed %s\n(pub, topic, sub, acked, lost, twice, disorder):\n%s\n%s"
            % (self.seed, "\n".join(str(r)[:400] for r in bad),
               "\n".join(said[:20])))
        assert all(r[3] > 0 for r in self.counts())

    def summary(self):
        return "seed %s: killed %s; %d events, %d connects" % (
            self.seed, dict(self.killed), self.events,
            sum(a.connects for a in self.subs + self.pubs))
