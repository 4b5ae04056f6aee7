"""rig.py: one real mqttc-router in a node that is played (router_rig.c).

    with Rig() as rig:
        rig.run()
        a = rig.process("listener.0", 10)
        a.snapshot("a/b", "c/#")
        a.wait_ack()

Commands go to the rig's stdin; events come back on its stdout, and are kept
until somebody waits for them.
"""

import fcntl
import functools
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time

from . import mqttc

RIG = os.path.join("build", "tests", "support", "router_rig")
DOWN, STARTING, READY, DRAINING = range(4)


@functools.lru_cache(None)
def rig_program():
    """Built when a test first asks for it; one at a time."""
    os.makedirs(os.path.join(mqttc.TOP, "build"), exist_ok=True)
    with open(os.path.join(mqttc.TOP, "build", "rig.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
        done = subprocess.run(["make", "-s", RIG], cwd=mqttc.TOP, text=True,
                              stdin=subprocess.DEVNULL, env=env,
                              capture_output=True)
    if done.returncode:
        raise mqttc.Failed("cannot build the rig:\n" + done.stderr)
    return os.path.join(mqttc.TOP, RIG)


class Rig:
    def __init__(self, env=None, **options):
        self.dir = tempfile.mkdtemp(prefix="mqttc-rig-")
        self.run_dir = os.path.join(self.dir, "run")
        os.mkdir(self.run_dir, 0o700)
        os.mkdir(os.path.join(self.dir, "data"), 0o700)
        self.options = {"node.name": "rig@127.0.0.1",
                        "node.run_dir": self.run_dir,
                        "node.data_dir": os.path.join(self.dir, "data"),
                        "log.level": "debug"}
        self.options.update({k.replace("__", "."): v
                             for k, v in options.items()})
        self.err_path = os.path.join(self.dir, "stderr")
        env = dict(os.environ, **(env or {}))
        for var in ("ASAN_OPTIONS", "UBSAN_OPTIONS"):
            env[var] = "log_path=" + os.path.join(self.dir, "sanitizer")
        with open(self.err_path, "ab") as err:
            self.proc = subprocess.Popen(
                [rig_program(), mqttc.program("mqttc-router")] +
                ["%s=%s" % kv for kv in self.options.items()],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err,
                cwd=self.run_dir, env=env)
        os.set_blocking(self.proc.stdout.fileno(), False)
        self.buffer = b""
        self.events = []
        self.pid = None
        self.processes = {}
        self.ids = {}

    def __enter__(self):
        return self

    def __exit__(self, kind, exc, tb):
        if exc is not None:
            print(self.log()[-20000:])
        self.proc.stdin.close()
        try:
            self.proc.wait(20)
        finally:
            if self.proc.poll() is None:
                self.proc.kill()
            if self.pid and mqttc.process_alive(self.pid):
                os.kill(self.pid, signal.SIGKILL)
            self.proc.stdout.close()
        reports = [n for n in os.listdir(self.dir) if "sanitizer" in n]
        assert not reports, self.read(reports[0])
        shutil.rmtree(self.dir, ignore_errors=True)

    def read(self, name):
        with open(os.path.join(self.dir, name), errors="replace") as f:
            return f.read()

    def log(self):
        return self.read("stderr")

    # Events

    def fill(self, timeout):
        ready, _, _ = select.select([self.proc.stdout], [], [], timeout)
        if not ready:
            return False
        more = os.read(self.proc.stdout.fileno(), 1 << 20)
        if not more:
            raise mqttc.Failed("the rig has ended\n" + self.log()[-8000:])
        *lines, self.buffer = (self.buffer + more).split(b"\n")
        for line in lines:
            event = json.loads(line)
            if event["event"] == "broken":
                raise mqttc.Failed("%s\n%s" % (event, self.log()[-8000:]))
            self.events.append(event)
        return True

    def take(self, event, **like):
        """The first kept event of this kind, or None."""
        for i, e in enumerate(self.events):
            if e["event"] == event and all(e.get(k) == v
                                           for k, v in like.items()):
                return self.events.pop(i)
        return None

    def wait(self, event, deadline_s=20, **like):
        end = time.monotonic() + deadline_s
        while True:
            e = self.take(event, **like)
            if e is not None:
                return e
            left = end - time.monotonic()
            if left <= 0 or not self.fill(left):
                raise mqttc.Failed("no event %s %s in %g s; others: %s\n%s" % (
                    event, like, deadline_s, self.events[-20:],
                    self.log()[-8000:]))

    def group(self, name, filter):
        self.do("id", name, filter)
        self.ids[self.wait("id")["id"]] = (name, filter)
        return name, filter

    def wait_any(self, *events):
        """The first of these that comes."""
        while True:
            for event in events:
                e = self.take(event)
                if e is not None:
                    return e
            if not self.fill(20):
                raise mqttc.Failed("none of %s\n%s" % (events, self.log()))

    def do(self, *words):
        self.proc.stdin.write((" ".join(map(str, words)) + "\n").encode())
        self.proc.stdin.flush()
        self.wait("done", deadline_s=60)

    # The router

    def run(self):
        self.do("run")
        e = self.wait("started")
        self.pid, self.incarnation = e["pid"], e["incarnation"]

    def start(self):
        """Run it, and wait until it has published its index."""
        self.run()
        self.wait("ready")
        return self.wait("segment")["generation"]

    def kill(self, sig=signal.SIGKILL):
        self.do("signal", int(sig))
        return self.wait("exit")

    def fence(self):
        """Everything said to the router before this is done: it answered a
        ping that came after it, and has had a turn since."""
        for _ in range(2):
            self.fence_seq = getattr(self, "fence_seq", 0) + 1
            self.do("ping", self.fence_seq)
            self.wait("pong", seq=self.fence_seq)

    def tool(self, name, *args, check=True, timeout=30):
        done = subprocess.run(
            [mqttc.program(name)] +
            [w for kv in self.options.items() for w in ("-o", "%s=%s" % kv)] +
            list(args), stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=timeout)
        if check and done.returncode:
            raise mqttc.Failed("%s: %d %s" % (args, done.returncode,
                                              done.stderr))
        return done

    def route(self, *args):
        """mqttc-route --json: a list of objects."""
        done = self.tool("mqttc-route", "--json", *args, check=False)
        if done.returncode not in (0, 1):       # 1: no route matches
            raise mqttc.Failed("%s: %d %s" % (args, done.returncode,
                                              done.stderr))
        out = done.stdout
        return [json.loads(line) for line in out.splitlines()]

    def stats(self):
        return {row["key"]: row["value"] for row in self.route("stats")}

    def wait_stats(self, predicate, deadline_s=20):
        end = time.monotonic() + deadline_s
        while True:
            s = self.stats()
            if predicate(s):
                return s
            if time.monotonic() > end:
                raise mqttc.Failed("stats stay at %s" % s)
            time.sleep(0.02)

    def logged(self, word, deadline_s=20):
        end = time.monotonic() + deadline_s
        while word not in self.log():
            if time.monotonic() > end:
                raise mqttc.Failed("never logged: " + word)
            time.sleep(0.02)

    # Everybody else

    def peers(self, **states):
        """peers(listener_0=(10, READY)): change rows of PEERS, tell them."""
        for name, (incarnation, state) in states.items():
            self.do("peer", ".".join(name.rsplit("_", 1)), incarnation, state)
        self.do("peers")

    def process(self, name, incarnation, state=READY, up=True):
        p = Process(self, name, incarnation)
        self.do("peer", name, incarnation, state)
        self.do("peers")
        self.do("open", name, incarnation)
        if up:
            self.wait("up", name=name)
        return p


class Process:
    """One that owns routes and reads the index."""

    def __init__(self, rig, name, incarnation):
        self.rig, self.name, self.incarnation = rig, name, incarnation
        self.seq = self.acked = 0

    def routes(self, *rows, flags="-", seq=None):
        """Rows are "+filter" or "-filter"; a filter in a group is
        "name@members@filter"."""
        self.seq = self.seq + 1 if seq is None else seq
        self.rig.do("routes", self.name, self.seq, flags, *rows)

    def add(self, *filters):
        self.routes(*("+" + f for f in filters))

    def delete(self, *filters):
        self.routes(*("-" + f for f in filters))

    def snapshot(self, *filters):
        self.routes(*("+" + f for f in filters), flags="be")

    def bulk(self, pattern, n, start=0, op="+", flags="-"):
        self.rig.do("bulk", self.name, self.seq + 1, flags, op, start, n,
                    pattern)
        self.seq = self.rig.wait("sent")["seq"]

    def wait_ack(self, seq=None, deadline_s=20):
        """Until everything up to seq (all that was sent) is acknowledged."""
        seq = self.seq if seq is None else seq
        end = time.monotonic() + deadline_s
        while self.acked < seq:
            e = self.rig.wait("ack", end - time.monotonic(), name=self.name,
                              incarnation=self.incarnation, resync=False)
            self.acked = max(self.acked, e["seq"])

    def read(self):
        self.rig.do("read", self.name)

    def map(self):
        self.rig.do("map", self.name)

    def enter(self):
        self.rig.do("enter", self.name)

    def leave(self):
        self.rig.do("leave", self.name)
        return self.rig.wait("left")["valid"]

    def match(self, topic):
        """Names of destinations; "!" follows those that are down."""
        self.rig.do("match", self.name, topic)
        self.last = self.rig.wait("match")
        return sorted(self.last["dests"])

    def groups(self, topic):
        """{(name, filter): {destination: members}}, of what match() found;
        names are those that rig.group() was told."""
        self.match(topic)
        assert not self.last["short"]
        return {self.rig.ids[i]: dests
                for i, dests in self.last["groups"].items()}

    def connect(self):
        """To the router that runs now."""
        self.seq = self.acked = 0
        self.rig.do("connect", self.name)
        self.rig.wait("up", name=self.name)

    def die(self, tell=True):
        self.rig.do("close", self.name)
        if tell:
            self.rig.do("peer", self.name, self.incarnation, DOWN)
            self.rig.do("peers")
