"""mqttc-ctl export and import: sessions and retained messages out of a node and
into another one that has another number of session stores."""

import json
import os
import subprocess

import pytest

from support import mqttc, wire

if mqttc.FOREIGN:
    pytest.skip("needs nodes of its own", allow_module_level=True)

LASTING = {"session_expiry_interval": 1000}
BIG = bytes(range(256)) * 3700          # more than one page, one batch


def ctl(node, *args, data=None, path=None, check=True):
    """mqttc-ctl, binary, stdin from a pipe (data) or a file (path)."""
    stdin = open(path, "rb") if path else None
    done = subprocess.run(
        [mqttc.program("mqttc-ctl"), *node.arguments(), *args],
        input=data, stdin=stdin or (None if data is not None else
                                    subprocess.DEVNULL),
        capture_output=True, env=node.environment(), cwd=node.dir, timeout=60)
    if stdin:
        stdin.close()
    done.stderr = done.stderr.decode()
    if check:
        assert done.returncode == 0, done.stderr
    return done


def export(node, *what):
    return ctl(node, "export", *what).stdout


def parsed(dump):
    return [json.loads(line) for line in dump.splitlines()]


def of_type(dump, kind):
    return [r for r in parsed(dump) if r["type"] == kind]


def contents(dump):
    """What is in it, whatever the order of sessions."""
    return sorted(dump.splitlines()[1:-1])


def lasting(node, name, **opts):
    opts.setdefault("props", LASTING)
    return node.client(name, clean=False, **opts)


def offline(node):
    return {r["client_id"] for r in node.tool_json(
        "mqttc-clients", "--offline", "list")}


def leave(node, client, name):
    client.close()
    node.wait(lambda s: name in offline(node))


def two_nodes(make_node, stores=(2, 3), **options):
    return [make_node(listeners=2, name="%s@127.0.0.1" % "abc"[i], options=dict(
        options, **{"session_store.processes": str(n)}))
        for i, n in enumerate(stores)]


def test_the_same_deliveries_elsewhere(make_node):
    a, b = two_nodes(make_node)
    d = lasting(a, "d")
    d.subscribe("q/#", qos=2, props=7)
    d.subscribe("$share/g/s", qos=1)
    d.subscribe("n", qos=1, no_local=True, retain_as_published=True,
                retain_handling=1)
    pub = a.client("pub", on=1)
    pub.publish("q/1", b"\x00\xff", qos=1)
    pub.publish("q/2", b"two", qos=2)
    pub.publish("q/3", b"three", qos=2)
    first = d.read_publishes(3)
    d.pubrec(first[1].pid)
    d.wait_ack(wire.PUBREL, first[1].pid)
    d.send_publish("in/x", b"once", qos=2, pid=77)
    d.wait_ack(wire.PUBREC, 77)
    leave(a, d, "d")
    props = {"content_type": "text/x", "correlation_data": b"\x00\x01",
             "user_property": [("k", "v"), ("k", "w")]}
    pub.publish("q/4", b"", qos=1, props=props)
    pub.publish("q/5", BIG, qos=2)
    pub.publish("q/6", b"six", qos=1, props={"message_expiry_interval": 500})
    pub.publish("r/1", b"\xfekept", qos=2, retain=True, props=props)
    pub.publish("r/big", BIG, qos=1, retain=True,
                props={"message_expiry_interval": 500})
    dump = export(a)
    head, end = parsed(dump)[0], parsed(dump)[-1]
    assert (head["type"], head["format"], head["node"], head["shards"]) == (
        "mqttc-export", 1, "a@127.0.0.1", 2)
    assert (end["type"], end["sessions"], end["messages"],
            end["subscriptions"], end["retained"], end["lines"]) == (
        "end", 1, 6, 3, 2, len(dump.splitlines()) - 1)
    assert [(m["state"], m["offset"]) for m in of_type(dump, "message")] == [
        ("sent", 0), ("received", 1), ("sent", 2), ("waits", 3),
        ("waits", 4), ("waits", 5)]
    ctl(b, "import", data=dump)
    assert contents(export(b)) == contents(dump)
    watch = b.client("watch", on=1)
    watch.subscribe("in/#", qos=2)
    d = lasting(b, "d", on=1)
    assert d.connack.session_present
    got = [d.read_packet() for _ in range(6)]
    assert [p.pid for p in got[:3]] == [p.pid for p in first]
    assert (got[0].topic, got[0].payload, got[0].qos, got[0].dup) == (
        "q/1", b"\x00\xff", 1, True)
    assert got[1].kind == wire.PUBREL
    assert got[2].payload == b"three" and got[2].dup
    assert got[3].props.pop("subscription_identifier") == [7]
    assert got[3].topic == "q/4" and got[3].props == props
    assert not got[3].dup
    assert got[4].payload == BIG and got[4].qos == 2
    assert 0 < got[5].props["message_expiry_interval"] <= 500
    # The identifier of its own QoS 2 is known: no second delivery.
    d.send_publish("in/x", b"once", qos=2, pid=77, dup=True)
    d.wait_ack(wire.PUBREC, 77)
    d.send_raw_ack(wire.PUBREL, 77)
    d.wait_ack(wire.PUBCOMP, 77)
    watch.expect_nothing()
    # Its subscriptions are alive.
    pub = b.client("pub")
    pub.publish("q/new", b"new", qos=1)
    p = d.read_publish()
    assert p.topic == "q/new"
    assert p.props["subscription_identifier"] == [7]
    pub.publish("s", b"shared", qos=1)
    assert d.read_publish().payload == b"shared"
    row, *subs = b.tool_json("mqttc-clients", "show", "d")
    assert {"n", "q/#", "$share/g/s"} == {s["filter"] for s in subs}
    r = b.client("r")
    r.subscribe("r/#", qos=2)
    kept = {p.topic: p for p in r.read_publishes(2)}
    assert kept["r/1"].payload == b"\xfekept" and kept["r/1"].qos == 2
    assert kept["r/1"].props == props
    assert kept["r/big"].payload == BIG
    assert 0 < kept["r/big"].props["message_expiry_interval"] <= 500


