"""network.py: hosts in network namespaces, and a network between them that
tests cut, heal and slow down.

    with Network(3) as net:
        with Cluster(3, network=net) as c:
            net.split([0], [1, 2])      # nothing gets from 0 to 1 or 2, or back
            net.cut(0, 1, one_way=True) # nothing from 0 to 1
            net.delay(50)               # ms, each way, between any two
            net.heal()

Host i has the address 10.0.0.I+1 and its own 127.0.0.1. What is cut falls
silent: packets are dropped, no connection ends by that. Clients of tests live
on the host of their node, so nothing that is done to the network is done to
them.

Each namespace has one interface, a TUN device, and the other ends of all of
them are held by a process that is the switch (this file, run as a program). So
neither a bridge nor netem is needed, which not every kernel has, and nothing is
left behind when a test is killed: namespaces and devices go with their last
descriptor.
"""

import contextlib
import ctypes
import fcntl
import heapq
import os
import select
import struct
import subprocess
import sys
import time

CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454ca, 0x0001, 0x1000
MTU = 9000

LIBC = ctypes.CDLL(None, use_errno=True)


def check(rc, what):
    if rc < 0:
        e = ctypes.get_errno()
        raise OSError(e, "%s: %s" % (what, os.strerror(e)))


@contextlib.contextmanager
def back_again():
    """This thread comes back to the namespace that it is in."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        check(LIBC.setns(before, CLONE_NEWNET), "setns")
        os.close(before)


class Host:
    """One namespace, its interface with this address up."""

    def __init__(self, address):
        self.address = address
        self.fd = self.tun = -1
        try:
            with back_again():
                check(LIBC.unshare(CLONE_NEWNET), "unshare")
                self.fd = os.open("/proc/thread-self/ns/net",
                                  os.O_RDONLY | os.O_CLOEXEC)
                self.tun = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
                fcntl.ioctl(self.tun, TUNSETIFF, struct.pack(
                    "16sH22x", b"eth0", IFF_TUN | IFF_NO_PI))
                for args in ("link set lo up",
                             "addr add %s/24 dev eth0" % address,
                             "link set eth0 mtu %d up" % MTU):
                    subprocess.run(["ip"] + args.split(), check=True,
                                   stdin=subprocess.DEVNULL)
        except BaseException:
            self.close()
            raise

    def enter(self):
        """For good; to be called in a child before it runs a program."""
        check(LIBC.setns(self.fd, CLONE_NEWNET), "setns")

    @contextlib.contextmanager
    def inside(self):
        """Sockets made meanwhile by this thread are this host's."""
        with back_again():
            self.enter()
            yield

    def close(self):
        for fd in (self.fd, self.tun):
            if fd >= 0:
                os.close(fd)
        self.fd = self.tun = -1


def why_not():
    """Why there can be no Network here, or None."""
    try:
        Host("10.0.0.1").close()
    except (OSError, subprocess.CalledProcessError) as e:
        return "no network namespaces: %s" % e
    return None


class Network:
    def __init__(self, n):
        self.hosts = []
        try:
            for i in range(n):
                self.hosts.append(Host("10.0.0.%d" % (i + 1)))
            fds = [h.tun for h in self.hosts]
            self.switch = subprocess.Popen(
                [sys.executable, os.path.abspath(__file__)] +
                [str(fd) for fd in fds], pass_fds=fds, text=True, bufsize=1,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        switch = getattr(self, "switch", None)
        if switch is not None:
            switch.stdin.close()                # it ends
            switch.wait()
            switch.stdout.close()
        for h in self.hosts:
            h.close()
        self.hosts = []

    def __len__(self):
        return len(self.hosts)

    def tell(self, *words):
        """It is so when this returns."""
        self.switch.stdin.write(" ".join(map(str, words)) + "\n")
        assert self.switch.stdout.readline() == "done\n"

    # What may be done to it

    def cut(self, a, b, one_way=False):
        self.tell("cut", a, b)
        if not one_way:
            self.tell("cut", b, a)

    def join(self, a, b):
        self.tell("join", a, b)
        self.tell("join", b, a)

    def split(self, *parts):
        """These parts, lists of numbers, do not reach each other."""
        for i, part in enumerate(parts):
            for other in parts[i + 1:]:
                for a in part:
                    for b in other:
                        self.cut(a, b)

    def heal(self):
        """All is as it was made, but for the delay."""
        self.tell("heal")

    def delay(self, ms):
        self.tell("delay", ms)

    def passed(self):
        """How many packets have reached a host."""
        self.switch.stdin.write("passed\n")
        return int(self.switch.stdout.readline())


# --- The switch ----------------------------------------------------------------

class Switch:
    def __init__(self, fds):
        self.fds, self.cuts, self.delay_s = fds, set(), 0.0
        self.waiting = []               # (when, number, to, packet)
        self.taken = self.passed = 0
        self.commands = ""
        self.poll = select.poll()
        for fd in fds + [0]:
            os.set_blocking(fd, False)
            self.poll.register(fd, select.POLLIN)

    def run(self):
        while True:
            wait = None
            if self.waiting:
                wait = max(0, self.waiting[0][0] - time.monotonic()) * 1000
            for fd, _ in self.poll.poll(wait):
                if fd == 0:
                    if not self.on_commands():
                        return
                else:
                    self.on_packets(self.fds.index(fd))
            now = time.monotonic()
            while self.waiting and self.waiting[0][0] <= now:
                _, _, to, packet = heapq.heappop(self.waiting)
                self.put(to, packet)

    def on_packets(self, src):
        for _ in range(64):
            try:
                packet = os.read(self.fds[src], 65536)
            except BlockingIOError:
                return
            # IPv4 to 10.0.0.x alone; others are of no use to anybody.
            if len(packet) < 20 or packet[0] >> 4 != 4 or \
                    packet[16:19] != b"\x0a\0\0":
                continue
            to = packet[19] - 1
            if not 0 <= to < len(self.fds) or (src, to) in self.cuts:
                continue
            if self.delay_s == 0 and not self.waiting:
                self.put(to, packet)
                continue
            self.taken += 1
            heapq.heappush(self.waiting, (time.monotonic() + self.delay_s,
                                          self.taken, to, packet))

    def put(self, to, packet):
        try:
            os.write(self.fds[to], packet)
            self.passed += 1
        except OSError:
            pass                        # a wire may lose it

    def on_commands(self):
        more = os.read(0, 65536).decode()
        if not more:
            return False
        lines = (self.commands + more).split("\n")
        self.commands = lines.pop()
        for line in lines:
            self.obey(line.split())
        return True

    def obey(self, words):
        said = "done"
        if words[0] == "cut":
            a, b = int(words[1]), int(words[2])
            self.cuts.add((a, b))
        elif words[0] == "join":
            self.cuts.discard((int(words[1]), int(words[2])))
        elif words[0] == "heal":
            self.cuts.clear()
        elif words[0] == "delay":
            self.delay_s = float(words[1]) / 1000
        else:
            said = str(self.passed)
        os.write(1, (said + "\n").encode())


if __name__ == "__main__":
    Switch([int(fd) for fd in sys.argv[1:]]).run()
