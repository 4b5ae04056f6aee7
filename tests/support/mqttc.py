"""mqttc.py: a node of real processes, in a directory and on ports of its own.

    with Node(listeners=2, options={"bus.credit": "64KB"}) as node:
        node.client(...)            # a wire.Client connected to it
        node.status()["router"]["pid"]
        node.kill("listener.1", signal.SIGKILL)
        node.wait(lambda s: s["listener.1"]["state"] == "ready")

Leaving the block stops the node and fails the test unless it exits 0, leaves
no process behind and no sanitizer had anything to say.

The environment says where things are: MQTTC_BIN is the directory of the
programs (build/bin), MQTTC_TEST_BROKER=HOST:PORT runs the protocol tests
against some other broker that is already there.
"""

import contextlib
import ctypes
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

from . import wire

TOP = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))
BIN = os.path.abspath(os.environ.get("MQTTC_BIN",
                                     os.path.join(TOP, "build", "bin")))
FOREIGN = os.environ.get("MQTTC_TEST_BROKER")

# What is slow under a sanitizer is not wrong there.
START_S = float(os.environ.get("TEST_START_DEADLINE", "30"))
STOP_S = float(os.environ.get("TEST_STOP_DEADLINE", "30"))

SANITIZED = re.compile(r"ERROR: \w+Sanitizer|WARNING: \w+Sanitizer|"
                       r"runtime error:")


def program(name):
    return os.path.join(BIN, name)


def have_programs():
    return os.access(program("mqttc-supervise"), os.X_OK)


def free_ports(n):
    """A base port so that base .. base + n - 1 were free a moment ago, below
    the range that outgoing connections take theirs from."""
    for _ in range(500):
        base = random.randrange(10240, 32000 - n)
        held = []
        try:
            for port in range(base, base + n):
                s = socket.socket()
                held.append(s)
                s.bind(("127.0.0.1", port))
            return base
        except OSError:
            pass
        finally:
            for s in held:
                s.close()
    raise RuntimeError("no free ports")


def processes_marked(mark):
    """{pid: command line} of every process that has mark in its environment."""
    out = {}
    needle = mark.encode()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/environ" % pid, "rb") as f:
                if needle not in f.read().split(b"\0"):
                    continue
            with open("/proc/%s/stat" % pid) as f:
                if f.read().rsplit(")", 1)[1].split()[0] == "Z":
                    continue
            with open("/proc/%s/cmdline" % pid, "rb") as f:
                out[int(pid)] = f.read().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return out


def process_alive(pid):
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


class Failed(AssertionError):
    pass


LIBC = ctypes.CDLL(None)


def die_with_parent():
    """In the child: a test run that is killed takes its nodes along."""
    LIBC.prctl(1, signal.SIGTERM)               # PR_SET_PDEATHSIG


class Clients:
    """Makes connections to a broker and closes what a test leaves open."""

    made = 0
    inside = staticmethod(contextlib.nullcontext)   # where sockets are made

    def __init__(self):
        self.open = []

    def client(self, client_id="", version=wire.V5, on=0, auto=False,
               rcvbuf=None, mss=None, **opts):
        """A connected client of listener `on` (an index, or "external")."""
        if version == wire.V31 and not client_id:
            Clients.made += 1
            client_id = "c%d.%d" % (os.getpid(), Clients.made)
        with self.inside():
            c = wire.Client(self.addr(on), version, auto, rcvbuf, mss=mss)
        self.open.append(c)
        c.connect(client_id, **opts)
        return c

    def raw(self, version=wire.V5, on=0, **opts):
        """A connection on which nothing was sent yet."""
        with self.inside():
            c = wire.Client(self.addr(on), version, **opts)
        self.open.append(c)
        return c

    def close_clients(self):
        for c in self.open:
            c.close()
        self.open.clear()


class Foreign(Clients):
    """Some other broker, to try the tests themselves against."""

    foreign = True

    def __init__(self, where):
        super().__init__()
        host, port = where.rsplit(":", 1)
        self.host, self.port = host, int(port)

    def addr(self, on=0):
        return (self.host, self.port)

    def check_alive(self):
        wire.connect(self.addr()).close()

    def stop(self):
        self.close_clients()

    def report(self):
        return ""


