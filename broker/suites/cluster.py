#!/usr/bin/python3
"""Three nodes of holdfast-broker in one cluster behind HAProxy, which deals connections out in turn.

    cluster.py BROKER FOLDER PORT

HAProxy listens on 127.0.0.1:PORT, once all nodes are ready; the nodes on 127.0.0.11 to .13. Ends with everything at
SIGTERM. What FOLDER has from an earlier run, the nodes go on with.
"""
import http.client
import os
import signal
import socket
import subprocess
import sys
import time

NODES = [(f"n{i}", f"127.0.0.1{i}") for i in (1, 2, 3)]


class Unix(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path):
        super().__init__("node", timeout=5)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def ready(data):
    try:
        c = Unix(os.path.join(data, "admin.sock"))
        c.request("GET", "/readyz")
        return c.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False


def end(children):
    for c in children:
        c.terminate()
    for c in children:
        try:
            c.wait(20)
        except subprocess.TimeoutExpired:
            c.kill()
            c.wait()


def stop(*_):
    raise SystemExit(0)


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    broker, folder, port = sys.argv[1], os.path.abspath(sys.argv[2]), int(sys.argv[3])
    between = port + 3000
    os.makedirs(folder, exist_ok=True)
    secret = os.path.join(folder, "secret")
    with open(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as f:
        f.write("0123456789abcdef0123456789abcdef\n")
    children = []
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        run(broker, folder, port, between, secret, children)
    finally:
        end(children)


def run(broker, folder, port, between, secret, children):
    for name, host in NODES:
        peers = ", ".join(f'"{h}:{between}"' for n, h in NODES if n != name)
        conf, log = os.path.join(folder, name + ".toml"), open(os.path.join(folder, name + ".log"), "a")
        with open(conf, "w") as f:
            f.write(f'[node]\nname = "{name}"\ndata_dir = "{folder}/{name}"\n[listen]\nmqtt = "{host}:{port}"\nadmin = ""\n'
                    f'[cluster]\nlisten = "{host}:{between}"\npeers = [{peers}]\nsecret_file = "{secret}"\n'
                    '[[verify]]\nfilter = "#"\npolicy = "off"\n')
        children.append(subprocess.Popen([broker, "run", "--config", conf], stdout=log, stderr=log))
    while not all(ready(os.path.join(folder, name)) for name, _ in NODES):
        if any(c.poll() is not None for c in children):
            sys.exit(f"a node has ended: {folder}")
        time.sleep(0.05)
    conf = os.path.join(folder, "haproxy.cfg")
    with open(conf, "w") as f:
        f.write("defaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n"
                f"listen mqtt\n bind 127.0.0.1:{port}\n balance roundrobin\n")
        f.writelines(f" server {name} {host}:{port}\n" for name, host in NODES)
    log = open(os.path.join(folder, "haproxy.log"), "a")
    children.append(subprocess.Popen(["haproxy", "-db", "-f", conf], stdout=log, stderr=log))
    children[-1].wait()


main()
