"""keeper.py: nodes in which router, listeners and session stores are
tests/support/child.c, for tests that look at the supervisor alone."""

import os
import shutil
import socket
import subprocess

from . import mqttc

FLAGS = {
    "build/asan": ["SAN=address,undefined"],
    "build/ubsan": ["SAN=undefined"],
    "build/faults": ["FAULTS=1"],
}


def make_bin(where):
    """Fill a directory with programs of which those that are started are the
    child, built like the rest."""
    build = os.path.relpath(os.path.dirname(mqttc.BIN), mqttc.TOP)
    if build not in FLAGS:
        build = "build"
    child = build + "/tests/support/child"
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    subprocess.run(["make", "-s", "BUILD=" + build, *FLAGS.get(build, []),
                    child], check=True, cwd=mqttc.TOP, env=env,
                   stdin=subprocess.DEVNULL)
    for name in ("mqttc-supervise", "mqttc-ctl", "mqttc-stat"):
        shutil.copy(mqttc.program(name), where)
    for name in ("mqttc-router", "mqttc-listener", "mqttc-session-store"):
        shutil.copy(os.path.join(mqttc.TOP, child),
                    os.path.join(where, name))
    return str(where)


def ask(node, what, number="0"):
    """Have a child do something at its next start; see child.c."""
    path = os.path.join(node.dir, "run", what)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with open(path, "w") as f:
        f.write(number)
    return path


def unstarted(make, **kw):
    """A node with its ports chosen, for tests that start it themselves."""
    n = make(start=False, **kw)
    n.port = mqttc.free_ports(n.listeners + 2)
    n.each_port = n.port + 1
    return n


def answer(addr):
    """Connect; the name of the process that accepted."""
    with socket.create_connection(addr, timeout=20) as s:
        s.settimeout(20)
        text = b""
        while True:
            more = s.recv(100)
            if not more:
                return text.decode().strip()
            text += more