def test_twice_is_once(make_node):
    a, b = two_nodes(make_node, (1, 2))
    for i in range(5):
        d = lasting(a, "d%d" % i)
        d.subscribe("q/#", qos=1)
        leave(a, d, "d%d" % i)
    pub = a.client()
    pub.publish("q/x", b"1", qos=1)
    pub.publish("r", b"old", qos=1, retain=True)
    pub.publish("r2", b"old", qos=1, retain=True)
    dump = export(a)
    ctl(b, "import", data=dump)
    done = ctl(b, "import", data=dump)
    assert "imported 0 sessions" in done.stderr
    assert "5 sessions left alone" in done.stderr
    assert "2 retained messages left alone" in done.stderr
    assert contents(export(b)) == contents(dump)
    # What is newer, or there, stays.
    b.client().publish("r", b"newer", qos=1, retain=True)
    d = lasting(b, "d0")
    d.complete(d.read_publish())
    d.subscribe("more", qos=1)
    ctl(b, "import", data=dump)
    d.expect_nothing()
    now = export(b)
    assert [s["filter"] for s in of_type(now, "subscription")
            if s["client_id"] == "d0"].count("more") == 1
    assert {r["topic"]: r["payload"] for r in of_type(now, "retained")}[
        "r"] == "bmV3ZXI="
    # Unless it is to give way.
    done = ctl(b, "import", "--replace", data=dump)
    assert "imported 5 sessions with 5 messages" in done.stderr
    d.expect_disconnect(0x98)
    now = export(b)
    assert {r["topic"]: r["payload"] for r in of_type(now, "retained")}[
        "r"] == "b2xk"
    d = lasting(b, "d0")
    assert d.connack.session_present
    assert d.read_publish().payload == b"1"


def test_it_outlives_the_stores(make_node):
    a, b = two_nodes(make_node, (1, 2))
    d = lasting(a, "d")
    d.subscribe("q", qos=2)
    leave(a, d, "d")
    pub = a.client()
    for i in range(20):
        pub.publish("q", b"%d" % i, qos=1 + i % 2)
    pub.publish("r", b"kept", qos=1, retain=True)
    dump = export(a)
    ctl(b, "import", data=dump)
    for name in ("session_store.0", "session_store.1"):
        pid = b.kill(name)
        b.wait_ready(name, not_pid=pid)
    assert contents(export(b)) == contents(dump)
    d = lasting(b, "d")
    assert [p.payload for p in d.read_publishes(20)] == [
        b"%d" % i for i in range(20)]


def publish_all(client, messages, **opts):
    """QoS 1, with a window of what the broker takes."""
    for i in range(0, len(messages), 50):
        pids = [client.send_publish(topic, payload, qos=1, **opts)
                for topic, payload in messages[i:i + 50]]
        for pid in pids:
            client.wait_ack(wire.PUBACK, pid)


