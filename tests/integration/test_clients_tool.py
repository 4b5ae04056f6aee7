"""mqttc-clients and what outlives a connection: sessions that are stored, shown
beside the clients that are connected, and ended."""

import os

import pytest

from support import mqttc, wire

if mqttc.FOREIGN:
    pytest.skip("needs nodes of its own", allow_module_level=True)

LASTING = {"session_expiry_interval": 1000}
ADMINISTRATIVE_ACTION = 0x98


def lasting(node, name, **opts):
    opts.setdefault("props", LASTING)
    return node.client(name, clean=False, **opts)


def rows(node, *args):
    return {r["client_id"]: r
            for r in node.tool_json("mqttc-clients", *args)}


def leave(node, client, name, graceful=True):
    """The client goes, and its store has heard of it."""
    if graceful:
        client.disconnect()
        client.expect_closed()
    client.close()
    wait_for(node, name, "offline")


def wait_for(node, name, state):
    node.wait(lambda s: rows(node, "list").get(name, {}).get("state")
              == state)


def test_sessions_that_are_stored(make_node):
    node = make_node(listeners=2, options={"session_store.processes": "3"})
    here = lasting(node, "here", on=0)
    here.subscribe("q/#", qos=1)
    away = lasting(node, "away", on=1)
    away.subscribe("q/+", qos=2, no_local=True, props=9)
    away.subscribe("$share/grp/q/x", qos=1)
    leave(node, away, "away")
    old = node.client("old", version=wire.V311, clean=False)
    old.subscribe("q/#", qos=1)
    leave(node, old, "old")
    pub = node.client("pub")
    for i in range(5):
        pub.publish("q/a", b"%d" % i, qos=1)
    here.complete(*here.read_publishes(2))
    here.fence()
    got = rows(node, "list")
    assert set(got) == {"here", "away", "old", "pub"}
    assert got["pub"]["state"] == "connected" and got["pub"]["clean"]
    assert got["pub"]["queue_len"] is None and got["pub"]["expiry_s"] == 0
    h = got["here"]
    assert (h["state"], h["clean"], h["expiry_s"]) == (
        "connected", False, 1000)
    assert h["listener"] == "listener.0" and h["subscriptions"] == 1
    assert h["connected_ms"] > 0 and h["offline_ms"] is None
    # The store hears of an acknowledgement soon.
    node.wait(lambda s: rows(node, "list")["here"]["inflight"] == 3)
    a = got["away"]
    assert (a["state"], a["listener"], a["peer"]) == ("offline", None, None)
    assert (a["subscriptions"], a["queue_len"], a["inflight"]) == (2, 5, 0)
    assert 0 < a["expiry_s"] <= 1000 and a["queue_bytes"] > 5
    assert a["offline_ms"] > 0 and a["version"] == 5 and a["will"] is False
    assert got["old"]["version"] == 4 and got["old"]["queue_len"] == 5
    assert set(rows(node, "--offline", "list")) == {"away", "old"}
    assert set(rows(node, "--connected", "list")) == {"here", "pub"}
    client, *subs = node.tool_json("mqttc-clients", "show", "away")
    assert client["queue_len"] == 5
    assert sorted((s["filter"], s["qos"], s["no_local"], s["id"])
                  for s in subs) == [
        ("$share/grp/q/x", 1, False, None), ("q/+", 2, True, 9)]
    client, *subs = node.tool_json("mqttc-clients", "show", "here")
    assert client["expiry_s"] == 1000 and client["queue_len"] == 0
    assert [s["filter"] for s in subs] == ["q/#"]
    text = node.tool("mqttc-clients", "list")
    assert "offline" in text and "connected" in text


def test_in_flight_of_one_who_left(make_node):
    node = make_node(listeners=1)
    c = lasting(node, "d")
    c.subscribe("q", qos=2)
    pub = node.client()
    for i in range(3):
        pub.publish("q", b"%d" % i, qos=2)
    c.read_publishes(3)
    c.send_publish("other", b"in", qos=2, pid=5)
    c.wait_ack(wire.PUBREC, 5)
    leave(node, c, "d", graceful=False)
    pub.publish("q", b"3", qos=1)
    node.wait(lambda s: rows(node, "list")["d"]["queue_len"] == 1)
    row = rows(node, "list")["d"]
    assert (row["inflight"], row["inbound"]) == (3, 1)


def test_every_session_once_page_by_page(make_node):
    """Long client identifiers make several pages of each shard; sessions come
    and go between them."""
    node = make_node(listeners=2, options={"session_store.processes": "2"})
    names = ["%d-%s" % (i, "x" * 1500) for i in range(400)]
    for i, name in enumerate(names):
        c = lasting(node, name, on=i % 2)
        c.disconnect()
        c.expect_closed()
        c.close()
    node.wait(lambda s: len(rows(node, "--offline", "list")) == len(names))
    before = node.metric("store_queries_total")
    listed = [r["client_id"] for r in
              node.tool_json("mqttc-clients", "--offline", "list")]
    assert sorted(listed) == sorted(names)
    assert node.metric("store_queries_total") - before >= 4
    for name in names[::2]:
        assert rows(node, "expire", name)[name]["state"] == "offline"
    listed = [r["client_id"] for r in
              node.tool_json("mqttc-clients", "--offline", "list")]
    assert sorted(listed) == sorted(names[1::2])


