"""mqttc-supervise and mqttc-ctl: who is started, watched, replaced, stopped.

Router, listeners and session stores are tests/support/child.c here: what they
would do is not looked at, and they do what the supervisor has to cope with when
asked to.
"""

import json
import os
import pwd
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import pytest

from support import mqttc
from support.keeper import answer, ask, make_bin, unstarted

if mqttc.FOREIGN:
    pytest.skip("needs nodes of its own", allow_module_level=True)

EX_USAGE, EX_NOINPUT, EX_UNAVAILABLE, EX_SOFTWARE = 64, 66, 69, 70
EX_OSERR, EX_OSFILE, EX_CANTCREAT, EX_IOERR = 71, 72, 73, 74
EX_TEMPFAIL, EX_CONFIG = 75, 78


@pytest.fixture(scope="session")
def child_bin(tmp_path_factory):
    return make_bin(tmp_path_factory.mktemp("bin"))


@pytest.fixture
def keeper(child_bin, monkeypatch, request):
    """keeper(listeners=2, options={...}): a node of children."""
    monkeypatch.setattr(mqttc, "BIN", child_bin)
    made = []

    def make(*args, **kw):
        made.append(mqttc.Node(*args, **kw))
        return made[-1]

    yield make
    report = getattr(request.node, "report_call", None)
    failed = report is not None and report.failed
    for n in made:
        if failed and n.proc is not None:
            print(n.report())
        n.stop(check=not failed)


def run_supervise(node, *args, **kw):
    """Run it to its end; for what ends at once."""
    return subprocess.run(
        [mqttc.program("mqttc-supervise"), *node.arguments(), *args],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30,
        cwd=node.dir, env=node.environment(), **kw)


def assert_one_line(done, code, *words):
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    for w in words:
        assert w in lines[0]


# Start and stop

def test_status_shows_every_process(keeper):
    n = keeper(listeners=3)
    assert any("ready" in line for line in n.lines)
    rows = n.tool_json("mqttc-ctl", "status")
    assert [r["name"] for r in rows] == [
        "supervise", "router", "session_store.0", "listener.0", "listener.1",
        "listener.2"]
    assert all(r["state"] == "ready" for r in rows)
    assert rows[0]["pid"] == n.proc.pid
    assert all(mqttc.process_alive(r["pid"]) for r in rows)
    incarnations = [r["incarnation"] for r in rows]
    assert incarnations == sorted(set(incarnations))
    assert all(r["restarts"] == 0 and r["uptime_s"] >= 0 for r in rows)
    table = n.tool("mqttc-ctl", "status").splitlines()
    assert table[0].split()[:3] == ["NAME", "PID", "STATE"]
    assert len(table) == 7


def test_processes_get_no_descriptor_they_do_not_need(keeper):
    n = keeper(listeners=1)
    for name in ("router", "session_store.0", "listener.0"):
        fds = "/proc/%d/fd/" % n.status()[name]["pid"]
        null = [fd for fd in os.listdir(fds)
                if os.readlink(fds + fd) == "/dev/null"]
        assert null == ["0"]


def test_term_stops_in_order_and_exits_0(keeper):
    n = keeper()
    assert n.terminate() == 0
    n.proc = None
    log = n.logs()
    for name in ("listener.0", "listener.1"):
        assert (log.index("name=%s why" % name)
                < log.index("name=session_store.0 why")
                < log.index("name=router why"))
    assert os.listdir(os.path.join(n.dir, "run")) == ["supervise.lock"]


def test_ctl_stop_waits_for_the_end(keeper):
    n = keeper()
    n.tool("mqttc-ctl", "stop")
    assert n.proc.wait(20) == 0
    done = n.tool("mqttc-ctl", "status", check=False)
    assert_one_line(done, EX_UNAVAILABLE, "no node runs", n.dir)


def test_incarnations_rise_over_the_end_of_the_node(keeper):
    n = keeper()
    before = {k: r["incarnation"] for k, r in n.status().items()}
    assert n.terminate() == 0
    with open(os.path.join(n.dir, "data", "incarnation"), "r+") as f:
        last = int(f.read())
        assert last >= max(before.values())
        f.seek(0)
        f.write("%d\n" % (last + 10**9))    # as if the clock had gone back
    n.start()
    for row in n.status().values():
        assert row["incarnation"] > last + 10**9


def test_a_long_run_dir_works(keeper):
    n = unstarted(keeper)
    deep = os.path.join(n.dir, *["d" * 40] * 4)
    n.options["node.run_dir"] = deep
    n.start_once()
    assert len(deep) > 160
    assert len(n.status()) == 5
    assert answer(n.addr("external")).startswith("listener.")
    assert os.stat(deep).st_mode & 0o777 == 0o700


def test_options(keeper):
    n = unstarted(keeper)
    done = run_supervise(n, "--version")
    assert done.returncode == 0 and done.stdout.startswith("mqttc-supervise ")
    done = run_supervise(n, "-h")
    assert done.returncode == 0 and done.stdout.startswith("usage: ")
    assert run_supervise(n, "-t").returncode == 0
    assert run_supervise(n, "-x").returncode == EX_USAGE
    assert run_supervise(n, "operand").returncode == EX_USAGE
    assert not os.path.exists(os.path.join(n.dir, "run"))