def test_many_in_pages(make_node):
    a, b = two_nodes(make_node, (2, 3),
                     **{"mqtt.max_offline_queue_len": "5000"})
    for i in range(150):
        d = lasting(a, "d%d" % i, on=i % 2)
        d.subscribe(["own/%d" % i, "all/#"], qos=1)
        d.close()
    a.wait(lambda s: len(offline(a)) == 150)
    pub = a.client()
    publish_all(pub, [("all/%d" % i, b"x" * 2000) for i in range(30)])
    # One session longer than a page.
    publish_all(pub, [("own/7", b"%04d" % i + b"y" * 1000)
                      for i in range(1500)])
    publish_all(pub, [("r/%d" % i, b"z" * 500) for i in range(2000)],
                retain=True)
    before = a.metric("store_queries_total")
    dump = export(a)
    assert a.metric("store_queries_total") - before > 10
    end = parsed(dump)[-1]
    assert (end["sessions"], end["messages"], end["retained"]) == (
        150, 150 * 30 + 1500, 2000)
    path = os.path.join(a.dir, "dump")
    with open(path, "wb") as f:
        f.write(dump)
    done = ctl(b, "import", path=path)
    assert "imported 150 sessions with 6000 messages" in done.stderr
    assert contents(export(b)) == contents(dump)
    assert b.metric("store_imported_total") > 8000
    assert a.metric("store_exported_total") > 8000
    assert len(of_type(export(a, "sessions"), "retained")) == 0
    assert len(of_type(export(a, "retained"), "session")) == 0
    assert len(of_type(export(a, "retained"), "retained")) == 2000


def small_dump(make_node):
    a, b = two_nodes(make_node, (1, 1))
    for name in ("d0", "d1"):
        d = lasting(a, name)
        d.subscribe("q", qos=1)
        leave(a, d, name)
    a.client().publish("q", b"1", qos=1)
    return b, export(a)


