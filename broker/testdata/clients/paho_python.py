"""What an ordinary client does, with Eclipse Paho's Python client: paho_python.py HOST PORT. A line per case."""
import queue
import sys
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

HOST, PORT, WAIT = sys.argv[1], int(sys.argv[2]), 200


class Client:
    """A connected client; what comes is in got."""

    def __init__(self, name, version, clean=True, expiry=0, receive=0, will=None, ack=True):
        self.got, self.suback, self.gone, up = queue.Queue(), queue.Queue(), queue.Queue(), queue.Queue()
        args = {} if version == mqtt.MQTTv5 else {"clean_session": clean}
        self.version, self.c = version, mqtt.Client(name, protocol=version, **args)
        if version == mqtt.MQTTv5:
            self.c.on_connect = lambda c, u, flags, rc, props: up.put((flags, rc, props))
            self.c.on_subscribe = lambda c, u, mid, codes, props: self.suback.put([r.value for r in codes])
            self.c.on_disconnect = lambda c, u, rc, props: self.gone.put(rc)
        else:
            self.c.on_connect = lambda c, u, flags, rc: up.put((flags, rc, None))
            self.c.on_subscribe = lambda c, u, mid, codes: self.suback.put(list(codes))
        self.c.on_message = lambda c, u, m: self.got.put(m)
        if will:
            self.c.will_set(*will[:4], **({"properties": will[4]} if len(will) > 4 else {}))
        kw = {}
        if version == mqtt.MQTTv5:
            p = Properties(PacketTypes.CONNECT)
            p.SessionExpiryInterval = expiry
            if receive:
                p.ReceiveMaximum = receive
            kw = {"clean_start": clean, "properties": p}
        self.c.connect(HOST, PORT, 60, **kw)
        self.c.loop_start()
        flags, rc, self.props = up.get(timeout=WAIT)
        assert rc == 0, rc
        self.present = flags["session present"]

    def subscribe(self, *args, **kw):
        self.c.subscribe(*args, **kw)
        return self.suback.get(timeout=WAIT)

    def publish(self, *args, **kw):
        i = self.c.publish(*args, **kw)
        i.wait_for_publish(WAIT)
        assert i.is_published()

    def take(self):
        return self.got.get(timeout=WAIT)

    def none(self):
        """Nothing more came before a message that is sent now."""
        self.subscribe("none/" + self.c._client_id.decode(), 0)
        self.publish("none/" + self.c._client_id.decode(), b"")
        m = self.take()
        assert m.topic.startswith("none/"), m.topic

    def end(self):
        self.c.disconnect()
        self.c.loop_stop()

    def crash(self):
        self.c.loop_stop()
        self.c._sock_close()


def props(kind=PacketTypes.PUBLISH, **values):
    p = Properties(kind)
    for k, v in values.items():
        setattr(p, k, v)
    return p


def qos_both_ways(v):
    sub, pub = Client("sub", v), Client("pub", v)
    sub.subscribe([("q/0", 0), ("q/1", 1), ("q/2", 2)])
    for qos in range(3):
        for i in range(20):
            pub.publish(f"q/{qos}", f"{i}", qos)
        for i in range(20):
            m = sub.take()
            assert (m.topic, m.payload, m.qos) == (f"q/{qos}", b"%d" % i, qos), (m.topic, m.payload, m.qos)
    sub.end(), pub.end()


def resume(v):
    sub, pub = Client("resumer", v, clean=False, expiry=100), Client("pub", v)
    assert not sub.present
    sub.subscribe("r/#", 2)
    sub.crash()
    for i in range(30):
        pub.publish("r/a", f"{i}", 1 + i % 2)
    sub = Client("resumer", v, clean=False, expiry=100)
    assert sub.present
    got = {1: [], 2: []}  # the client hands on a QoS 2 message at its PUBREL: in order per QoS
    for i in range(30):
        m = sub.take()
        got[m.qos].append(int(m.payload))
    assert got == {1: list(range(0, 30, 2)), 2: list(range(1, 30, 2))}, got
    sub.end(), pub.end()
    last = Client("resumer", v)
    assert not last.present
    last.end()


def retained(v):
    pub = Client("pub", v)
    pub.publish("keep/a", "kept", 1, retain=True)
    sub = Client("sub", v)
    sub.subscribe("keep/#", 1)
    m = sub.take()
    assert m.payload == b"kept" and m.retain
    pub.publish("keep/a", b"", 1, retain=True)
    assert sub.take().payload == b""
    late = Client("late", v)
    late.subscribe("keep/#", 1)
    late.none()
    sub.end(), pub.end(), late.end()


def will(v):
    sub = Client("sub", v)
    sub.subscribe("will/#", 2)
    for qos in range(3):
        Client("mortal", v, will=("will/x", f"gone {qos}", qos, False)).crash()
        m = sub.take()
        assert (m.payload, m.qos) == (b"gone %d" % qos, qos)
    sub.end()


