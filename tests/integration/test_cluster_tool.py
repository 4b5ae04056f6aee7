"""mqttc-cluster, and what the router keeps of who belongs to the cluster, on a
node that is a cluster of one."""

import os
import signal
import threading

import pytest

from support import mqttc
from support.keeper import unstarted

if mqttc.FOREIGN:
    pytest.skip("needs nodes of its own", allow_module_level=True)

EX_USAGE, EX_DATAERR, EX_NOINPUT, EX_UNAVAILABLE, EX_CONFIG = 64, 65, 66, 69, 78
STATIC = {"cluster.discovery": "static", "cluster.name": "prod"}


def cluster(node, *args, stdin=None):
    """(exit code, stdout, stderr)."""
    done = node.tool("mqttc-cluster", *args, check=False)
    return done.returncode, done.stdout, done.stderr


def status(node):
    rows = node.tool_json("mqttc-cluster", "status")
    assert len(rows) == 1
    return rows[0]


def member_file(node):
    return os.path.join(node.dir, "data", "member")


def start_refused(make, event, **kw):
    """A node whose router does not come up; what it logged."""
    node = unstarted(make, **kw)
    starter = threading.Thread(target=quietly, args=(node.start_once,))
    starter.start()
    node.wait_log(event)
    node.wait(lambda s: s["router"]["state"] == "down")
    said = node.logs()
    node.proc.terminate()
    starter.join()
    return said


def quietly(f):
    try:
        f()
    except mqttc.Failed:
        pass


def test_status_of_a_cluster_of_one(make_node):
    node = make_node(name="emqx@127.0.0.1")
    assert cluster(node, "status") == (
        0, "Cluster status: #{running_nodes => ['emqx@127.0.0.1'],"
        "stopped_nodes => []}\n", "")


def test_a_long_status_is_laid_out_as_users_know_it(make_node):
    name = "a-node-with-a-rather-long-name-of-its-own@127.0.0.1"
    node = make_node(name=name)
    assert cluster(node, "status")[1] == (
        "Cluster status: #{running_nodes =>\n"
        "                      ['%s'],\n"
        "                  stopped_nodes => []}\n" % name)


def test_status_as_json_and_as_a_table(make_node):
    node = make_node(name="emqx3@127.0.0.1")
    row = status(node)
    assert row["name"] == "emqx3@127.0.0.1" and row["self"]
    assert row["role"] == "core" and row["state"] == "running"
    assert row["addresses"] == "127.0.0.1:4373"
    assert len(row["cluster"]) == 32 and row["cluster_name"] is None
    assert not row["joined"] and not row["split"] and row["out"] is None
    assert row["majority"] and not row["parked"]
    titles, line = cluster(node, "--nodes", "status")[1].splitlines()
    assert titles.split()[:3] == ["NAME", "ROLE", "STATE"]
    assert line.split()[:3] == ["emqx3@127.0.0.1", "core", "running"]


def test_a_replicant_says_so(make_node):
    node = make_node(options={"node.db_role": "replicant"})
    row = status(node)
    assert row["role"] == "replicant" and not row["majority"]


def test_names_tells_the_ports(make_node):
    node = make_node(name="emqx12@127.0.0.1",
                     options={"cluster.meta_port": "14370"})
    assert cluster(node, "names")[1] == (
        "name emqx12@127.0.0.1 at port 14382, messages at port 5382\n")
    assert node.tool_json("mqttc-cluster", "names") == [{
        "name": "emqx12@127.0.0.1", "metadata_port": 14382,
        "message_port": 5382, "state": "running", "self": True}]


@pytest.mark.parametrize("args, says", [
    ((), "a command is missing"),
    (("stat",), "no command 'stat'"),
    (("join",), "the name of the node is missing"),
    (("join", "nohost"), "'nohost' is no node name"),
    (("force-leave", "a@b@c"), "'a@b@c' is no node name"),
    (("leave", "a@b"), "unexpected 'a@b'"),
    (("--force", "leave"), "--force is for join"),
    (("--nodes", "names"), "--nodes is for status"),
])
def test_bad_arguments_are_named(node, args, says):
    code, out, err = cluster(node, *args)
    assert (code, out) == (EX_USAGE, "")
    assert says in err.splitlines()[0]


