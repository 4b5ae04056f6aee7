"""What stands between a fresh machine and a running node: scripts/setup,
make run, make install."""

import os
import random
import shutil
import signal
import socket
import subprocess

import pytest

from support import mqttc
from support.wire import Client

TOP = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))
TOOLS = ("bash", "awk", "grep", "tr", "dirname", "env", "cat", "mkdir")


@pytest.fixture
def machine(tmp_path):
    """A PATH with nothing but a few tools, and stand-ins the test writes."""
    path = tmp_path / "bin"
    path.mkdir()
    for tool in TOOLS:
        (path / tool).symlink_to(shutil.which(tool))

    class Machine:
        calls = tmp_path / "calls"

        def stub(self, name, script):
            f = path / name
            f.write_text("#!/bin/bash\n%s\n" % script)
            f.chmod(0o755)

        def setup(self, what):
            self.calls.write_text("")
            # A build directory of its own, so that MQTT.js is not there.
            top = tmp_path / "top"
            (top / "scripts").mkdir(parents=True, exist_ok=True)
            shutil.copy(TOP + "/scripts/setup", top / "scripts/setup")
            return subprocess.run(
                [str(top / "scripts/setup"), what], capture_output=True,
                text=True, stdin=subprocess.DEVNULL, timeout=60,
                env={"PATH": str(path), "CALLS": str(self.calls)})

    m = Machine()
    m.stub("apt-get", 'echo "apt-get $*" >>"$CALLS"')
    m.stub("dpkg-query", "exit 1")              # knows of no package
    m.stub("id", "echo 0")
    return m


def all_installed(machine):
    machine.stub("dpkg-query", 'shift 3; for p; do echo "installed $p"; done')


def test_setup_is_silent_when_all_is_there(machine):
    all_installed(machine)
    p = machine.setup("build")
    assert (p.returncode, p.stdout, p.stderr) == (0, "", "")
    assert machine.calls.read_text() == ""


def test_setup_says_what_it_installs_and_why(machine):
    p = machine.setup("build")
    assert p.returncode == 0
    assert "libev-dev          the event loop" in p.stderr
    update, install = machine.calls.read_text().splitlines()
    assert update.endswith(" update")
    assert "install -y --no-install-recommends " in install
    assert " libzmq3-dev " in install and " nanopb " in install
    assert "mosquitto" not in install           # of no use for building


def test_setup_installs_only_what_is_missing(machine):
    machine.stub("dpkg-query", "shift 3; for p; do "
                 '[ $p = libev-dev ] || echo "installed $p"; done')
    assert machine.setup("build").returncode == 0
    install = machine.calls.read_text().splitlines()[-1]
    assert install.split("--no-install-recommends ")[1] == "libev-dev"


def test_setup_without_root_prints_the_line_and_exits_69(machine):
    machine.stub("id", "echo 1000")
    p = machine.setup("build")
    assert p.returncode == 69
    assert "apt-get install -y --no-install-recommends gcc " in p.stderr
    assert machine.calls.read_text() == ""


def test_setup_uses_sudo_if_it_asks_for_nothing(machine):
    machine.stub("id", "echo 1000")
    machine.stub("sudo", '[ "$1" = -n ] && exit 0; echo sudo >>"$CALLS"; "$@"')
    assert machine.setup("build").returncode == 0
    assert machine.calls.read_text().startswith("sudo\napt-get")


def test_setup_fetches_mqttjs_by_name_and_version(machine):
    all_installed(machine)
    machine.stub("node", "echo 18")
    machine.stub("npm", 'echo "npm $*" >>"$CALLS"')
    p = machine.setup("check")
    assert p.returncode == 0
    (call,) = machine.calls.read_text().splitlines()
    assert call.startswith("npm install --prefix build/npm ")
    assert "--no-package-lock" in call and " mqtt@" in call


def test_setup_reports_apt_that_fails(machine):
    machine.stub("apt-get", "exit 100")
    p = machine.setup("build")
    assert p.returncode == 69
    assert "apt failed; the line was: apt-get install" in p.stderr


