"""The file of who belongs to the cluster cannot be written: it is tried again,
said, and what was there before is there still."""

import os

import pytest

from support import mqttc

if mqttc.FOREIGN:
    pytest.skip("needs nodes of its own", allow_module_level=True)


def status(node):
    return node.tool_json("mqttc-cluster", "status")[0]


def saved(node):
    """Nothing is said on stderr: it is on disk."""
    return node.tool("mqttc-cluster", "status", check=False).stderr == ""


@pytest.mark.parametrize("point", ["member.write", "member.fsync"])
def test_it_is_tried_again(make_node, point, tmp_path):
    node = make_node(env={"FAULTS": point + ":nth=1"},
                     directory=str(tmp_path))
    node.wait_log("cluster.unsaved")
    node.wait(lambda s: saved(node))
    before = status(node)
    assert node.metric("cluster_unsaved_total") == 1
    node.stop()
    node = make_node(directory=str(tmp_path))
    assert status(node)["join_id"] == before["join_id"]


@pytest.mark.parametrize("point", ["member.write", "member.fsync"])
def test_a_disk_that_stays_full_stops_nobody(make_node, point):
    node = make_node(env={"FAULTS": point + ":nth=0"})
    node.wait_log("cluster.unsaved")
    code = node.tool("mqttc-cluster", "status", check=False)
    assert code.returncode == 0
    assert "is not on its disk" in code.stderr
    sub = node.client("sub")
    sub.subscribe("a/#", qos=1)
    node.client("pub").publish("a/b", b"1", qos=1)
    assert sub.read_publishes(1)[0].payload == b"1"
    assert not os.path.exists(os.path.join(node.dir, "data", "member"))


def test_what_was_there_before_is_there_still(make_node, tmp_path):
    node = make_node(directory=str(tmp_path))
    before = status(node)
    node.stop()
    # Another role changes the row: it is not written.
    node = make_node(directory=str(tmp_path),
                     options={"node.db_role": "replicant"},
                     env={"FAULTS": "member.fsync:nth=0"})
    node.wait_log("cluster.unsaved")
    node.stop()
    node = make_node(directory=str(tmp_path))
    after = status(node)
    assert after["role"] == "core"
    assert after["join_id"] == before["join_id"]
    assert after["members_digest"] == before["members_digest"]
