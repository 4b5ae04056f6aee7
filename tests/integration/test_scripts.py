"""What stands between a fresh machine and a running node: scripts/setup,
make run, make install."""

import os
import shutil
import socket
import subprocess

import pytest

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
