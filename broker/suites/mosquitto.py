#!/usr/bin/python3
"""Runs mosquitto's broker tests, raw packets over a socket, with holdfast-broker in mosquitto's place.

    mosquitto.py SOURCE BROKER [--only TEXT] [--jobs N] [--cluster]

SOURCE is mosquitto's source (only read; the tests run in a copy), BROKER the program. Ends with 1 if a case fails
that docs/conformance.md does not list.
"""
import argparse
import concurrent.futures
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
# Tests of what is mosquitto's own, not MQTT's: its bridges, plugins, password and ACL files, its CLI.
OTHER = [("06-bridge", "bridges"), ("08-", "TLS, certificates and PSK by mosquitto's settings"), ("09-plugin", "mosquitto's plugins"),
         ("09-acl", "mosquitto's ACL files"), ("09-extended-auth", "mosquitto's plugins"), ("09-pwfile", "mosquitto's password files"),
         ("14-dynsec", "mosquitto's plugins"), ("10-listener-mount-point", "mosquitto's mount points")]


def cases(source):
    """(ports, file) of every test that the suite's own list names and that is there."""
    text = open(os.path.join(source, "test/broker/test.py")).read()
    found = re.findall(r"^\s+\((\d), '\./([\w.-]+\.py)'\)", text, re.M)
    return [(int(n), f) for n, f in found if os.path.exists(os.path.join(source, "test/broker", f))]


def known(cluster):
    """Cases that docs/conformance.md lists as different by choice, with the clause."""
    text = open(os.path.join(HERE, "../../docs/conformance.md")).read()
    return set(re.findall(r"^\| `(\d\d-[\w.-]+)`%s \|" % (r"(?: \(cluster\))?" if cluster else ""), text, re.M))


class Run:
    def __init__(self, source, broker, cluster):
        self.cluster = cluster
        self.root = tempfile.mkdtemp(prefix="suite-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        self.source, self.broker = source, os.path.abspath(broker)
        self.free = queue.Queue()
        for i in range(20):
            self.free.put(18900 + 4 * i)

    def tree(self, name):
        """A copy of the tests for one case: they write files beside themselves."""
        at = os.path.join(self.root, name)
        shutil.copytree(os.path.join(self.source, "test"), os.path.join(at, "test"),
                        ignore=shutil.ignore_patterns("lib", "client", "old", "unit", "random", "ssl"))
        os.makedirs(os.path.join(at, "src"))
        shutil.copy(os.path.join(HERE, "mosquitto_broker.py"), os.path.join(at, "src/mosquitto"))
        os.chmod(os.path.join(at, "src/mosquitto"), 0o755)
        for folder, _, files in os.walk(os.path.join(at, "test")):  # Debian's patches name the installed program
            for f in [os.path.join(folder, f) for f in files if f.endswith(".py")]:
                text = open(f).read()
                if "/usr/sbin/mosquitto" in text:
                    open(f, "w").write(text.replace("/usr/sbin/mosquitto", "../../src/mosquitto"))
        if self.cluster:  # it takes longer to start than one program
            helper = os.path.join(at, "test/mosq_test.py")
            text = open(helper).read()
            assert "range(0, 20)" in text
            open(helper, "w").write(text.replace("range(0, 20)", "range(0, 900)"))
        with open(os.path.join(at, "test/mosq_test.py"), "a") as f:
            f.write("\n\n" + open(os.path.join(HERE, "mosquitto_shim.py")).read())
        return at

    def case(self, ports, name):
        """(word, seconds, detail) of one case."""
        for prefix, why in OTHER:
            if name.startswith(prefix):
                return "n/a", 0, why
        at, base, began = self.tree(name), self.free.get(), time.monotonic()
        env = dict(os.environ, SUITE_CHOICES=at + "/choices", SUITE_UNSUPPORTED=at + "/unsupported", SUITE_DATA=at + "/data",
                   HOLDFAST_BROKER=self.broker, PYTHONDONTWRITEBYTECODE="1")
        if self.cluster:
            env["SUITE_CLUSTER"] = os.path.join(HERE, "cluster.py")
        os.makedirs(at + "/data")
        try:
            p = subprocess.run(["/usr/bin/python3", name] + [str(base + i) for i in range(ports)], cwd=at + "/test/broker", env=env,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300 if self.cluster else 120, start_new_session=True)
            code, out = p.returncode, p.stdout.decode(errors="replace")
        except subprocess.TimeoutExpired as e:
            code, out = -1, "timeout\n" + (e.stdout or b"").decode(errors="replace")
        self.free.put(base)
        lines = lambda f: sorted(set(open(at + f).read().split("\n")) - {""}) if os.path.exists(at + f) else []
        took, unsupported, choices = time.monotonic() - began, lines("/unsupported"), lines("/choices")
        started = os.path.exists(at + "/data/started")
        logs = "".join(open(os.path.join(at, folder, f)).read() for folder, _, files in os.walk(at + "/data") for f in files if f.endswith(".log"))
        shutil.rmtree(at)
        if unsupported and code != 0:
            return "n/a", took, "setting: " + "; ".join(unsupported)
        if code == 0 and not started:
            return "FAIL", took, "it did not start the broker that is judged"
        if code == 0:
            return "ok", took, "; ".join(choices)
        return "FAIL", took, out.strip() + "\n--- broker\n" + logs[-1500:]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("source")
    ap.add_argument("broker")
    ap.add_argument("--only", default="")
    ap.add_argument("--jobs", type=int, default=3)
    ap.add_argument("--choices", action="store_true", help="say which choices of the standard were used")
    ap.add_argument("--cluster", action="store_true", help="three nodes, and each connection goes to the next one")
    args = ap.parse_args()
    run, listed = Run(args.source, args.broker, args.cluster), known(args.cluster)
    todo = [c for c in cases(args.source) if args.only in c[1]]
    count = {"ok": 0, "FAIL": 0, "n/a": 0, "listed": 0}
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for (_, name), (word, took, detail) in zip(todo, pool.map(lambda c: run.case(*c), todo)):
            if word == "FAIL" and name[:-3] in listed:
                word, detail = "listed", "docs/conformance.md"
            count[word] += 1
            print(f"{word:6} {took:5.1f}s {name[:-3]}", flush=True)
            if word in ("FAIL", "n/a") or args.choices and detail:
                print("    " + detail.replace("\n", "\n    "), flush=True)
    shutil.rmtree(run.root, ignore_errors=True)
    print(f"mosquitto's broker tests: {len(todo)} cases, {count['ok']} passed, {count['listed']} differ as listed, "
          f"{count['n/a']} not about MQTT, {count['FAIL']} failed")
    sys.exit(1 if count["FAIL"] or not todo else 0)


main()
