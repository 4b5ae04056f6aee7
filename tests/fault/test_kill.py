"""kill -9 and SIGSTOP of each kind of process under load. What README
promises: no acknowledged QoS 1 or 2 message is lost to a session that
survives, none of QoS 2 is delivered twice, clients of other processes stay
connected."""

import os
import random
import signal
import time

import pytest

from support import wire
from support.load import Load


@pytest.fixture
def three(make_node):
    return make_node(listeners=3)


def everywhere(load, mortal=frozenset()):
    """Each QoS, from every listener to every listener; clients of the mortal
    ones may go down with them."""
    for qos in (0, 1, 2):
        for i in range(3):
            load.pair("q%dl%d" % (qos, i), qos, i, [0, 1, 2],
                      mortal_pub=i in mortal, mortal_sub=set(mortal))


# --- The router -------------------------------------------------------------

def test_router_killed_under_load(three, topic):
    load = Load(three, topic)
    everywhere(load)
    with load:
        for _ in range(5):
            pid = three.kill("router")
            load.progress()                     # at once, router or not
            three.wait_ready("router", not_pid=pid)
            load.progress()
    load.check()


def test_forwarding_without_a_router(three, topic):
    """Stopped, so that it certainly does nothing: messages still cross."""
    subs = [three.client(on=i) for i in range(3)]
    for s in subs:
        s.subscribe(topic, qos=2)
    pub = three.client(on=0)
    pid = three.kill("router", signal.SIGSTOP)
    try:
        for i in range(50):
            pub.publish(topic, b"%d" % i, qos=i % 3)
        for s in subs:
            for i in range(50):
                p = s.read_publish()
                assert p.payload == b"%d" % i
                s.complete(p)
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_subscription_without_a_router(make_node, topic, how):
    """Works on its own listener at once, elsewhere when the router is back."""
    node = make_node(listeners=2)
    sub, here, there = (node.client(on=1), node.client(on=1),
                        node.client(on=0))
    pid = node.kill("router", how)
    try:
        sub.subscribe(topic, qos=1)     # after cluster.suback_timeout at most
        here.publish(topic, b"here", qos=1)
        p = sub.read_publish()
        assert p.payload == b"here"
        sub.puback(p.pid)
    finally:
        if how == signal.SIGSTOP:
            os.kill(pid, signal.SIGCONT)
    node.wait_ready("router", not_pid=pid if how == signal.SIGKILL else None)
    end = time.monotonic() + 20
    n = 0
    while True:
        there.publish(topic, b"there %d" % n, qos=1)
        n += 1
        got = [p for p in sub.fence() if p.kind == wire.PUBLISH]
        if got:
            break
        assert time.monotonic() < end, "never reached from the other side"
        time.sleep(0.02)
    # From then on nothing is missed.
    for i in range(50):
        there.publish(topic, b"%d" % i, qos=1)
    want = [b"%d" % i for i in range(50)]
    have = [p.payload for p in got]
    for p in got:
        sub.puback(p.pid)
    while have[-50:] != want:
        p = sub.read_publish()
        sub.puback(p.pid)
        have.append(p.payload)


def test_flood_of_subscriptions_without_a_router(make_node, topic):
    """Who has much unanswered is not read; all is answered in the end."""
    node = make_node(listeners=2, options={"cluster.suback_timeout": "8s"})
    sub = node.client(on=1)
    pid = node.kill("router", signal.SIGSTOP)
    try:
        sub.send_bytes(b"".join(
            wire.subscribe_packet(sub.version, i, [("%s/%d" % (topic, i), 1)])
            for i in range(1, 5001)))
        node.wait_metric("publishers_parked_total", lambda v: v > 0)
    finally:
        os.kill(pid, signal.SIGCONT)
    for i in range(1, 5001):
        sub.expect(wire.SUBACK, i)


@pytest.mark.parametrize("bound", ["64KB", "64MB"])
def test_large_snapshot_for_a_new_router(make_node, topic, bound):
    """Of more than one frame, and of more than a stream keeps."""
    node = make_node(listeners=2, options={"bus.credit": "64KB",
                                           "bus.stream_max": bound})
    sub, pub = node.client(on=1), node.client(on=0)
    names = ["%s/%d/%s" % (topic, i, "z" * (i % 90)) for i in range(9000)]
    for i in range(0, len(names), 500):
        sub.subscribe(names[i:i + 500], qos=1)
    pid = node.kill("router")
    node.wait_ready("router", not_pid=pid)
    for name in names[::300]:
        assert pub.publish(name, qos=1) == 0
        sub.complete(sub.read_publish())