def test_damage_is_refused(make_node):
    b, dump = small_dump(make_node)
    lines = dump.splitlines(True)
    path = os.path.join(b.dir, "dump")

    def refused(data, number, *words):
        """From a file: nothing is changed."""
        with open(path, "wb") as f:
            f.write(data)
        done = ctl(b, "import", path=path, check=False)
        assert done.returncode == os.EX_DATAERR
        assert "line %d: " % number in done.stderr
        for w in words:
            assert w in done.stderr
        assert "nothing was taken in" in done.stderr
        assert parsed(export(b))[-1]["lines"] == 1

    refused(b"", 1, "it is empty")
    refused(b"".join(lines[:-1]), len(lines), "cut short")
    refused(dump[:len(dump) // 2], dump[:len(dump) // 2].count(b"\n") + 1,
            "no JSON object")
    refused(b"".join(lines[1:]), 1, "should be of type mqttc-export")
    refused(dump + lines[1], len(lines) + 1, "nothing should follow")
    without = [x for x in lines if b'"message"' not in x]
    refused(b"".join(without), 4, "lines are missing")
    refused(dump.replace(b'"qos":1', b'"qos":9', 1), 3, "'qos' should be")
    refused(dump.replace(b'"format":1', b'"format":2'), 1, "newer than")
    refused(dump.replace(b'"connected"', b'"\\u001b[31m"', 1), 2)
    refused(b"\x1b[31m" + dump, 1)
    # Through a pipe what came before is there; half a session is not.
    at = [i for i, x in enumerate(lines) if b'"session"' in x]
    done = ctl(b, "import", check=False,
               data=b"".join(lines[:at[1] + 2]) + b"{\n")
    assert done.returncode == os.EX_DATAERR
    assert "line %d: " % (at[1] + 3) in done.stderr
    assert "what came before it is taken in" in done.stderr
    assert len(offline(b)) == 1
    assert {r["client_id"] for r in of_type(export(b), "session")} == {
        parsed(dump)[at[0]]["client_id"]}
    ctl(b, "import", data=dump)
    assert offline(b) == {"d0", "d1"}
    assert contents(export(b)) == contents(dump)


def test_what_had_expired(make_node):
    b, dump = small_dump(make_node)
    old = []
    for r in parsed(dump):
        if r["type"] == "session" and r["client_id"] == "d0":
            r["at_ms"] -= 2000 * 1000
        if r["type"] == "message":
            r["expires_ms"] = 1000
        old.append(json.dumps(r).encode())
    done = ctl(b, "import", data=b"\n".join(old))
    assert "imported 1 sessions with 0 messages" in done.stderr
    assert "had expired" in done.stderr
    assert offline(b) == {"d1"}


def test_a_session_whose_end_is_missing(make_node):
    """It ended while it was exported: that is no damage."""
    b, dump = small_dump(make_node)
    lines = [r for r in parsed(dump)
             if (r["type"], r.get("client_id")) != ("session_end", "d0")]
    lines[-1]["lines"] -= 1
    done = ctl(b, "import",
               data=b"".join(json.dumps(r).encode() + b"\n" for r in lines))
    assert "imported 1 sessions" in done.stderr
    assert "1 sessions without an end were given up" in done.stderr
    assert offline(b) == {"d1"}


class HalfImport:
    """An import that has told a session and not its end."""

    def __init__(self, node, dump):
        lines = dump.splitlines(True)
        at = [i for i, x in enumerate(lines) if b'"message"' in x][-1]
        self.tool = subprocess.Popen(
            [mqttc.program("mqttc-ctl"), *node.arguments(), "import"],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, env=node.environment(), cwd=node.dir,
            preexec_fn=mqttc.die_with_parent)
        self.tool.stdin.write(b"".join(lines[:at]))
        self.tool.stdin.flush()
        node.wait(lambda s: state_of(node, "d") == "importing")


def state_of(node, name):
    return {r["client_id"]: r["state"] for r in node.tool_json(
        "mqttc-clients", "list")}.get(name)


def test_an_import_that_is_killed(make_node):
    """Half a session never passes for a whole one."""
    a, b = two_nodes(make_node, (1, 1))
    d = lasting(a, "d")
    d.subscribe("q", qos=1)
    leave(a, d, "d")
    publish_all(a.client(), [("q", b"x" * 3000) for _ in range(100)])
    dump = export(a)
    half = HalfImport(b, dump)
    half.tool.kill()
    half.tool.wait()
    assert state_of(b, "d") == "importing"
    assert of_type(export(b), "session") == []
    pid = b.kill("session_store.0")
    b.wait_ready("session_store.0", not_pid=pid)
    assert state_of(b, "d") == "importing"
    done = ctl(b, "import", data=dump)
    assert "imported 1 sessions with 100 messages" in done.stderr
    assert "1 sessions without an end were given up" in done.stderr
    assert contents(export(b)) == contents(dump)
    # A client that comes meanwhile is not told that all is there.
    b.tool("mqttc-clients", "expire", "d")
    half = HalfImport(b, dump)
    d = lasting(b, "d")
    assert not d.connack.session_present
    _, said = half.tool.communicate(b"".join(dump.splitlines(True)[-4:]),
                                    timeout=60)
    assert half.tool.returncode == 0
    assert b"imported 0 sessions" in said
    assert b"1 sessions given up: their clients came" in said
    d.expect_nothing()
    assert state_of(b, "d") == "connected"


def test_limits(make_node):
    b, dump = small_dump(make_node)
    c = make_node(listeners=1, options={"session.max": "1"})
    done = ctl(c, "import", data=dump, check=False)
    assert done.returncode == 73 and "session.max is reached" in done.stderr
    assert "session_store.0 does not take it" in done.stderr
    assert len(offline(c)) <= 1


def test_all_stores_are_needed(make_node):
    node = make_node(listeners=1, options={"session_store.processes": "2"})
    os.kill(node.pid("session_store.1"), 19)
    try:
        done = subprocess.Popen(
            [mqttc.program("mqttc-ctl"), *node.arguments(), "export"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=node.environment(), cwd=node.dir)
    finally:
        os.kill(node.pid("session_store.1"), 18)
    out, _ = done.communicate(timeout=60)
    assert done.returncode == 0                 # it was merely late
    assert b'"end"' in out
    for args in (("export", "what"), ("export", "all", "x"), ("import", "x"),
                 ("--replace", "export")):
        done = ctl(node, *args, check=False)
        assert done.returncode == os.EX_USAGE, args
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [mqttc.program("mqttc-ctl"), *node.arguments(), "export"],
            stdout=full, stderr=subprocess.PIPE, env=node.environment(),
            cwd=node.dir, timeout=60)
    assert done.returncode == os.EX_IOERR
