"""cluster.py: several nodes that are one cluster, on addresses of their own.

    with Cluster(3) as c:
        c[1].client(...)
        c.wait_route(0, "a/b", c.names[1])
        c.kill(2)                       # all of node 2, at once

Node i is called nI@127.x.y.I+1, so that clusters of tests that run side by side
do not meet: 127.0.0.0/8 is all loopback, and ports follow from names.
"""

import json
import os
import random
import shutil
import signal
import socket
import time

from . import mqttc

META_PORT, MESSAGE_PORT = 4370, 5370


def free_net(n):
    """The beginning of n addresses on which the ports of nodes are free."""
    for _ in range(500):
        net = "127.%d.%d." % (random.randrange(2, 250), random.randrange(256))
        held = []
        try:
            for i in range(n):
                for port in (META_PORT + i, MESSAGE_PORT + i):
                    s = socket.socket()
                    held.append(s)
                    s.bind((net + str(i + 1), port))
            return net
        except OSError:
            pass
        finally:
            for s in held:
                s.close()
    raise RuntimeError("no free addresses")


class Cluster:
    def __init__(self, n=3, listeners=1, options=None, replicants=(),
                 start=True, each=None, network=None):
        """options are of all nodes, each[i] of node i alone; replicants are
        the numbers of those that are no cores; network is what lies between
        them (network.py), or None: nothing does."""
        self.net = "10.0.0." if network is not None else free_net(n)
        self.names = ["n%d@%s%d" % (i, self.net, i + 1) for i in range(n)]
        self.replicants = set(replicants)
        seeds = ",".join(self.names[i] for i in range(n)
                         if i not in self.replicants)
        self.nodes = []
        for i, name in enumerate(self.names):
            opts = {"cluster.discovery": "static",
                    "cluster.static.seeds": seeds,
                    "node.cookie": "cookie of %s" % self.net,
                    "node.db_role": "replicant" if i in self.replicants
                                    else "core"}
            opts.update(options or {})
            opts.update((each or {}).get(i, {}))
            self.nodes.append(mqttc.Node(listeners=listeners, name=name,
                                         options=opts, start=False,
                                         host=network.hosts[i]
                                         if network is not None else None))
        if start:
            self.start()

    def __enter__(self):
        return self

    def __exit__(self, kind, exc, tb):
        if exc is not None:
            for node in self.nodes:
                if node.proc is not None:
                    print(node.report())
        failed = None
        for node in self.nodes:
            try:
                node.stop(check=exc is None)
            except mqttc.Failed as e:
                failed = failed or e
        for node in self.nodes:
            shutil.rmtree(node.dir, ignore_errors=True)
        if failed is not None and exc is None:
            raise failed

    def __getitem__(self, i):
        return self.nodes[i]

    def __len__(self):
        return len(self.nodes)

    def start(self, which=None, linked=True):
        """Start these nodes (all), one after the other: a node ends with the
        thread that started it. Wait until they are linked."""
        for i in range(len(self)) if which is None else which:
            self.nodes[i].start()
        if linked:
            self.wait_linked()

    def stop(self, i):
        """Stop node i; it can be started again, with what is on its disk."""
        node = self.nodes[i]
        node.own_dir = False
        node.stop()
        node.own_dir = True

    def kill(self, i):
        """kill -9 of every process of node i: the machine is gone."""
        node = self.nodes[i]
        os.kill(node.proc.pid, signal.SIGSTOP)  # it would start them anew
        for pid in mqttc.processes_marked(node.mark):
            node.expected_gone.add(pid)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        node.proc.wait()
        node.close_clients()
        node.reader.join()
        node.proc.stdout.close()
        node.err.close()
        node.proc = None

    def up(self):
        return [i for i, node in enumerate(self.nodes)
                if node.proc is not None]

    # Looking

    def stats(self, i):
        """{key: value} of the router of node i."""
        out = {}
        for row in self.nodes[i].tool_json("mqttc-route", "stats"):
            out[row["key"]] = str(row["value"])
        return out

    def seen(self, i, j, what, stats=None):
        """What router i says of node j, or None."""
        return (stats or self.stats(i)).get("%s.%s" % (self.names[j], what))

    def wait_for(self, predicate, why, deadline_s=30):
        """Until predicate() is true; returns what it returned."""
        end = time.monotonic() + deadline_s
        while True:
            try:
                got = predicate()
                if got:
                    return got
            except (mqttc.Failed, KeyError) as e:
                got = e
            if time.monotonic() > end:
                raise mqttc.Failed("in vain: %s (last: %s)" % (why, got))
            time.sleep(0.02)

    def wait_seen(self, i, j, what, value, deadline_s=30):
        self.wait_for(lambda: self.seen(i, j, what) == value,
                      "%s sees %s with %s=%s" % (self.names[i],
                                                 self.names[j], what, value),
                      deadline_s)

    def wait_linked(self, deadline_s=60):
        """Until each node that is up has the table of each other, whole."""
        nodes = self.up()

        def linked():
            for i in nodes:
                s = self.stats(i)
                for j in nodes:
                    if i == j:
                        continue
                    if (self.seen(i, j, "state", s),
                            self.seen(i, j, "phase", s),
                            self.seen(i, j, "ended", s)) != (
                                "up", "normal", "yes"):
                        return False
            return True
        self.wait_for(linked, "everybody is linked", deadline_s)

    def routes(self, i, *args):
        """{(filter, group): {dest: row}} of router i."""
        out = {}
        for row in self.nodes[i].tool_json("mqttc-route", "list", *args):
            key = row["filter"], row.get("group") or None
            out.setdefault(key, {})[row["dest"]] = row
        return out

    def match(self, i, topic):
        """What the index of node i answers: {dest: state}."""
        done = self.nodes[i].tool("mqttc-route", "match", topic, "--json",
                                  check=False)
        if done.returncode not in (0, 1):       # 1: nobody
            raise mqttc.Failed(done.stderr)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        return {row["dest"]: row["state"] for row in rows
                if row["kind"] == "index"}

    def wait_match(self, i, topic, dests, deadline_s=20):
        """Until the index of node i answers these destinations, no others."""
        self.wait_for(lambda: set(self.match(i, topic)) == set(dests),
                      "%s at %s: %s" % (topic, self.names[i], dests),
                      deadline_s)