def test_unsubscribed_and_gone_while_the_router_is_away(make_node, topic):
    """Routes of those who left meanwhile are gone when it is back."""
    node = make_node(listeners=2)
    names = ["%s/%d" % (topic, i) for i in range(100)]
    keeps, goes = node.client(on=1), node.client(on=1)
    keeps.subscribe(names[:50])
    goes.subscribe(names[50:])
    pid = node.kill("router")
    goes.close()
    keeps.unsubscribe(names[:25])
    node.wait_ready("router", not_pid=pid)

    def listed():
        return {row.get("topic") or row.get("filter")
                for row in node.tool_json("mqttc-route", "list")}

    end = time.monotonic() + 20
    while {n for n in listed() if n.startswith(topic)} != set(names[25:50]):
        assert time.monotonic() < end, sorted(listed())
        time.sleep(0.05)


def test_router_killed_while_subscriptions_change(make_node, topic):
    """Subscribers come and go while the router dies again and again; those
    that were answered are served once it is back."""
    node = make_node(listeners=2)
    subs = [node.client(on=i % 2) for i in range(10)]
    n = 0
    for _ in range(5):
        pid = node.kill("router")
        for s in subs:
            s.subscribe("%s/%d" % (topic, n), qos=1)
            n += 1
        node.wait_ready("router", not_pid=pid)
    pub = node.client(on=0)
    mark = node.client(on=1)
    end = time.monotonic() + 20
    missing = set(range(n))
    while missing:
        for i in sorted(missing):
            pub.publish("%s/%d" % (topic, i), b"%d" % i, qos=1)
        for s in subs:
            for p in s.fence():
                if p.kind == wire.PUBLISH:
                    s.puback(p.pid)
                    missing.discard(int(p.payload))
        assert time.monotonic() < end, missing
    mark.expect_nothing()


# --- A listener -------------------------------------------------------------

def test_listener_killed_under_load(three, topic):
    load = Load(three, topic)
    everywhere(load, mortal={1})
    with load:
        pid = three.kill("listener.1")
        load.progress()
        three.wait_ready("listener.1", not_pid=pid)
        load.progress()
        # It serves again, both ways.
        sub = three.client(on=1)
        sub.subscribe(topic + "/back", qos=1)
        three.client(on=0).publish(topic + "/back", b"x", qos=1)
        assert sub.read_publish().payload == b"x"
        c = three.client(on=1)
        far = three.client(on=2)
        far.subscribe(topic + "/far", qos=2)
        c.publish(topic + "/far", b"y", qos=2)
        assert far.read_publish().payload == b"y"
    load.check()


def test_listener_killed_again_and_again(three, topic):
    """Between two that stay: nothing that passes beside it is touched."""
    load = Load(three, topic)
    for qos in (0, 1, 2):
        load.pair("a%d" % qos, qos, 0, [0, 2])
        load.pair("b%d" % qos, qos, 2, [0, 2])
    with load:
        for _ in range(5):
            # Someone there to send to, so that streams are open.
            s = three.client(on=1)
            s.subscribe(topic + "/#", qos=2)
            pid = three.kill("listener.1")
            load.progress()
            three.wait_ready("listener.1", not_pid=pid)
    load.check()


def test_publishers_are_answered_when_a_subscriber_dies_with_its_listener(
        make_node, topic):
    """What a dead listener had not acknowledged counts as taken."""
    node = make_node(listeners=2)
    sub = node.client(on=1)
    sub.subscribe(topic, qos=2)
    pub = node.client(on=0)
    pid = node.kill("listener.1", signal.SIGSTOP)
    for i in range(1, 11):
        pub.send_publish(topic, b"%d" % i, 1 + i % 2, i)
    pub.expect_nothing()
    node.expected_gone.add(pid)
    os.kill(pid, signal.SIGKILL)
    kinds = [pub.read_packet() for _ in range(10)]
    assert [p.pid for p in kinds] == list(range(1, 11))
    node.wait_ready("listener.1", not_pid=pid)