# The number of session stores

def test_as_many_session_stores_as_configured(keeper):
    n = keeper(options={"session_store.processes": "3"})
    stores = ["session_store.%d" % i for i in range(3)]
    assert [k for k in n.status() if k.startswith("session_store.")] == stores
    for name in stores:
        pid = n.kill(name, signal.SIGKILL)
        assert n.wait_ready(name, not_pid=pid)["restarts"] == 1
    done = n.tool("mqttc-ctl", "restart", "session_store.3", check=False)
    assert_one_line(done, EX_USAGE, "session_store.3")
    done = n.tool("mqttc-ctl", "upgrade", "session_store.0", check=False)
    assert_one_line(done, EX_USAGE, "no clients to hand over")


def test_their_number_is_fixed_at_the_first_start(keeper):
    n = keeper(options={"session_store.processes": "2"})
    path = os.path.join(n.dir, "data", "session_store.shards")
    with open(path) as f:
        assert f.read() == "2\n"
    assert n.terminate() == 0
    n.proc = None
    n.options["session_store.processes"] = "3"
    done = run_supervise(n)
    assert_one_line(done, EX_CONFIG, "session_store.processes = 3", "for 2",
                    n.dir, "export", "import")
    assert "session_store.shards.new" not in os.listdir(n.dir + "/data")
    n.options["session_store.processes"] = "2"
    n.start()
    assert n.terminate() == 0
    n.proc = None
    for damage in ("", "x\n", "2", "0\n", "2 \n", "02\n", "-2\n",
                   "99999999999\n"):
        with open(path, "w") as f:
            f.write(damage)
        assert_one_line(run_supervise(n), EX_CONFIG, "session_store.shards",
                        "damaged")


def test_listeners_start_when_the_stores_are_ready(keeper):
    n = keeper(options={"session_store.processes": "2"})
    log = n.logs()
    ready = [log.index("session_store.%d ready" % i) for i in (0, 1)]
    first = log.index("process.started name=listener.")
    assert log.index("router ready") < min(ready) and max(ready) < first


# What is wrong is said in one line, with the right code

@pytest.mark.parametrize("check", [[], ["-t"]])
def test_bad_configuration(keeper, check, tmp_path):
    n = unstarted(keeper)
    assert_one_line(run_supervise(n, "-o", "no.such_key=1", *check),
                    EX_CONFIG, "no.such_key")
    assert_one_line(run_supervise(n, "-o", "listener.processes=many", *check),
                    EX_CONFIG, "listener.processes", "many")
    assert_one_line(run_supervise(n, "-f", "/nonexistent/conf", *check),
                    EX_NOINPUT, "/nonexistent/conf")
    bad = tmp_path / "bad.conf"
    bad.write_text("node.name = a@b\nlistener.procesess = 2\n")
    assert_one_line(run_supervise(n, "-f", str(bad), *check), EX_CONFIG,
                    "bad.conf:2", "listener.procesess")


def test_a_directory_that_cannot_be_made(keeper):
    n = unstarted(keeper, options={"node.data_dir": "/dev/null/data"})
    assert_one_line(run_supervise(n), EX_CANTCREAT, "/dev/null",
                    "node.data_dir")


def test_a_program_that_is_missing(keeper, child_bin, tmp_path, monkeypatch):
    shutil.copy(os.path.join(child_bin, "mqttc-supervise"), tmp_path)
    monkeypatch.setattr(mqttc, "BIN", str(tmp_path))
    n = unstarted(keeper)
    assert_one_line(run_supervise(n), EX_OSFILE, "mqttc-router")


def test_a_port_in_use_is_named(keeper):
    n = unstarted(keeper)
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        s.bind(("127.0.0.1", n.port))
        s.listen()
        assert_one_line(run_supervise(n), EX_OSERR, "127.0.0.1:%d" % n.port,
                        "in use")


def test_a_port_of_another_node_is_not_shared(keeper):
    n = keeper()
    other = keeper(start=False)
    other.port, other.each_port = n.port, n.each_port
    assert_one_line(run_supervise(other), EX_OSERR,
                    "127.0.0.1:%d" % n.port, "in use")


def test_a_second_supervisor_is_turned_away(keeper):
    n = keeper()
    assert_one_line(run_supervise(n), EX_TEMPFAIL, "in use",
                    str(n.proc.pid))
    assert len(n.status()) == 5


# Who dies is replaced

def test_who_is_killed_is_replaced(keeper):
    n = keeper()
    before = n.status()
    for name in ("listener.0", "session_store.0", "router"):
        pid = n.kill(name, signal.SIGKILL)
        row = n.wait_ready(name, not_pid=pid)
        assert row["restarts"] == 1
        assert row["incarnation"] > before[name]["incarnation"]
    after = n.status()
    assert after["listener.1"] == dict(
        before["listener.1"], uptime_s=after["listener.1"]["uptime_s"])


