"""The index finds no memory: nothing is acknowledged that is not in it, and
what was refused finds room later."""

import pytest

from support import mqttc
from support.rig import Rig

pytestmark = pytest.mark.skipif(mqttc.FOREIGN is not None,
                                reason="needs the router itself")
N = 20000


def one_run(point, nth):
    """What the faults met led to; nothing if there were none."""
    with Rig(env={"FAULTS": "%s:nth=%d" % (point, nth)}) as rig:
        rig.run()
        event = rig.wait_any("ready", "exit")
        if event["event"] == "exit":            # at the start: it says so
            assert event["code"] == 71 and "router.index" in rig.log()
            return "exit"
        rig.wait("segment")
        a = rig.process("listener.0", 10)
        a.read()
        a.snapshot("first")
        a.bulk("x/%/y", N)
        led_to = "nothing"
        while True:
            event = rig.wait("ack", name="listener.0")
            if event["resync"]:
                assert "router.route_refused" in rig.log()
                led_to = "resync"
                a.bulk("x/%/y", N, flags="b")
                a.routes("+first", flags="e")
                a.wait_ack()
                break
            if event["seq"] == a.seq:
                break
        stats = rig.stats()
        assert stats["routes"] == N + 1
        assert a.match("first") == ["listener.0"]
        for i in range(0, N, 97):
            assert a.match("x/%d/y" % i) == ["listener.0"]
        return led_to if "fault: " + point in rig.log() else None


def test_every_growth_fails_once():
    nth = 1
    while one_run("shm.grow", nth):
        nth += 1
    if nth == 1:
        pytest.skip("no fault points in these programs")


@pytest.mark.parametrize("nth", [1, 2, 4000, N + 1])
def test_a_row_fails_once(nth):
    led_to = one_run("router.row", nth)
    if led_to is None:
        pytest.skip("no fault points in these programs")
    assert led_to == "resync"