class Node(Clients):
    foreign = False

    def __init__(self, listeners=2, options=None, env=None, args=(),
                 name="test@127.0.0.1", start=True, directory=None,
                 host=None):
        """host is one of a Network (network.py), or None: this machine."""
        super().__init__()
        self.host = host
        if host is not None:
            self.inside = host.inside
        self.listeners = listeners
        self.options = dict(options or {})
        self.env = dict(env or {})
        self.args = list(args)
        self.name = name
        self.own_dir = directory is None
        self.dir = directory or tempfile.mkdtemp(prefix="mqttc-test-")
        self.mark = "TEST_NODE=%s.%d" % (self.dir, random.getrandbits(32))
        self.proc = None
        self.lines = []
        self.pids = {}
        self.expected_gone = set()
        self.killed = {}
        if start:
            self.start()

    def __enter__(self):
        return self

    def __exit__(self, kind, exc, tb):
        if exc is not None:
            print(self.report())
            try:
                self.stop(check=False)
            except Failed:
                pass
            return
        self.stop()

    # Start

    def arguments(self):
        opts = {
            "node.name": self.name,
            "node.data_dir": os.path.join(self.dir, "data"),
            "node.run_dir": os.path.join(self.dir, "run"),
            "cluster.discovery": "singleton",
            "listener.tcp.external": "127.0.0.1:%d" % self.port,
            "listener.tcp.each": "127.0.0.1:%d" % self.each_port,
            "listener.processes": str(self.listeners),
        }
        opts.update(self.options)
        out = []
        for key, value in opts.items():
            if value is not None:
                out += ["-o", "%s=%s" % (key, value)]
        return out

    def environment(self):
        env = {k: v for k, v in os.environ.items()
               if not k.startswith("MQTTC_")}
        where = os.path.join(self.dir, "sanitizer")
        for var, more in (("ASAN_OPTIONS", "detect_leaks=1"),
                          ("UBSAN_OPTIONS", "print_stacktrace=1"),
                          ("TSAN_OPTIONS", "second_deadlock_stack=1")):
            env[var] = ":".join(filter(None, (
                more, env.get(var, ""), "log_path=" + where)))
        env.update(self.env)
        key, value = self.mark.split("=", 1)
        env[key] = value
        return env

    def start(self):
        for attempt in range(3):
            self.port = free_ports(self.listeners + 2)
            self.each_port = self.port + 1
            try:
                return self.start_once()
            except Failed:
                said = self.stderr()
                again = attempt < 2 and "in use" in said
                mine, self.own_dir = self.own_dir, self.own_dir and not again
                self.stop(check=False)
                self.own_dir = mine
                if not again:
                    raise

    def start_once(self):
        self.err_path = os.path.join(self.dir, "stderr")
        self.err = open(self.err_path, "ab")
        self.lines = []
        self.said_ready = threading.Event()
        self.proc = subprocess.Popen(
            [program("mqttc-supervise")] + self.args + self.arguments(),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.err,
            env=self.environment(), cwd=self.dir, text=True,
            preexec_fn=self.before_exec)
        self.reader = threading.Thread(target=self.read_stdout, daemon=True,
                                       args=(self.proc.stdout, self.lines,
                                             self.said_ready))
        self.reader.start()
        if not self.said_ready.wait(START_S):
            self.fail("not ready in %g s" % START_S)
        if not any("ready" in line for line in self.lines):
            code = self.proc.wait()
            self.fail("ended with %s before it was ready" % code)
        try:
            self.pids = {n: p["pid"] for n, p in self.status().items()}
        except (Failed, OSError):
            self.pids = {"supervise": self.proc.pid}
        return self

    def before_exec(self):
        die_with_parent()
        if self.host is not None:
            self.host.enter()

    # Of one supervisor: that of the one before may still be reading.
    @staticmethod
    def read_stdout(stream, lines, said_ready):
        for line in stream:
            lines.append(line)
            if "ready" in line:
                said_ready.set()
        said_ready.set()

    # Looking

    def addr(self, on=0):
        if on == "external":
            return ("127.0.0.1", self.port)
        return ("127.0.0.1", self.each_port + on)

    def tool(self, name, *args, check=True, timeout=30):
        """Run one of the tools on this node; its stdout as text, or the
        whole CompletedProcess with check=False."""
        done = subprocess.run(
            [program(name)] + self.arguments() + list(args),
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
            env=self.environment(), cwd=self.dir, timeout=timeout)
        if not check:
            return done
        if done.returncode:
            raise Failed("%s %s: exit %d\n%s" % (
                name, " ".join(args), done.returncode, done.stderr))
        return done.stdout

    def tool_json(self, name, *args):
        return [json.loads(line)
                for line in self.tool(name, *args, "--json").splitlines()]

    def status(self):
        """{name: {"pid":, "state":, ...}} as mqttc-ctl tells it."""
        return {row["name"]: row
                for row in self.tool_json("mqttc-ctl", "status")}

    def pid(self, name):
        return self.status()[name]["pid"]

    def wait(self, predicate, deadline_s=30):
        """Until predicate(status) is true; returns that status."""
        end = time.monotonic() + deadline_s
        why = None
        while True:
            try:
                s = self.status()
                if predicate(s):
                    return s
                why = s
            except (Failed, KeyError, subprocess.TimeoutExpired) as e:
                why = e
            if time.monotonic() > end:
                self.fail("status never as awaited: %s" % why)
            time.sleep(0.02)

    def wait_ready(self, name, not_pid=None, deadline_s=30):
        """Until the process is ready, with another pid than not_pid, or than
        the one that kill() ended: for a moment the supervisor believes that to
        be there."""
        not_pid = not_pid or self.killed.get(name)
        return self.wait(lambda s: s[name]["state"] == "ready"
                         and s[name]["pid"] != not_pid, deadline_s)[name]

    def metrics(self):
        """{(process, metric): value} from mqttc-stat --json."""
        out = {}
        for row in self.tool_json("mqttc-stat"):
            name = row.get("process") or row.get("name")
            if "metric" in row:
                out[name, row["metric"]] = row["value"]
            else:
                for k, v in row.get("metrics", row).items():
                    if isinstance(v, (int, float)):
                        out[name, k] = v
        return out

    def metric(self, name, process=None):
        """The sum of a metric over all processes, or over one."""
        rows = [v for (p, m), v in self.metrics().items()
                if m == name and process in (None, p)]
        if not rows:
            raise KeyError(name)
        return sum(rows)

    def wait_metric(self, name, predicate, process=None, deadline_s=20):
        end = time.monotonic() + deadline_s
        while True:
            v = self.metric(name, process)
            if predicate(v):
                return v
            if time.monotonic() > end:
                self.fail("metric %s stays at %s" % (name, v))
            time.sleep(0.02)

    def stderr(self):
        try:
            with open(self.err_path, errors="replace") as f:
                return f.read()
        except OSError:
            return ""

    def logs(self):
        """Everything the node logged, to stderr or to files. What a session
        store keeps in its directory is bytes, and not for reading."""
        out = self.stderr()
        for where, dirs, files in os.walk(self.dir):
            dirs[:] = [d for d in dirs if not d.startswith("session_store.")]
            for name in sorted(files):
                if ".log" in name:
                    with open(os.path.join(where, name),
                              errors="replace") as f:
                        out += f.read()
        return out

    def wait_log(self, word, deadline_s=20):
        end = time.monotonic() + deadline_s
        while word not in self.logs():
            if time.monotonic() > end:
                self.fail("never logged: %s" % word)
            time.sleep(0.02)

    def sanitizer_reports(self):
        out = ""
        for name in sorted(os.listdir(self.dir)):
            if name.startswith("sanitizer."):
                with open(os.path.join(self.dir, name),
                          errors="replace") as f:
                    out += f.read()
        logged = self.logs()
        if SANITIZED.search(logged):
            out += logged
        return out

    def report(self):
        """What a failed test should show."""
        return "".join((
            "== %s\n" % " ".join([program("mqttc-supervise")] + self.args
                                 + self.arguments()),
            "== stdout\n", "".join(self.lines[-40:]),
            "== log\n", "".join(self.logs().splitlines(True)[-120:]),
            "== sanitizers\n" if self.sanitizer_reports() else "",
            self.sanitizer_reports()[-8000:]))

    def fail(self, why):
        raise Failed("%s\n%s" % (why, self.report()))

    def check_alive(self):
        """No process died or was replaced since the start, save those that
        were killed by kill()."""
        for name, pid in self.pids.items():
            if pid not in self.expected_gone and not process_alive(pid):
                self.expected_gone.add(pid)     # one test fails for it
                self.fail("%s (pid %d) is gone" % (name, pid))

    # Breaking

    def kill(self, name, sig=signal.SIGKILL):
        """Send a signal to a process of the node; returns its pid."""
        pid = self.pid(name)
        if sig in (signal.SIGKILL, signal.SIGTERM):
            self.expected_gone.add(pid)
            self.killed[name] = pid
        os.kill(pid, sig)
        return pid

    def upgrade(self, name="listener"):
        """Have the listeners' places taken by new processes."""
        before = self.status()
        self.tool("mqttc-ctl", "upgrade", name)
        after = self.status()
        for k, p in after.items():
            mine = name in (k, k.split(".")[0])
            assert (p["pid"] != before[k]["pid"]) == mine, (k, before, after)
            assert p["incarnation"] == before[k]["incarnation"]
            assert p["restarts"] == before[k]["restarts"]
            assert p["state"] == "ready"
            if mine:
                self.expected_gone.add(before[k]["pid"])
                self.pids[k] = p["pid"]

    # Stop

    def terminate(self):
        """SIGTERM and the exit code."""
        if self.proc.poll() is None:
            self.proc.send_signal(signal.SIGTERM)
        try:
            code = self.proc.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
            code = "no end in %g s" % STOP_S
        self.reader.join()
        self.proc.stdout.close()
        self.err.close()
        return code

    def stop(self, check=True):
        """Stop the node; unless check is False it must exit 0, leave nothing
        behind and have nothing to say about itself."""
        self.close_clients()
        if self.proc is None:
            return
        report = ""
        code = self.terminate()
        self.proc = None
        left = processes_marked(self.mark)
        if left and code == 0:
            # Exit status first, /proc a moment later: the kernel may still
            # be at it.
            end = time.monotonic() + 2
            while left and time.monotonic() < end:
                time.sleep(0.01)
                left = processes_marked(self.mark)
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        said = self.sanitizer_reports()
        report = self.report() if check and (code or left or said) else ""
        if self.own_dir:
            shutil.rmtree(self.dir, ignore_errors=True)
        if not check:
            return
        if said:
            raise Failed("sanitizer report\n" + report)
        if code != 0:
            raise Failed("mqttc-supervise exit: %s\n%s" % (code, report))
        if left:
            raise Failed("left behind: %s\n%s" % (left, report))
