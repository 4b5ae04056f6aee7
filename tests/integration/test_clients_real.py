"""Clients that people use: mosquitto_pub and mosquitto_sub, Paho, MQTT.js.
What is not installed is skipped by name."""

import json
import os
import queue
import shutil
import subprocess
import threading

import pytest

from support import mqttc, wire

WAIT_S = 30

mosquitto = pytest.mark.skipif(
    not (shutil.which("mosquitto_pub") and shutil.which("mosquitto_sub")),
    reason="mosquitto-clients is not installed")

try:
    import paho.mqtt.client as paho
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties
except ImportError:
    paho = None

needs_paho = pytest.mark.skipif(paho is None,
                                reason="python3-paho-mqtt is not installed")

NODE_PATH = os.environ.get("NODE_PATH") or os.path.join(
    mqttc.TOP, "build", "npm", "node_modules")
needs_mqttjs = pytest.mark.skipif(
    not (shutil.which("node")
         and os.path.isdir(os.path.join(NODE_PATH, "mqtt"))),
    reason="MQTT.js is not installed in build/npm")


# --- mosquitto_pub, mosquitto_sub -------------------------------------------

class Sub:
    """mosquitto_sub, started and subscribed; lines() ends with it."""

    def __init__(self, addr, *args):
        self.proc = subprocess.Popen(
            ["stdbuf", "-oL", "mosquitto_sub", "-d", "-h", addr[0],
             "-p", str(addr[1])] + list(args),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True)
        self.out = []
        for line in self.proc.stdout:
            self.out.append(line)
            if line.startswith("Subscribed"):
                break
        else:
            raise AssertionError("never subscribed: " + "".join(self.out))

    def lines(self):
        try:
            rest, _ = self.proc.communicate(timeout=WAIT_S)
        finally:
            self.proc.kill()
        assert self.proc.returncode == 0, rest
        return [line for line in rest.splitlines()
                if line.startswith("> ")]


def pub(addr, *args):
    done = subprocess.run(
        ["mosquitto_pub", "-h", addr[0], "-p", str(addr[1])] + list(args),
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=WAIT_S)
    assert done.returncode == 0, done.stdout + done.stderr


@mosquitto
@pytest.mark.parametrize("version", ["mqttv31", "mqttv311", "mqttv5"])
@pytest.mark.parametrize("qos", ["0", "1", "2"])
def test_mosquitto_pub_to_sub_across(node, topic, version, qos):
    sub = Sub(node.addr(1), "-V", version, "-t", topic + "/+", "-q", qos,
              "-C", "3", "-F", "> %t %q %p")
    for i in range(3):
        pub(node.addr(0), "-V", version, "-t", "%s/%d" % (topic, i),
            "-m", "hello %d" % i, "-q", qos)
    assert sub.lines() == ["> %s/%d %s hello %d" % (topic, i, qos, i)
                           for i in range(3)]


@mosquitto
def test_mosquitto_lines_and_files(node, topic, tmp_path):
    """-l sends a line each over one connection; -f a file."""
    sub = Sub(node.addr("external"), "-t", topic, "-q", "2", "-C", "500",
              "-F", "> %p")
    subprocess.run(
        ["mosquitto_pub", "-h", node.addr(0)[0], "-p", str(node.addr(0)[1]),
         "-t", topic, "-q", "2", "-l"], timeout=WAIT_S, check=True,
        input="".join("line %d\n" % i for i in range(500)), text=True)
    assert sub.lines() == ["> line %d" % i for i in range(500)]
    blob = tmp_path / "blob"
    blob.write_bytes(b"x" * 300000)
    sub = Sub(node.addr(1), "-t", topic, "-q", "1", "-C", "1", "-F", "> %l")
    pub(node.addr(0), "-t", topic, "-q", "1", "-f", str(blob))
    assert sub.lines() == ["> 300000"]


@mosquitto
def test_mosquitto_properties(node, topic):
    sub = Sub(node.addr(1), "-V", "mqttv5", "-t", topic, "-C", "1",
              "-F", "> %C %R %D %P %p")
    pub(node.addr(0), "-V", "mqttv5", "-t", topic, "-m", "x",
        "-D", "PUBLISH", "content-type", "text/plain",
        "-D", "PUBLISH", "response-topic", "back",
        "-D", "PUBLISH", "correlation-data", "id7",
        "-D", "PUBLISH", "user-property", "k", "v")
    assert sub.lines() == ["> text/plain back id7 k:v x"]