def test_connections_wait_for_who_replaces_their_listener(keeper):
    n = keeper(listeners=2)
    for _ in range(5):
        n.kill("listener.1", signal.SIGKILL)
        names = [answer(n.addr("external")) for _ in range(20)]
        assert set(names) <= {"listener.0", "listener.1"}
        assert answer(n.addr(1)) == "listener.1"
        n.wait_ready("listener.1")


def test_nobody_is_refused_while_a_listener_restarts(keeper):
    n = keeper(listeners=2)
    ctl = subprocess.Popen(
        ["sh", "-ec", "for i in 1 2 3 4 5 6; do \"$@\"; done", "sh",
         mqttc.program("mqttc-ctl"), *n.arguments(), "restart",
         "listener.0"], stdout=subprocess.DEVNULL, env=n.environment())
    answered = 0
    while ctl.poll() is None:
        assert answer(n.addr("external")).startswith("listener.")
        answered += 1
    assert ctl.returncode == 0 and answered > 0
    assert n.status()["listener.0"]["restarts"] == 6
    n.expected_gone.update(n.pids.values())


def test_restart_returns_when_it_is_ready(keeper):
    n = keeper()
    before = n.status()
    for name in ("listener.1", "session_store.0", "router"):
        n.tool("mqttc-ctl", "restart", name)
        row = n.status()[name]
        assert row["state"] == "ready"
        assert row["pid"] != before[name]["pid"]
    done = n.tool("mqttc-ctl", "restart", "listener.2", check=False)
    assert_one_line(done, EX_USAGE, "listener.2")
    done = n.tool("mqttc-ctl", "restart", "supervise", check=False)
    assert_one_line(done, EX_USAGE, "supervisor")


def test_a_configuration_error_stays_down(keeper):
    n = keeper()
    path = ask(n, "listener.1.exit", str(EX_CONFIG))
    done = n.tool("mqttc-ctl", "restart", "listener.1", check=False)
    assert_one_line(done, EX_TEMPFAIL, "listener.1", "78")
    row = n.status()["listener.1"]
    assert row["state"] == "down" and row["pid"] is None
    assert "78" in row["note"]
    restarts = row["restarts"]
    os.unlink(path)
    n.tool("mqttc-ctl", "restart", "listener.1")
    row = n.status()["listener.1"]
    assert row["state"] == "ready" and row["restarts"] == restarts + 1


def test_a_process_may_be_run_by_hand(keeper):
    n = keeper()
    path = ask(n, "listener.1.exit", str(EX_CONFIG))
    n.tool("mqttc-ctl", "restart", "listener.1", check=False)
    os.unlink(path)
    argv = [mqttc.program("mqttc-listener"), "-n", "listener.1",
            *n.arguments()]
    hand = subprocess.Popen(argv, stdin=subprocess.DEVNULL, text=True,
                            stderr=subprocess.PIPE, env=n.environment())
    row = n.wait_ready("listener.1")
    assert row["pid"] == hand.pid
    assert answer(n.addr(1)) == "listener.1"
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, text=True,
                          stderr=subprocess.PIPE, env=n.environment())
    assert done.returncode == EX_UNAVAILABLE and "taken" in done.stderr
    hand.send_signal(signal.SIGTERM)
    assert " ready incarnation=%d" % row["incarnation"] in hand.stderr.read()
    assert hand.wait(20) == 0
    n.wait(lambda s: s["listener.1"]["state"] == "down")


def test_who_fails_again_and_again_is_started_less_and_less(keeper):
    n = keeper()
    path = ask(n, "listener.1.exit", str(EX_SOFTWARE))
    pid = n.kill("listener.1", signal.SIGKILL)
    n.wait(lambda s: s["listener.1"]["restarts"] >= 4)
    waits = [int(line.split("start_in_ms=")[1])
             for line in n.logs().splitlines()
             if "process.died name=listener.1" in line]
    assert waits[:4] == [0, 100, 200, 400]
    os.unlink(path)
    n.wait_ready("listener.1", not_pid=pid)


def test_who_hangs_is_killed_and_replaced(keeper):
    n = keeper(options={"supervise.hang_timeout": "1s"})
    pid = n.kill("listener.0", signal.SIGSTOP)
    n.expected_gone.add(pid)
    row = n.wait_ready("listener.0", not_pid=pid)
    assert row["restarts"] == 1
    assert "process.killed name=listener.0 why=silent" in n.logs()
    assert not mqttc.process_alive(pid)
    assert n.status()["router"]["restarts"] == 0


def test_who_does_not_drain_is_killed(keeper):
    n = keeper(options={"supervise.stop_timeout": "300ms"})
    ask(n, "listener.0.slow")
    n.tool("mqttc-ctl", "restart", "listener.0")
    assert "process.killed name=listener.0" in n.logs()


def test_a_stopped_supervisor_harms_nobody(keeper):
    n = keeper(options={"supervise.hang_timeout": "1s"})
    before = {k: r["pid"] for k, r in n.status().items()}
    n.proc.send_signal(signal.SIGSTOP)
    time.sleep(3)                       # of silence, which nobody may notice
    assert answer(n.addr(0)) == "listener.0"
    n.proc.send_signal(signal.SIGCONT)
    n.wait(lambda s: True)
    time.sleep(1)
    assert {k: r["pid"] for k, r in n.status().items()} == before