def test_nobody_is_joined_without_being_asked(node):
    # Nobody sits at this standard input.
    code, out, err = cluster(node, "join", "other@127.0.0.9")
    assert (code, out) == (1, "")
    assert "Go on? [y/N]" in err and "not joined" in err


def test_what_one_node_alone_cannot_do(node):
    me = node.name
    code, out, err = cluster(node, "leave")
    assert (code, out) == (EX_DATAERR, "")
    assert "Failed to leave the cluster: this node is in no cluster" in err
    code, out, err = cluster(node, "force-leave", me)
    assert (code, out) == (EX_USAGE, "")
    assert "this is the node itself" in err
    code, out, err = cluster(node, "force-leave", "x@127.0.0.9")
    assert (code, out) == (EX_NOINPUT, "")
    assert "no such node is, or was, in this cluster" in err
    code, out, err = cluster(node, "--force", "join", me)
    assert (code, out) == (EX_USAGE, "")
    assert "this is the node itself" in err


def test_heal_finds_nothing_parked(node):
    assert cluster(node, "heal")[:2] == (
        0, "Heal the cluster successfully: 0 parked.\n")
    assert node.tool_json("mqttc-cluster", "heal") == [{"parked": 0}]


def test_no_node_runs_there(make_node, tmp_path):
    node = unstarted(make_node, options={"node.run_dir": str(tmp_path)})
    code, out, err = cluster(node, "status")
    assert (code, out) == (EX_UNAVAILABLE, "") and err


def test_a_node_is_the_same_after_a_restart(make_node, tmp_path):
    node = make_node(directory=str(tmp_path))
    before = status(node)
    router = node.pid("router")
    os.kill(router, signal.SIGKILL)
    node.expected_gone.add("router")
    node.wait_ready("router", not_pid=router)
    after = status(node)
    for key in "cluster", "join_id", "members_digest":
        assert after[key] == before[key]
    assert after["incarnation"] > before["incarnation"]
    node.stop()
    again = make_node(directory=str(tmp_path))
    assert status(again)["join_id"] == before["join_id"]


def test_one_cluster_name_is_one_cluster(make_node):
    one = make_node(options=STATIC)
    two = make_node(options=STATIC)
    other = make_node(options=dict(STATIC, **{"cluster.name": "test"}))
    assert status(one)["join_id"] != status(two)["join_id"]
    assert status(one)["cluster"] == status(two)["cluster"]
    assert status(one)["cluster"] != status(other)["cluster"]
    assert status(one)["cluster_name"] == "prod"


def test_alone_a_node_can_have_another_name(make_node, tmp_path):
    node = make_node(name="one@127.0.0.1", directory=str(tmp_path))
    node.stop()
    node = make_node(name="two@127.0.0.1", directory=str(tmp_path))
    assert status(node)["name"] == "two@127.0.0.1"


def test_a_damaged_file_is_set_aside_and_named(make_node, tmp_path):
    node = make_node(directory=str(tmp_path))
    node.stop()
    with open(member_file(node), "r+b") as f:
        f.seek(60)
        byte = f.read(1)
        f.seek(60)
        f.write(bytes([byte[0] ^ 1]))
    said = start_refused(make_node, "cluster.damaged",
                         directory=str(tmp_path))
    assert "It was set aside as member.damaged" in said
    assert os.path.exists(member_file(node) + ".damaged")
    # Then it is a new node.
    node = make_node(directory=str(tmp_path))
    assert status(node)["state"] == "running"


def test_figures_of_the_cluster(node):
    assert node.metric("cluster_members") == 1
    assert node.metric("cluster_members_up") == 1
    assert node.metric("cluster_split") == 0
    assert node.metric("cluster_out") == 0