def test_wills_of_others_when_a_listener_dies(make_node, topic):
    """The rest serve on; clients may come back to the same id at once."""
    node = make_node(listeners=2)
    watch = node.client(on=0)
    watch.subscribe(topic)
    c = node.client("comes back", on=1)
    pid = node.kill("listener.1")
    c.drain()
    again = node.client("comes back", on=0)
    again.expect_nothing()
    node.wait_ready("listener.1", not_pid=pid)
    third = node.client("comes back", on=1)
    again.expect_disconnect(wire.SESSION_TAKEN_OVER)
    third.expect_nothing()


def test_stopped_listener_goes_on_where_it_was(three, topic):
    """SIGSTOP for a while, below the hang timeout: nobody is cut off and
    nothing is lost; what waits for it waits, the rest flows."""
    load = Load(three, topic)
    for qos in (1, 2):
        load.pair("t%d" % qos, qos, 0, [1, 2])
    with load:
        beside = Load(three, topic + "/beside")
        for qos in (0, 1, 2):
            beside.pair("s%d" % qos, qos, 0, [0, 2])
        with beside:
            pid = three.kill("listener.1", signal.SIGSTOP)
            try:
                beside.progress(200)
            finally:
                os.kill(pid, signal.SIGCONT)
        load.progress()
        beside.check()
    load.check()


@pytest.mark.parametrize("version", [wire.V31, wire.V311])
def test_publishers_of_a_stopped_listener_wait(make_node, topic, version):
    """3.x publishers without credit wait for it, whatever credit others get
    meanwhile, and lose nothing."""
    node = make_node(listeners=3, options={"bus.credit": "64KB",
                                           "bus.stream_max": "512KB"})
    subs = [node.client(on=i, auto=True) for i in (1, 2)]
    for i, s in enumerate(subs):
        s.subscribe("%s/%d" % (topic, i), qos=1)
    n, body = 40, b"z" * 20000
    pubs = [node.client(on=0, version=version) for _ in range(4)]
    busy = node.client(on=0, version=version)
    pid = node.kill("listener.1", signal.SIGSTOP)
    try:
        for p in pubs:
            p.sock.setblocking(False)
            p.rest = b"".join(wire.publish_packet(version, topic + "/0", body,
                                                  1, i + 1) for i in range(n))
            p.rest = p.rest[p.sock.send(p.rest):]
        for k in range(50):                 # 10 MB, 64 KB of credit at a time
            for i in range(10):
                busy.send_publish(topic + "/1", body, qos=1, pid=i + 1)
            for i in range(10):
                busy.expect(wire.PUBACK, i + 1)
                subs[1].read_publish()
    finally:
        os.kill(pid, signal.SIGCONT)
    for p in pubs:
        p.send_bytes(p.rest)
    for _ in range(4 * n):
        subs[0].read_publish()
    for p in pubs:
        for i in range(n):
            p.expect(wire.PUBACK, i + 1)


def test_publishers_without_a_window_get_their_share(make_node, topic):
    """5.0 publishers that keep a stream out of credit all the time do not
    shut out those of 3.x."""
    node = make_node(listeners=3, options={"bus.credit": "64KB"})
    load = Load(node, topic)
    for i in range(4):
        load.pair("v5.%d" % i, 1, 0, [1, 2], window=30, size=60000)
    for qos in (1, 2):
        load.pair("v3.%d" % qos, qos, 0, [1, 2], version=wire.V311)
    with load:
        load.progress(20)
    load.check()


def test_stopped_listener_is_replaced(make_node, topic):
    """Silent for supervise.hang_timeout: killed, replaced, others unharmed."""
    node = make_node(listeners=3, options={"supervise.hang_timeout": "1s"})
    load = Load(node, topic)
    everywhere(load, mortal={1})
    with load:
        pid = node.kill("listener.1", signal.SIGSTOP)
        node.expected_gone.add(pid)
        node.wait_ready("listener.1", not_pid=pid)
        load.progress()
    load.check()


def test_stopped_router_is_replaced(make_node, topic):
    node = make_node(listeners=3, options={"supervise.hang_timeout": "1s"})
    load = Load(node, topic)
    everywhere(load)
    with load:
        pid = node.kill("router", signal.SIGSTOP)
        node.expected_gone.add(pid)
        load.progress()
        node.wait_ready("router", not_pid=pid)
        load.progress()
    load.check()


def test_subscribing_while_a_listener_is_stopped(three, topic):
    """A new generation or route waits for no reader longer than it must."""
    pid = three.kill("listener.1", signal.SIGSTOP)
    try:
        sub, pub = three.client(on=2), three.client(on=0)
        for i in range(5):
            sub.subscribe("%s/%d" % (topic, i), qos=1)
            pub.publish("%s/%d" % (topic, i), b"x", qos=1)
            p = sub.read_publish()
            sub.puback(p.pid)
    finally:
        os.kill(pid, signal.SIGCONT)