def test_expire_one_who_is_away(make_node):
    node = make_node(listeners=1, options={"session_store.processes": "2"})
    will = node.client("will")
    will.subscribe("gone", qos=1)
    c = lasting(node, "d", will={
        "topic": "gone", "payload": b"d", "qos": 1,
        "props": {"will_delay_interval": 500}})
    c.subscribe("only/d", qos=1)
    leave(node, c, "d", graceful=False)
    assert rows(node, "list")["d"]["will"] is True
    node.client("pub").publish("only/d", b"x", qos=1)
    assert rows(node, "expire", "d")["d"]["queue_len"] == 1
    # The session ended, so the will waits no longer [MQTT-3.1.3-9].
    assert will.read_publish().payload == b"d"
    assert "d" not in rows(node, "list")
    node.wait(lambda s: "only/d" not in node.tool("mqttc-route", "list"))
    done = node.tool("mqttc-clients", "expire", "d", check=False)
    assert done.returncode == 1 and "'d'" in done.stderr
    for name in ("session_store.0", "session_store.1"):
        pid = node.kill(name)
        node.wait_ready(name, not_pid=pid)
    assert "d" not in rows(node, "list")
    c = lasting(node, "d")
    assert not c.connack.session_present
    c.expect_nothing()
    node.wait_log("session.ended client=\"d\"")
    assert node.metric("store_ended_total") == 0    # it was restarted
    rows(node, "expire", "d")
    assert node.metric("store_ended_total") == 1


def test_expire_one_who_is_connected(make_node):
    node = make_node(listeners=2)
    will = node.client("will", on=1)
    will.subscribe("gone/#", qos=1)
    c = lasting(node, "d", will={
        "topic": "gone/d", "payload": b"", "qos": 1,
        "props": {"will_delay_interval": 500}})
    c.subscribe("t", qos=1)
    node.client().publish("t", b"1", qos=1)
    c.read_publish()
    row = rows(node, "expire", "d")["d"]
    assert row["state"] == "connected" and row["inflight"] == 1
    c.expect_disconnect(ADMINISTRATIVE_ACTION)
    assert will.read_publish().topic == "gone/d"
    again = lasting(node, "d")
    assert not again.connack.session_present
    again.expect_nothing()
    v3 = node.client("three", version=wire.V311, clean=False)
    rows(node, "expire", "three")
    v3.expect_closed()
    # Who has nothing to keep loses the connection as well.
    clean = node.client("clean", on=1)
    assert rows(node, "expire", "clean")["clean"]["clean"]
    clean.expect_disconnect(ADMINISTRATIVE_ACTION)
    assert set(rows(node, "list")) >= {"will", "d"}


def test_queues_are_counted(make_node):
    node = make_node(listeners=1)
    for name in ("a", "b"):
        c = lasting(node, name)
        c.subscribe("q", qos=1)
        leave(node, c, name)
    pub = node.client()
    for i in range(4):
        pub.publish("q", b"%d" % i, qos=1)
    node.wait_metric("store_queue_messages", lambda v: v == 8)
    node.wait_metric("store_bodies", lambda v: v == 4)
    assert node.metric("store_body_bytes") > 4
    assert node.metric("store_replayed_total") == 0
    pid = node.kill("session_store.0")
    node.wait_ready("session_store.0", not_pid=pid)
    assert node.metric("store_replayed_total") > 4
    assert node.metric("store_damaged_bytes_total") == 0
    node.wait_metric("store_queue_messages", lambda v: v == 8)
    node.tool("mqttc-clients", "expire", "a")
    node.wait_metric("store_queue_messages", lambda v: v == 4)
    node.tool("mqttc-clients", "expire", "b")
    node.wait_metric("store_bodies", lambda v: v == 0)


def test_kick_leaves_the_session(make_node):
    node = make_node(listeners=1)
    c = lasting(node, "d")
    c.subscribe("t", qos=1)
    node.tool("mqttc-clients", "kick", "d")
    c.expect_disconnect(ADMINISTRATIVE_ACTION)
    wait_for(node, "d", "offline")
    assert lasting(node, "d").connack.session_present


def test_a_store_that_is_away(make_node):
    node = make_node(listeners=1, options={"session_store.processes": "2"})
    node.client("c")
    pid = node.pid("session_store.1")
    os.kill(pid, 19)
    try:
        done = node.tool("mqttc-clients", "list", check=False)
    finally:
        os.kill(pid, 18)
    assert done.returncode == os.EX_TEMPFAIL
    assert "session_store.1 does not answer" in done.stderr
    assert "connected" in done.stdout


def test_usage(make_node):
    node = make_node(listeners=1)
    for args in (("--offline", "--connected", "list"), ("expire",),
                 ("--offline", "show", "x"), ("expire", "a", "b")):
        done = node.tool("mqttc-clients", *args, check=False)
        assert done.returncode == os.EX_USAGE
        assert "usage: mqttc-clients" in done.stderr