def test_segments_outlive_their_maker(keeper):
    n = keeper()
    first = n.status()["router"]["incarnation"]
    ask(n, "router.exit", str(EX_CONFIG))
    n.kill("router", signal.SIGKILL)
    n.wait(lambda s: "78" in s["router"]["note"])
    seen = n.logs().count("child.segment")
    n.tool("mqttc-ctl", "restart", "listener.0")
    n.wait(lambda s: n.logs().count("child.segment") > seen)
    line = [x for x in n.logs().splitlines() if "child.segment" in x][-1]
    assert "listener.0" in line and "nfds=2" in line
    assert "generation=%d" % first in line


def test_a_dropped_segment_is_gone_for_all(keeper):
    n = keeper()
    first = n.status()["router"]["incarnation"]
    n.tool("mqttc-ctl", "restart", "router")    # drops what is older
    gone = "generation=%d nfds=0" % first
    n.wait(lambda s: n.logs().count(gone) == 2)     # of those who want it


def test_who_is_full_is_dealt_no_shared_sockets(keeper):
    n = unstarted(keeper)
    ask(n, "listener.0.full", "1")
    n.start_once()
    assert answer(n.addr(0)) == "listener.0"    # which makes it full
    n.wait_log("child.full")
    n.wait_log("listener.1 child.sockets n=17")
    assert {answer(n.addr("external")) for _ in range(40)} == {"listener.1"}
    assert answer(n.addr(0)) == "listener.0"    # its own stays its own
    n.kill("listener.0", signal.SIGUSR1)
    n.wait(lambda s: "listener.0 child.sockets n=9" in
           n.logs().split("child.full")[1])
    assert {answer(n.addr("external")) for _ in range(60)} == {
        "listener.0", "listener.1"}


# More listeners, or fewer

def names_of(n):
    return [k for k in n.status() if k.startswith("listener.")]


def scale(n, to):
    assert n.tool("mqttc-ctl", "scale", "listener", str(to)) == (
        "1 listener is ready\n" if to == 1 else
        "%d listeners are ready\n" % to)


def spread_over(n):
    """Who accepts what, by the last deal that each was told of."""
    return {answer(n.addr("external")) for _ in range(200)}


def test_scaled_up_and_down(keeper):
    n = unstarted(keeper, listeners=4)
    n.listeners = 2
    n.start_once()
    before = n.status()
    scale(n, 4)
    after = n.status()
    assert names_of(n) == ["listener.%d" % i for i in range(4)]
    assert all(r["state"] == "ready" for r in after.values())
    assert [answer(n.addr(i)) for i in range(4)] == [
        "listener.%d" % i for i in range(4)]
    assert spread_over(n) == {"listener.%d" % i for i in range(4)}
    n.wait_log("child.peers n=6 down=0")
    scale(n, 1)
    assert names_of(n) == ["listener.0"]
    assert spread_over(n) == {"listener.0"}
    # Nobody waits for ever at the port of one that is gone.
    assert [answer(n.addr(i)) for i in range(4)] == ["listener.0"] * 4
    n.wait_log("child.peers n=3 down=0")
    assert not mqttc.process_alive(after["listener.3"]["pid"])
    n.expected_gone.update(after["listener.%d" % i]["pid"] for i in (1, 2, 3))
    scale(n, 4)
    last = n.status()
    assert [answer(n.addr(i)) for i in range(4)] == [
        "listener.%d" % i for i in range(4)]
    assert last["listener.3"]["incarnation"] > after["listener.3"][
        "incarnation"]
    assert last["listener.3"]["restarts"] == 0
    for name in ("router", "listener.0"):
        assert last[name]["pid"] == before[name]["pid"]
    scale(n, 4)                                 # which changes nothing
    assert {k: r["pid"] for k, r in n.status().items()} == {
        k: r["pid"] for k, r in last.items()}
    assert n.terminate() == 0
    n.proc = None
    assert os.listdir(os.path.join(n.dir, "run")) == ["supervise.lock"]


def test_more_listeners_than_sockets(keeper):
    n = unstarted(keeper, listeners=5, options={"listener.sockets": "2"})
    n.listeners = 2
    n.start_once()
    scale(n, 5)
    assert spread_over(n) == {"listener.%d" % i for i in range(5)}


def test_scaling_is_refused(keeper):
    n = keeper()
    for bad in (["listener"], ["listener", "x"], ["listener", "0"],
                ["router", "2"], ["listener", "-1"]):
        done = n.tool("mqttc-ctl", "scale", *bad, check=False)
        assert done.returncode == EX_USAGE and done.stdout == "", bad
    done = n.tool("mqttc-ctl", "scale", "session_store", "2", check=False)
    assert_one_line(done, EX_USAGE, "fixed at the first start", "export",
                    "import")
    done = n.tool("mqttc-ctl", "scale", "listener", "501", check=False)
    assert_one_line(done, EX_USAGE, "listener.processes", "501")
    with socket.socket() as s:                  # whose port is taken
        s.bind(n.addr(2))
        s.listen()
        done = n.tool("mqttc-ctl", "scale", "listener", "3", check=False)
        assert_one_line(done, EX_OSERR, "listener.tcp.each",
                        "%s:%d" % n.addr(2))
    assert names_of(n) == ["listener.0", "listener.1"]
    done = n.tool("mqttc-ctl", "restart", "listener.2", check=False)
    assert_one_line(done, EX_USAGE, "listener.2")
    ask(n, "listener.2.exit", str(EX_CONFIG))
    done = n.tool("mqttc-ctl", "scale", "listener", "3", check=False)
    assert_one_line(done, EX_TEMPFAIL, "listener.2", "78")
    scale(n, 2)
    assert names_of(n) == ["listener.0", "listener.1"]
    n.check_alive()


