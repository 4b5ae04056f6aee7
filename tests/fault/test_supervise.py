"""The supervisor meets failures of the system, one at a time, and dies at any
moment."""

import subprocess

import pytest

from support import mqttc
from support.keeper import answer, make_bin, unstarted

pytestmark = pytest.mark.skipif(mqttc.FOREIGN is not None,
                                reason="needs nodes of its own")


@pytest.fixture(scope="session")
def child_bin(tmp_path_factory):
    where = make_bin(tmp_path_factory.mktemp("bin"))
    with open(where + "/mqttc-supervise", "rb") as f:
        if b"supervise.fork" not in f.read():
            pytest.skip("no fault points in these programs")
    return where


@pytest.fixture(autouse=True)
def programs(child_bin, monkeypatch):
    monkeypatch.setattr(mqttc, "BIN", child_bin)


def serves(n):
    """It does all it should."""
    n.wait(lambda s: all(r["state"] == "ready" for r in s.values()))
    assert answer(n.addr(0)) == "listener.0"
    assert answer(n.addr(1)) == "listener.1"
    assert answer(n.addr("external")).startswith("listener.")


def one_failure(point, nth):
    """Whether there was one."""
    with mqttc.Node(env={"FAULTS": "%s:nth=%d" % (point, nth)}) as n:
        serves(n)
        n.tool("mqttc-ctl", "restart", "listener.0", check=False)
        serves(n)
        return "fault: " + point in n.logs()


@pytest.mark.parametrize("point", [
    "supervise.fork", "supervise.watch", "supervise.pipe",
    "supervise.incarnation", "supervise.segment", "supervise.send",
    "proc.send", "proc.metrics"])
def test_every_failure_is_survived(point):
    nth = 1
    while one_failure(point, nth):
        nth += 1
    assert nth > 1


def test_a_node_that_cannot_write_its_shards_down_does_not_start():
    n = unstarted(mqttc.Node)
    n.env["FAULTS"] = "supervise.shards:nth=1"
    with pytest.raises(mqttc.Failed, match="ended with 73"):
        n.start_once()
    assert "shards.bad" in n.logs()
    del n.env["FAULTS"]
    n.start_once()
    serves(n)
    n.stop()


@pytest.mark.parametrize("nth", [1, 2, 3, 4, 6, 8, 11, 15, 20, 26])
def test_killed_at_any_moment_the_next_one_takes_over(nth):
    n = unstarted(mqttc.Node)
    n.env["FAULTS"] = "supervise.send:nth=%d:do=kill" % nth
    died = subprocess.run(
        [mqttc.program("mqttc-supervise"), *n.arguments()],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, env=n.environment(), timeout=30, text=True)
    assert died.returncode == -9, died.stderr
    del n.env["FAULTS"]
    n.start_once()
    serves(n)
    n.stop()