@mosquitto
def test_mosquitto_will(node, topic):
    sub = Sub(node.addr(0), "-t", topic, "-C", "1", "-F", "> %p")
    dies = Sub(node.addr(1), "-t", "nothing", "--will-topic", topic,
               "--will-payload", "gone")
    dies.proc.kill()
    dies.proc.communicate()
    assert sub.lines() == ["> gone"]


# --- Paho -------------------------------------------------------------------

class Paho:
    """A connected Paho client; messages in .got."""

    def __init__(self, addr, version, **opts):
        self.client = paho.Client(protocol=version, **opts)
        self.got = queue.Queue()
        self.subscribed = queue.Queue()
        self.connected = threading.Event()
        self.gone = threading.Event()
        self.client.on_connect = self.on_connect
        self.client.on_disconnect = lambda *a: self.gone.set()
        self.client.on_message = lambda c, u, m: self.got.put(m)
        self.client.on_subscribe = lambda *a: self.subscribed.put(a[3])
        self.addr = addr

    def on_connect(self, client, userdata, flags, rc, *more):
        assert rc == 0
        self.connected.set()

    def __enter__(self):
        self.client.connect(*self.addr)
        self.client.loop_start()
        assert self.connected.wait(WAIT_S)
        return self

    def __exit__(self, *exc):
        self.client.disconnect()
        self.client.loop_stop()

    def subscribe(self, *args, **kw):
        self.client.subscribe(*args, **kw)
        return self.subscribed.get(timeout=WAIT_S)

    def read(self, n):
        return [self.got.get(timeout=WAIT_S) for _ in range(n)]


paho_versions = pytest.mark.parametrize("version", [3, 4, 5])


@needs_paho
@paho_versions
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_paho_to_paho_across(node, topic, version, qos):
    with Paho(node.addr(1), version, client_id="ps") as sub, \
            Paho(node.addr(0), version, client_id="pp") as pub:
        sub.subscribe(topic + "/#", qos)
        infos = [pub.client.publish("%s/%d" % (topic, i % 3), b"%d" % i, qos)
                 for i in range(100)]
        got = sub.read(100)
        assert [int(m.payload) for m in got] == list(range(100))
        assert {m.qos for m in got} == {qos}
        for info in infos:
            info.wait_for_publish(WAIT_S)
            assert info.is_published()


@needs_paho
@paho_versions
def test_paho_unsubscribe_and_large(node, topic, version):
    with Paho(node.addr(0), version, client_id="one") as c:
        done = threading.Event()
        c.client.on_unsubscribe = lambda *a: done.set()
        c.subscribe(topic, 1)
        body = os.urandom(200000)
        c.client.publish(topic, body, 1)
        assert c.read(1)[0].payload == body
        c.client.unsubscribe(topic)
        assert done.wait(WAIT_S)
        c.client.publish(topic, b"no", 1).wait_for_publish(WAIT_S)
        assert c.got.empty()


@needs_paho
def test_paho_5_properties_and_options(node, topic):
    with Paho(node.addr(1), 5) as sub, Paho(node.addr(0), 5) as pub:
        subscribe = Properties(PacketTypes.SUBSCRIBE)
        subscribe.SubscriptionIdentifier = 42
        sub.subscribe(topic, options=paho.SubscribeOptions(qos=1, noLocal=True),
                      properties=subscribe)
        props = Properties(PacketTypes.PUBLISH)
        props.UserProperty = [("a", "1"), ("a", "2")]
        props.ContentType = "text"
        props.ResponseTopic = "back"
        props.CorrelationData = b"\x00\x01"
        props.MessageExpiryInterval = 100
        props.TopicAlias = 3
        sub.client.publish(topic, b"own", 1).wait_for_publish(WAIT_S)
        pub.client.publish(topic, b"x", 1, properties=props)
        m = sub.read(1)[0]
        assert m.payload == b"x"
        assert m.properties.UserProperty == [("a", "1"), ("a", "2")]
        assert m.properties.ContentType == "text"
        assert m.properties.ResponseTopic == "back"
        assert m.properties.CorrelationData == b"\x00\x01"
        assert m.properties.MessageExpiryInterval in (99, 100)
        assert m.properties.SubscriptionIdentifier == [42]