def large(v):
    sub, pub = Client("sub", v), Client("pub", v)
    sub.subscribe("large", 1)
    payload = bytes(range(256)) * 3900  # just below a MiB
    pub.publish("large", payload, 1)
    assert sub.take().payload == payload
    sub.end(), pub.end()


def shared(v):
    one, two, pub = Client("one", v), Client("two", v), Client("pub", v)
    one.subscribe("$share/g/job", 1), two.subscribe("$share/g/job", 1)
    for i in range(40):
        pub.publish("job", f"{i}", 1)
    seen = set()
    end = time.monotonic() + WAIT
    while len(seen) < 40 and time.monotonic() < end:
        for c in (one, two):
            while not c.got.empty():
                p = c.got.get().payload
                assert p not in seen
                seen.add(p)
        time.sleep(0.01)
    assert len(seen) == 40, len(seen)
    for c in (one, two, pub):
        c.end()


def everything_5(v):
    sub, pub = Client("sub", v), Client("pub", v)
    assert pub.props.ReceiveMaximum and pub.props.TopicAliasMaximum and pub.props.MaximumPacketSize
    sub.subscribe("p/+", options=SubscribeOptions(qos=2), properties=props(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=77))
    p = props(UserProperty=[("a", "1"), ("a", "2"), ("b", "ä")], ContentType="text/plain", ResponseTopic="answer/here",
              CorrelationData=b"\0\1", PayloadFormatIndicator=1, MessageExpiryInterval=600)
    for qos in range(3):
        pub.publish("p/x", "all", qos, properties=p)
        q = sub.take().properties
        assert q.UserProperty == p.UserProperty and q.ContentType == "text/plain" and q.ResponseTopic == "answer/here"
        assert q.CorrelationData == b"\0\1" and q.PayloadFormatIndicator == 1 and 300 <= q.MessageExpiryInterval <= 600
        assert q.SubscriptionIdentifier == [77]
    pub.publish("p/alias", "first", 1, properties=props(TopicAlias=3))
    pub.publish("", "second", 1, properties=props(TopicAlias=3))
    assert [sub.take().topic, sub.take().topic] == ["p/alias", "p/alias"]
    sub.end(), pub.end()


def expiry_5(v):
    sub, pub = Client("exp", v, clean=False, expiry=100, will=("exp/gone", "", 1, False)), Client("pub", v)
    pub.subscribe("exp/gone", 1)
    sub.subscribe("e", 1)
    sub.crash()
    pub.take()  # the broker knows: what it had begun to deliver would not expire (3.3.2.3.3)
    pub.publish("e", "short", 1, properties=props(MessageExpiryInterval=1))
    pub.publish("e", "long", 1, properties=props(MessageExpiryInterval=100))
    time.sleep(1.5)  # the interval is what is tested
    sub = Client("exp", v, clean=False, expiry=0)
    m = sub.take()
    assert m.payload == b"long" and m.properties.MessageExpiryInterval <= 99
    sub.end(), pub.end()


def receive_maximum_5(v):
    sub, pub = Client("narrow", v, receive=1), Client("pub", v)
    sub.subscribe("n", 2)
    for i in range(50):
        pub.publish("n", f"{i}", 1 + i % 2)
    for i in range(50):
        assert sub.take().payload == b"%d" % i
    sub.end(), pub.end()


def takeover_5(v):
    old = Client("twice", v)
    new = Client("twice", v)
    assert old.gone.get(timeout=WAIT).value == 0x8E
    old.c.loop_stop()
    new.none()
    new.end()


def no_local_and_options_5(v):
    c, pub = Client("opt", v), Client("pub", v)
    pub.publish("o/kept", "kept", 1, retain=True)
    c.subscribe("o/#", options=SubscribeOptions(qos=1, noLocal=True, retainAsPublished=True, retainHandling=2))
    c.publish("o/own", "own", 1)
    pub.publish("o/kept", "again", 1, retain=True)
    m = c.take()
    if m.payload == b"kept":  # of a cluster: its node read it only behind the SUBSCRIBE, so it is a live one
        m = c.take()
    assert m.payload == b"again" and m.retain
    pub.publish("o/kept", b"", 1, retain=True)
    c.take()
    c.none()
    c.end(), pub.end()


CASES = [qos_both_ways, resume, retained, will, large, shared]
CASES_5 = [everything_5, expiry_5, receive_maximum_5, takeover_5, no_local_and_options_5]

print("paho-mqtt", __import__("paho.mqtt").mqtt.__version__)
failed = 0
for version, cases in ((mqtt.MQTTv311, CASES), (mqtt.MQTTv5, CASES + CASES_5)):
    for case in cases:
        try:
            case(version)
            print("ok", case.__name__, version, flush=True)
        except Exception as e:  # every case is run
            failed += 1
            print("FAIL", case.__name__, version, repr(e), flush=True)
sys.exit(1 if failed else 0)