# --- Anything, in any order -------------------------------------------------

def test_random_kills(three, topic):
    rng = random.Random(20)
    load = Load(three, topic)
    for qos in (0, 1, 2):
        load.pair("a%d" % qos, qos, 0, [0, 2])
        load.pair("b%d" % qos, qos, 2, [0, 1, 2], mortal_sub={1})
    with load:
        for _ in range(8):
            names = rng.choice([["router"], ["listener.1"],
                                ["router", "listener.1"],
                                ["listener.1", "router"]])
            pids = {name: three.kill(name) for name in names}
            load.progress(rng.choice([1, 5, 50]))
            for name, pid in pids.items():
                three.wait_ready(name, not_pid=pid)
    load.check()


def test_everything_but_the_supervisor(make_node, topic):
    """All of it dies at once and is back, empty but whole."""
    node = make_node(listeners=2)
    cs = [node.client("c%d" % i, on=i) for i in range(2)]
    before = node.status()
    for name in ("router", "listener.0", "listener.1"):
        node.expected_gone.add(before[name]["pid"])
        os.kill(before[name]["pid"], signal.SIGKILL)
    for c in cs:
        c.drain()
    for name in ("router", "listener.0", "listener.1"):
        node.wait_ready(name, not_pid=before[name]["pid"])
    a, b = node.client("c0", on=0), node.client("c1", on=1)
    a.subscribe(topic, qos=2)
    b.publish(topic, b"x", qos=2)
    assert a.read_publish().payload == b"x"


def test_listener_killed_under_large_messages(three, topic):
    """Half a megabyte a message, so that frames are cut in the middle."""
    load = Load(three, topic)
    for qos in (1, 2):
        load.pair("l%d" % qos, qos, 0, [0, 1, 2], mortal_sub={1},
                  size=500000, window=3)
    load.pair("back", 1, 1, [0, 2], mortal_pub=True, size=500000, window=3)
    with load:
        for _ in range(3):
            pid = three.kill("listener.1")
            load.progress(5)
            three.wait_ready("listener.1", not_pid=pid)
            s = three.client(on=1)
            s.subscribe(topic + "/#", qos=2)
    load.check()


def test_listener_restarted_under_load(three, topic):
    """Asked for, it drains: its clients are told (0x8B), their wills go out,
    the rest loses nothing."""
    load = Load(three, topic)
    everywhere(load, mortal={1})
    watch = three.client("watch", on=2)
    watch.subscribe(topic + "/will", qos=1)
    c = three.client("told", on=1, will={"topic": topic + "/will", "qos": 1,
                                         "payload": b"bye"})
    with load:
        pid = three.pid("listener.1")
        three.expected_gone.add(pid)
        three.tool("mqttc-ctl", "restart", "listener.1")
        got = c.drain()
        assert [(p.kind, p.reason) for p in got] == [(wire.DISCONNECT, 0x8b)]
        assert watch.read_publish().payload == b"bye"
        three.wait_ready("listener.1", not_pid=pid)
        load.progress()
    load.check()


def test_router_restarted_under_load(three, topic):
    load = Load(three, topic)
    everywhere(load)
    with load:
        for _ in range(3):
            pid = three.pid("router")
            three.expected_gone.add(pid)
            three.tool("mqttc-ctl", "restart", "router")
            three.wait_ready("router", not_pid=pid)
            load.progress()
    load.check()


def test_stop_under_load(make_node, topic):
    """SIGTERM: everybody is told (0x8B), the exit is clean."""
    node = make_node(listeners=3)
    load = Load(node, topic)
    everywhere(load, mortal={0, 1, 2})
    watch = node.client("watch", on=0)
    with load:
        node.proc.send_signal(signal.SIGTERM)
        got = watch.drain()
        assert [p.kind for p in got] == [wire.DISCONNECT]
        assert got[0].reason == 0x8b
    assert load.errors() == []


def next_supervisor(node):
    """The supervisor was killed; start another on the same node."""
    node.reader.join()
    node.proc.stdout.close()
    node.start_once()