def test_scaled_again_before_it_is_done(keeper):
    n = unstarted(keeper, listeners=4,
                  options={"supervise.stop_timeout": "1s"})
    ask(n, "listener.3.slow")
    n.start_once()
    down = subprocess.Popen(
        [mqttc.program("mqttc-ctl"), *n.arguments(), "scale", "listener",
         "2"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=n.environment())
    s = n.wait(lambda s: "listener.2" not in s)
    assert s["listener.3"]["state"] == "draining"
    assert s["listener.3"]["note"] == "scaled away"
    n.expected_gone.update(n.pids.values())
    scale(n, 4)
    assert "meanwhile" in down.communicate(timeout=20)[1]
    assert down.returncode == EX_TEMPFAIL
    after = n.status()
    assert after["listener.3"]["pid"] != s["listener.3"]["pid"]
    assert after["listener.0"]["pid"] == s["listener.0"]["pid"]


def test_a_restart_ends_when_its_process_is_scaled_away(keeper):
    n = unstarted(keeper, options={"supervise.stop_timeout": "1s"})
    ask(n, "listener.1.slow")
    n.start_once()
    restart = subprocess.Popen(
        [mqttc.program("mqttc-ctl"), *n.arguments(), "restart", "listener.1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=n.environment())
    n.wait(lambda s: s["listener.1"]["state"] == "draining")
    scale(n, 1)
    assert "scaled away" in restart.communicate(timeout=20)[1]
    assert restart.returncode == EX_TEMPFAIL


@pytest.mark.parametrize("to", [1, 4])
def test_the_next_supervisor_keeps_the_scale(keeper, to):
    n = unstarted(keeper, listeners=4)
    n.listeners = 2
    n.start_once()
    scale(n, to)
    before = n.status()
    n.proc.kill()
    n.proc.wait()
    n.reader.join()
    n.start_once()
    after = n.status()
    assert {k: (r["pid"], r["incarnation"]) for k, r in after.items()
            if k != "supervise"} == {
        k: (r["pid"], r["incarnation"]) for k, r in before.items()
        if k != "supervise"}
    assert [answer(n.addr(i)) for i in range(to)] == [
        "listener.%d" % i for i in range(to)]
    if to == 1:                                 # whose port it has still
        assert answer(n.addr(1)) == "listener.0"
        scale(n, 2)
        assert answer(n.addr(1)) == "listener.1"


def test_adopted_beyond_the_configuration_they_stay(keeper):
    n = unstarted(keeper, listeners=4)
    n.listeners = 2
    n.start_once()
    scale(n, 4)
    before = n.status()
    n.proc.kill()
    n.proc.wait()
    n.reader.join()
    os.unlink(os.path.join(n.dir, "run", "listeners"))
    os.kill(before["listener.2"]["pid"], signal.SIGKILL)
    n.start_once()
    after = n.status()
    assert after["listener.3"]["pid"] == before["listener.3"]["pid"]
    assert after["listener.2"]["pid"] != before["listener.2"]["pid"]
    assert [answer(n.addr(i)) for i in range(4)] == [
        "listener.%d" % i for i in range(4)]
    scale(n, 2)


def test_nobody_who_waits_is_reset_by_scaling(keeper):
    n = unstarted(keeper, listeners=8)
    n.listeners = 2
    n.start_once()
    stop, failed, answered = threading.Event(), [], [0] * 4

    def storm(k):
        while not stop.is_set():
            try:
                who = answer(n.addr("external"))
                if not who.startswith("listener."):
                    failed.append(repr(who))
            except OSError as e:
                failed.append(repr(e))
            answered[k] += 1
            time.sleep(0.005)

    threads = [threading.Thread(target=storm, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    try:
        for to in (8, 2, 5, 2):
            scale(n, to)
    finally:
        stop.set()
        for t in threads:
            t.join()
    assert failed == [] and all(answered)


# A service manager, of which there is only its socket here

class Manager:
    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind("\0" + path[1:] if path[0] == "@" else path)
        self.sock.settimeout(20)

    def hear(self):
        """The next that is no status, as a dict; the last status."""
        status = None
        while True:
            lines = self.sock.recv(4096).decode().splitlines()
            said = dict(line.split("=", 1) for line in lines)
            status = said.pop("STATUS", status)
            if said:
                return said, status


@pytest.mark.parametrize("kind", ["file", "abstract"])
def test_a_service_manager_is_told(keeper, tmp_path, kind):
    n = unstarted(keeper)
    path = (str(tmp_path / "notify") if kind == "file" else
            "@mqttc-test-%d" % os.getpid())
    manager = Manager(path)
    n.env["NOTIFY_SOCKET"] = path
    n.start_once()
    said, status = manager.hear()
    assert said == {"READY": "1"} and "starting" in status
    for row in n.status().values():
        if row["pid"] != n.proc.pid:
            with open("/proc/%d/environ" % row["pid"], "rb") as f:
                assert b"NOTIFY_SOCKET" not in f.read()
    n.proc.send_signal(signal.SIGHUP)
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    said, status = manager.hear()
    assert said.pop("RELOADING") == "1"
    assert abs(int(said.pop("MONOTONIC_USEC")) - now) < 20e6 and said == {}
    assert status == "serving: 4 of 4 processes ready"
    assert manager.hear()[0] == {"READY": "1"}
    assert n.terminate() == 0
    n.proc = None
    assert manager.hear()[0] == {"STOPPING": "1"}


@pytest.mark.parametrize("path", ["", "@", "relative", "/" + "x" * 200,
                                  "/nonexistent/notify"])
def test_a_service_manager_that_is_not_there(keeper, path):
    n = keeper(env={"NOTIFY_SOCKET": path})
    assert answer(n.addr(0)) == "listener.0"


# A new supervisor for processes of an old one

def test_the_next_supervisor_adopts(keeper):
    n = keeper()
    before = n.status()
    n.proc.kill()
    n.proc.wait()
    n.reader.join()
    assert answer(n.addr(1)) == "listener.1"    # they serve on
    done = n.tool("mqttc-ctl", "status", check=False)
    assert done.returncode == EX_UNAVAILABLE
    said = len(n.logs())
    waiting = [socket.create_connection(n.addr("external"))
               for _ in range(20)]
    n.start_once()
    after = n.status()
    for name in ("router", "session_store.0", "listener.0", "listener.1"):
        assert after[name]["pid"] == before[name]["pid"]
        assert after[name]["incarnation"] == before[name]["incarnation"]
    # Nobody was shown a peer as down that had just not knocked yet.
    n.wait(lambda s: n.logs()[said:].count("child.peers n=4 down=0") == 4)
    assert "down=1" not in n.logs()[said:]
    for s in waiting:
        s.settimeout(20)
        assert s.recv(100).startswith(b"listener.")
        s.close()
    # Sockets, segments, pidfd and log pipe came along.
    listening = subprocess.run(["ss", "-Hltn"], capture_output=True,
                               text=True).stdout
    if listening:
        assert listening.count("127.0.0.1:%d " % n.port) == 16
    pid = n.kill("listener.0", signal.SIGKILL)
    n.wait_ready("listener.0", not_pid=pid)
    assert answer(n.addr(0)) == "listener.0"
    n.wait_log("generation=%d nfds=2" % before["router"]["incarnation"])
    assert n.metrics()["router", "supervise_lost_total"] == 1
    n.kill("listener.1", signal.SIGUSR1)
    n.wait_log("listener.1 summary")


def test_the_next_supervisor_starts_what_is_missing(keeper):
    n = keeper()
    before = n.status()
    n.proc.kill()
    n.proc.wait()
    n.reader.join()
    os.kill(before["listener.0"]["pid"], signal.SIGKILL)
    n.start_once()
    after = n.status()
    assert after["listener.0"]["pid"] != before["listener.0"]["pid"]
    assert after["listener.1"]["pid"] == before["listener.1"]["pid"]
    assert answer(n.addr(0)) == "listener.0"
    assert answer(n.addr(1)) == "listener.1"


def test_endpoints_of_who_died_without_a_supervisor_go(keeper):
    n = keeper()
    before = n.status()
    run = os.path.join(n.dir, "run")

    def endpoint(name):
        s = socket.socket(socket.AF_UNIX)
        path = "%s.%d.ipc" % (name, before[name]["incarnation"])
        s.bind(os.path.join(run, path))
        s.listen()
        return s, path

    dead, gone = endpoint("listener.0")
    alive, stays = endpoint("listener.1")
    n.proc.kill()
    n.proc.wait()
    n.reader.join()
    dead.close()                        # as by kill -9: the file stays
    os.kill(before["listener.0"]["pid"], signal.SIGKILL)
    n.start_once()
    n.wait_ready("listener.0", not_pid=before["listener.0"]["pid"])
    assert n.status()["listener.1"]["pid"] == before["listener.1"]["pid"]
    assert gone not in os.listdir(run)
    assert stays in os.listdir(run)
    alive.close()


def test_a_supervisor_stopped_while_it_adopts_leaves_nobody(keeper):
    n = keeper()
    pids = [r["pid"] for r in n.status().values()]
    n.proc.kill()
    n.proc.wait()
    n.reader.join()
    n.proc = subprocess.Popen(
        [mqttc.program("mqttc-supervise"), *n.arguments()],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, env=n.environment())
    n.wait(lambda s: True)              # it answers, and adopts
    n.proc.send_signal(signal.SIGTERM)
    assert n.proc.wait(20) == 0
    assert n.proc.stdout.read() == b""
    for pid in pids:
        assert not mqttc.process_alive(pid)


# The configuration, read again

def test_reload(keeper, tmp_path):
    conf = tmp_path / "mqttc.conf"
    conf.write_text("sys.interval = 60s\n")
    n = keeper(args=["-f", str(conf)])

    def reload():
        return subprocess.run(
            [mqttc.program("mqttc-ctl"), "-f", str(conf)] + n.arguments()
            + ["reload"], capture_output=True, text=True, timeout=30,
            env=n.environment())

    def node_reload():
        """The same, finding the node by its options alone."""
        return n.tool("mqttc-ctl", "reload", check=False)

    conf.write_text("sys.interval = 7s\n")
    done = reload()
    assert done.returncode == 0 and "sys.interval" in done.stdout
    n.wait_log("child.reload sys_interval_ms=7000")

    conf.write_text("sys.interval = 8s\nlistener.max_connections = 5\n")
    done = reload()
    assert done.returncode == 0
    changed, _, later = done.stdout.partition(";")
    assert "sys.interval" in changed
    assert ("listener.max_connections" in later
            or "listener.max_connections" in changed)

    conf.write_text("sys.interval = soon\n")
    done = node_reload()
    assert done.returncode == EX_CONFIG
    assert "old configuration" in done.stderr and "soon" in done.stderr
    n.proc.send_signal(signal.SIGHUP)
    n.wait(lambda s: n.logs().count("conf.bad") >= 2)

    conf.write_text("sys.interval = 9s\n")
    n.proc.send_signal(signal.SIGHUP)
    n.wait_log("child.reload sys_interval_ms=9000")
    n.kill("listener.0", signal.SIGKILL)        # the new one has it too
    assert len(n.status()) == 5


# Logs

@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_ends_before_the_first_process_is_started(child_bin, monkeypatch):
    top = tempfile.mkdtemp(prefix="mqttc-test-")
    os.chmod(top, 0o755)
    try:
        shutil.copytree(child_bin, os.path.join(top, "bin"))
        os.chmod(os.path.join(top, "bin"), 0o755)
        monkeypatch.setattr(mqttc, "BIN", os.path.join(top, "bin"))
        n = mqttc.Node(options={"node.user": "nobody"}, directory=top)
        nobody = pwd.getpwnam("nobody")
        for row in n.status().values():
            with open("/proc/%d/status" % row["pid"]) as f:
                text = f.read()
            assert "Uid:\t%d\t%d\t%d\t%d\n" % ((nobody.pw_uid,) * 4) in text
            assert "Gid:\t%d\t%d\t%d\t%d\n" % ((nobody.pw_gid,) * 4) in text
        pid = n.kill("listener.0", signal.SIGKILL)
        n.wait_ready("listener.0", not_pid=pid)
        n.stop()
    finally:
        shutil.rmtree(top)


def test_ten_thousand_lines_nobody_reads(keeper):
    n = unstarted(keeper)
    for name in ("router", "listener.0", "listener.1"):
        ask(n, name + ".chatty", "10000")
    p = subprocess.Popen(
        [mqttc.program("mqttc-supervise"), *n.arguments()],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, cwd=n.dir, env=n.environment())
    try:
        assert b"ready" in p.stdout.readline()
        assert len(n.status()) == 5
        n.tool("mqttc-ctl", "restart", "listener.0")
        assert answer(n.addr(1)) == "listener.1"
        p.send_signal(signal.SIGTERM)
        log = p.stderr.read().decode()
        assert p.wait(20) == 0
    finally:
        p.kill()
    lines = log.splitlines()
    assert sum("child.chatty" in x for x in lines) > 1000
    assert any("log.dropped" in x for x in lines)
    assert all(x.startswith("20") for x in lines)


def test_logs_in_files_are_rotated(keeper):
    n = unstarted(keeper)
    where = os.path.join(n.dir, "log")
    n.options.update({"log.dir": where, "log.rotate_size": "4KB",
                      "log.rotate_count": "3"})
    ask(n, "router.chatty", "1000")
    n.start_once()
    n.wait(lambda s: "ready" in s["router"]["state"])
    files = sorted(os.listdir(where))
    assert [f for f in files if f.startswith("router")] == [
        "router.log", "router.log.1", "router.log.2", "router.log.3"]
    assert {"supervise.log", "listener.0.log"} <= set(files)
    for f in files:
        assert os.path.getsize(os.path.join(where, f)) <= 4096
    with open(os.path.join(where, "router.log.1")) as f:
        numbers = [int(x.split("n=")[1]) for x in f if "chatty" in x]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert n.stderr() == ""


def test_a_full_disk_stops_nobody(keeper, tmp_path):
    n = unstarted(keeper, options={"log.dir": str(tmp_path)})
    os.symlink("/dev/full", tmp_path / "router.log")    # never ends if read
    ask(n, "router.chatty", "1000")
    n.start_once()
    assert n.status()["router"]["state"] == "ready"
    assert n.metrics()["supervise", "log_dropped_lines_total"] > 900


@pytest.fixture
def small_disk(tmp_path):
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs",
                           str(tmp_path)], capture_output=True)
    if done.returncode != 0:
        pytest.skip("needs root, to mount a small file system")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_disk_that_fills_up_tears_no_line(keeper, small_disk):
    n = keeper(options={"log.dir": str(small_disk)})
    log = small_disk / "supervise.log"
    fill = open(small_disk / "fill", "wb", buffering=0)
    with pytest.raises(OSError):
        while True:
            fill.write(bytes(4096))

    def summaries(until):
        end = time.monotonic() + 20
        while not until():
            assert time.monotonic() < end
            os.kill(n.proc.pid, signal.SIGUSR1)
            time.sleep(0.01)

    summaries(lambda: n.metrics()["supervise", "log_dropped_lines_total"] > 0)
    fill.close()
    os.unlink(small_disk / "fill")
    summaries(lambda: "log.dropped" in log.read_text())
    for line in log.read_text().splitlines():
        assert re.fullmatch(r"\S+Z (info|warn) supervise \S+ .*", line), line
        assert line.count("Z info ") + line.count("Z warn ") == 1, line


# Who may speak

def test_rubbish_ends_a_connection_and_nothing_else(keeper):
    n = keeper()
    sock = os.path.join(n.dir, "run", "supervise.sock")
    assert os.stat(sock).st_mode & 0o777 == 0o600
    for text in (b"x", b"\x40\x00\xff\xff", b"\x50\x00", b"\x45\x00",
                 b"\x42\x00" + b"\x0a" * 30000):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.connect(sock)
            s.settimeout(20)
            s.send(text)
            assert s.recv(100) == b""
    # A hello under the name of a process that runs.
    hello = b"\x40\x00\x08\x01\x12\x06router"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.connect(sock)
        s.settimeout(20)
        s.send(hello)
        assert b"taken" in s.recv(1000)
        assert s.recv(100) == b""
    assert n.metric("supervise_refused_total", "supervise") >= 6
    n.check_alive()


def test_many_tools_do_not_keep_processes_out(keeper):
    n = keeper()
    pid = n.pid("listener.0")
    sock = os.path.join(n.dir, "run", "supervise.sock")
    tools, answers = [], []
    for _ in range(80):                 # as if each was stopped for good
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        s.settimeout(20)
        s.connect(sock)
        s.send(b"\x40\x00\x08\x01\x12\x04tool\x30\x01")
        answers.append(s.recv(1000))
        tools.append(s)
    assert sum(b"too many tools" in a for a in answers) == 80 - 64
    assert b"too many tools" in answers[-1]
    said = n.logs().count("listener.0 ready")
    os.kill(pid, signal.SIGKILL)
    n.expected_gone.add(pid)
    while n.logs().count("listener.0 ready") == said:
        assert n.proc.poll() is None
        time.sleep(0.01)
    for s in tools:
        s.close()
    n.wait_ready("listener.0", not_pid=pid)


def test_without_descriptors_it_waits_for_one(keeper):
    n = keeper()
    pid = n.proc.pid

    def cpu_ticks():
        with open("/proc/%d/stat" % pid) as f:
            return sum(map(int, f.read().rsplit(")", 1)[1].split()[11:13]))

    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    open_ones = {int(fd) for fd in os.listdir("/proc/%d/fd" % pid)}
    limit = min(set(range(max(open_ones) + 2)) - open_ones)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    tools = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
             for _ in range(8)]         # more than there may be gaps
    for s in tools:
        s.settimeout(20)
        s.connect(os.path.join(n.dir, "run", "supervise.sock"))
        s.send(b"\x40\x00\x08\x01\x12\x04tool\x30\x01")
    ticks = cpu_ticks()
    time.sleep(1)                       # the second it is to sleep through
    assert cpu_ticks() - ticks < os.sysconf("SC_CLK_TCK") / 5
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    for s in tools:
        assert s.recv(1000)[:2] == b"\x41\x00"
        s.close()


def test_stat_shows_every_process(keeper):
    n = keeper()
    rows = n.tool_json("mqttc-stat")
    assert {r["process"] for r in rows} == {
        "supervise", "router", "session_store.0", "listener.0", "listener.1"}
    assert all(set(r) == {"process", "metric", "value", "kind", "help"}
               for r in rows)
    only = n.tool_json("mqttc-stat", "cpu_ms")
    assert {r["metric"] for r in only} == {"process_cpu_ms_total"}
    live = n.tool("mqttc-stat", "-w", "-c", "2", "-i", "0.05", "--json")
    rates = [json.loads(x) for x in live.splitlines()]
    assert len([r for r in rates if r["metric"] == "process_cpu_ms_total"
                and r["process"] == "router"]) == 2
    assert all("rate" in r for r in rates)


@pytest.mark.parametrize("tool", ["mqttc-stat", "mqttc-ctl"])
def test_tools_say_that_they_cannot_write(keeper, tool):
    n = keeper()
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [mqttc.program(tool), *n.arguments()]
            + ["status"] * (tool == "mqttc-ctl"), stdout=full,
            stderr=subprocess.PIPE, text=True, timeout=30,
            env=n.environment())
    assert done.returncode == EX_IOERR
    assert done.stderr == tool + ": cannot write: No space left on device\n"
