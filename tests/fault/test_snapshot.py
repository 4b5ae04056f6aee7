"""A snapshot of routes that does not fit into the stream to the router: what
changes while the rest of it waits is told as well."""

import signal
import time

import pytest

from support import mqttc

pytestmark = pytest.mark.skipif(mqttc.FOREIGN is not None,
                                reason="needs a router of its own")
N = 3000


def routes(node):
    return {(r["filter"], r["group"], r["members"])
            for r in node.tool_json("mqttc-route", "list")}


def test_what_leaves_in_the_middle_of_a_snapshot(make_node):
    node = make_node(listeners=1, env={
        "FAULTS": "router.row:nth=500:do=stop"}, options={
        "bus.credit": "64KB", "bus.stream_max": "64KB",
        "supervise.hang_timeout": "10m",
        "mqtt.max_subscriptions": "10000", "cluster.suback_timeout": "50ms"})
    a, b = node.client(), node.client()
    names = ["%d/" % i + "x" * 400 for i in range(N)]
    node.kill("router", signal.SIGSTOP)         # it counts no rows
    for i in range(0, N, 100):
        a.subscribe(names[i:i + 50] + ["$share/g/" + n
                                       for n in names[i + 50:i + 100]])
        b.subscribe(["$share/g/" + n for n in names[i + 50:i + 100]])
    node.kill("router", signal.SIGKILL)
    end = time.monotonic() + 20
    while "fault: router.row" not in node.logs():
        if time.monotonic() > end:
            pytest.skip("no fault points in these programs")
        time.sleep(0.05)
    # A part of it is in the stream, the rest finds no room.
    for i in range(0, N, 100):
        a.unsubscribe(names[i:i + 25] + ["$share/g/" + n
                                         for n in names[i + 50:i + 75]])
        b.unsubscribe(["$share/g/" + n for n in names[i + 50:i + 100:2]])
    node.kill("router", signal.SIGCONT)
    want = set()
    for i, n in enumerate(names):
        k = i % 100
        members = (k >= 75) + (k % 2 == 1)
        if 25 <= k < 50:
            want.add((n, None, None))
        elif k >= 50 and members > 0:
            want.add((n, "g", members))
    end = time.monotonic() + 20
    while routes(node) != want and time.monotonic() < end:
        time.sleep(0.1)
    got = routes(node)
    assert len(got - want) == 0 and len(want - got) == 0