@pytest.mark.parametrize("name", ["router", "listener.1"])
def test_death_while_the_supervisor_is_away(three, topic, name):
    """Nobody restarts it then; the next supervisor does, and whoever waited
    for it goes on."""
    load = Load(three, topic)
    for qos in (0, 1, 2):
        load.pair("a%d" % qos, qos, 0, [0, 2])
        load.pair("b%d" % qos, qos, 2, [0])
    sub = three.client(on=1)
    sub.subscribe(topic + "/there", qos=1)
    pub = three.client(on=0)
    before = three.status()
    with load:
        three.proc.kill()
        three.proc.wait()
        three.expected_gone.add(before[name]["pid"])
        os.kill(before[name]["pid"], signal.SIGKILL)
        load.progress()
        pub.send_publish(topic + "/there", b"x", 1, 1)
        next_supervisor(three)
        pub.expect(wire.PUBACK, 1)
        three.wait_ready(name, not_pid=before[name]["pid"])
        load.progress()
        if name == "router":
            p = sub.read_publish()
            assert p.payload == b"x"
            late = three.client(on=2)
            late.subscribe(topic + "/there", qos=1)
            pub.publish(topic + "/there", b"y", qos=1)
            assert late.read_publish().payload == b"y"
    load.check()


def test_supervisor_killed(make_node, topic):
    """Nobody notices; the next one takes the node over."""
    node = make_node(listeners=3)
    load = Load(node, topic)
    everywhere(load)
    before = node.status()
    with load:
        node.proc.kill()
        node.proc.wait()
        load.progress()
        next_supervisor(node)
        after = node.wait(lambda s: all(s[n]["state"] == "ready"
                                        for n in before))
        load.progress()
    load.check()
    for name in before:
        if name != "supervise":
            assert after[name]["pid"] == before[name]["pid"]


# --- Shared subscriptions -----------------------------------------------------

@pytest.mark.parametrize("qos", [1, 2])
def test_members_on_a_listener_that_dies(three, topic, qos):
    """What it had not taken goes to members elsewhere, unless it may have been
    sent with QoS 2; every publisher is answered."""
    members = [three.client(on=i, auto=True) for i in (0, 1, 2)]
    for m in members:
        m.subscribe("$share/g/" + topic, qos=qos)
    pub = three.client(on=0)
    pid = three.kill("listener.1", signal.SIGSTOP)
    try:
        for i in range(60):
            pub.send_publish(topic, b"%d" % i, qos=qos, pid=i + 1)
        early = pub.fence()
    finally:
        os.kill(pid, signal.SIGKILL)
    answered = [p.pid for p in early
                if p.kind in (wire.PUBACK, wire.PUBREC)]
    for i in range(60 - len(answered)):
        pub.expect(wire.PUBACK if qos == 1 else wire.PUBREC)
    want = 60 if qos == 1 else 40
    seen = []
    while len(seen) < want:
        for m in (members[0], members[2]):
            seen += [int(p.payload) for p in m.fence()
                     if p.kind == wire.PUBLISH]
    assert len(set(seen)) == len(seen) == want
    three.wait_ready("listener.1", not_pid=pid)
    for m in (members[0], members[2]):
        assert not [p for p in m.fence() if p.kind == wire.PUBLISH]


def test_full_stream_to_one_member(make_node, topic):
    """What a member leaves behind goes to one who can be reached, when the
    stream to another is full."""
    node = make_node(listeners=3, options={"bus.credit": "64KB",
                                           "bus.stream_max": "64KB"})
    lazy = node.client(on=0)
    lazy.subscribe("$share/g/" + topic, qos=1)
    pub = node.client(on=0)
    for i in range(10):
        pub.publish(topic, b"%02d" % i + b"x" * 5000, qos=1)
    assert len(lazy.read_publishes(10)) == 10
    there, busy = [node.client(on=i, auto=True) for i in (1, 2)]
    for c in (there, busy):
        c.subscribe("$share/g/" + topic, qos=1)
    there.subscribe(topic + "/full", qos=1)
    flood = node.client(on=0)
    pid = node.kill("listener.1", signal.SIGSTOP)
    for i in range(40):
        flood.send_publish(topic + "/full", b"x" * 4000, qos=1, pid=i + 1)
    flood.fence()
    assert node.metric("dropped_stream_full_total", "listener.0") > 0
    lazy.reset()        # 5000 bytes do not fit where 4000 did not
    got = [p.payload[:2] for p in busy.read_publishes(10)]
    os.kill(pid, signal.SIGKILL)
    assert sorted(got) == [b"%02d" % i for i in range(10)]