def test_run_names_the_busy_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        p = subprocess.run([TOP + "/scripts/run"], capture_output=True,
                           text=True, stdin=subprocess.DEVNULL, timeout=60,
                           env=dict(os.environ, PORT=str(port)))
    assert p.returncode == 69
    assert "port %d cannot be used: Address already in use" % port in p.stderr
    assert "make run PORT=" in p.stderr


def test_install_puts_programs_pages_and_sample_below_destdir(tmp_path):
    env = {k: v for k, v in os.environ.items()
           if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    subprocess.run(["make", "-C", TOP, "install", "DESTDIR=%s" % tmp_path,
                    "PREFIX=/usr"], check=True, env=env, timeout=600,
                   stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    assert os.access(tmp_path / "usr/sbin/mqttc-supervise", os.X_OK)
    assert os.access(tmp_path / "usr/bin/mqttc-ctl", os.X_OK)
    assert (tmp_path / "usr/share/man/man5/mqttc.conf.5").exists()
    assert (tmp_path / "etc/mqttc.conf").exists()
    unit = (tmp_path / "usr/lib/systemd/system/mqttc.service").read_text()
    assert "ExecStart=/usr/sbin/mqttc-supervise -f /etc/mqttc.conf\n" in unit
    assert "/usr/local" not in unit
    # The supervisor looks for the others beside itself.
    for name in os.listdir(tmp_path / "usr/bin"):
        assert not name.endswith(("listener", "router"))


# --- make demo -----------------------------------------------------------------

def free_bases():
    """Three ports in a row that are free, three times."""
    rng = random.Random(os.getpid())
    while True:
        bases = [rng.randrange(20000, 50000) for _ in range(3)]
        held = []
        try:
            for base in bases:
                for i in range(4):
                    s = socket.socket()
                    held.append(s)
                    s.bind(("127.0.0.1", base + i))
            return bases
        except OSError:
            pass
        finally:
            for s in held:
                s.close()


def test_demo_is_a_cluster_of_three_and_ends_with_its_terminal(tmp_path):
    port, meta, message = free_bases()
    demo = subprocess.Popen(
        [TOP + "/scripts/demo"], stdout=subprocess.PIPE, text=True,
        stdin=subprocess.DEVNULL, cwd=TOP, start_new_session=True,
        env=dict(os.environ, PORT=str(port), META_PORT=str(meta),
                 MESSAGE_PORT=str(message), DEMO_DIR=str(tmp_path / "demo"),
                 MQTTC_BIN=mqttc.BIN))
    try:
        said = ""
        while "Ctrl-C ends all" not in said:
            line = demo.stdout.readline()
            assert line, said
            said += line
        with Client(("127.0.0.1", port + 2)) as sub, \
                Client(("127.0.0.1", port)) as pub:
            sub.connect("sub")
            pub.connect("pub")
            sub.subscribe("hello/#", qos=1)
            pub.publish("hello/world", b"it works", qos=1)
            assert sub.read_publish().payload == b"it works"
        demo.send_signal(signal.SIGINT)
        rest, _ = demo.communicate(timeout=60)
        assert demo.returncode == 0, said + rest
    finally:
        demo.kill()
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True,
                          text=True).stdout
    assert left == ""


def test_demo_names_the_busy_port(tmp_path):
    port, meta, message = free_bases()
    with socket.socket() as s:
        s.bind(("127.0.0.1", meta + 2))
        s.listen()
        p = subprocess.run(
            [TOP + "/scripts/demo"], capture_output=True, text=True, cwd=TOP,
            stdin=subprocess.DEVNULL, timeout=60,
            env=dict(os.environ, PORT=str(port), META_PORT=str(meta),
                     MESSAGE_PORT=str(message), DEMO_DIR=str(tmp_path)))
    assert p.returncode == 69
    assert "port %d cannot be used" % (meta + 2) in p.stderr
    assert "META_PORT=" in p.stderr