@needs_paho
@paho_versions
def test_paho_will_and_takeover(node, topic, version):
    with Paho(node.addr(0), version, client_id="watch") as watch:
        watch.subscribe(topic, 1)
        first = Paho(node.addr(1), version, client_id="same")
        first.client.will_set(topic, b"taken", 1)
        with first:
            # A new holder of the id; Paho would come back, so stop it first.
            first.client.reconnect_delay_set(3600)
            with wire.connect(node.addr(0), "same", version):
                assert watch.read(1)[0].payload == b"taken"
                assert first.gone.wait(WAIT_S)


@needs_paho
@paho_versions
def test_paho_with_raw_clients(node, topic, version):
    """A message from each kind of client reaches the other."""
    raw = node.client(version=version, on=1)
    raw.subscribe(topic + "/raw", qos=2)
    with Paho(node.addr(0), version, client_id="mixed") as c:
        c.subscribe(topic + "/paho", 2)
        for qos in (0, 1, 2):
            raw.publish(topic + "/paho", b"%d" % qos, qos=qos)
            assert c.read(1)[0].payload == b"%d" % qos
            c.client.publish(topic + "/raw", b"%d" % qos, qos)
            p = raw.read_publish()
            assert p.payload == b"%d" % qos and p.qos == qos
            raw.complete(p)


# --- MQTT.js ----------------------------------------------------------------

MQTTJS = r"""
const mqtt = require('mqtt');
const [url1, url2, version, topic, n] = process.argv.slice(1);
const opts = (id) => Object.assign(
    {protocolVersion: +version, clientId: id, reconnectPeriod: 0},
    +version === 3 ? {protocolId: 'MQIsdp'} : {});
const out = {order: {0: [], 1: [], 2: []}, qos: {}, props: null, acked: 0};
let left = 3 * n;
let over = false;
const fail = (e) => {
	if (!over) { console.error(String(e)); process.exit(1); }
};
const sub = mqtt.connect(url1, opts('js-sub'));
sub.on('error', fail);
sub.on('message', (t, m, p) => {
	const [qos, i] = m.toString().split(' ');
	out.order[qos].push(+i);
	out.qos[p.qos] = (out.qos[p.qos] || 0) + 1;
	if (p.properties && p.properties.userProperties)
		out.props = p.properties;
	if (--left === 0)
		finish();
});
let pub;
sub.on('connect', () => sub.subscribe(topic + '/#', {qos: 2}, (e) => {
	if (e) fail(e);
	pub = mqtt.connect(url2, opts('js-pub'));
	pub.on('error', fail);
	const round = (i) => {		// three in flight
		let flying = 3;
		for (const qos of i < n ? [0, 1, 2] : [])
			pub.publish(topic + '/' + qos, qos + ' ' + i,
			    {qos, properties: +version === 5 ?
			    {userProperties: {k: ['a', 'b']},
			    contentType: 'c'} : undefined},
			    (e2) => {
				if (e2) fail(e2);
				out.acked++;
				if (--flying === 0) round(i + 1);
				finish();
			    });
	};
	pub.on('connect', () => round(0));
}));
function finish() {
	if (left !== 0 || out.acked !== 3 * n)
		return;
	over = true;
	console.log(JSON.stringify(out));
	sub.end(); pub.end();
}
"""


@needs_mqttjs
@pytest.mark.parametrize("version", [3, 4, 5])
def test_mqttjs_across(node, topic, version):
    n = 50
    done = subprocess.run(
        ["node", "-e", MQTTJS, "mqtt://127.0.0.1:%d" % node.addr(1)[1],
         "mqtt://127.0.0.1:%d" % node.addr(0)[1], str(version), topic, str(n)],
        env=dict(os.environ, NODE_PATH=NODE_PATH), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout)
    for qos in ("0", "1", "2"):
        assert out["order"][qos] == list(range(n))
        assert out["qos"][qos] == n
    assert out["acked"] == 3 * n
    if version == 5:
        assert out["props"]["userProperties"]["k"] == ["a", "b"]
        assert out["props"]["contentType"] == "c"
