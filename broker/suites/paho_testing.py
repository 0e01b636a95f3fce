#!/usr/bin/python3
"""Runs the interoperability cases of eclipse/paho.mqtt.testing against a broker, or several of one cluster.

    paho_testing.py CHECKOUT HOST:PORT[,HOST:PORT...]

A suite's client connects to one address; with several, each connection takes the next one. Prints a line per
case and ends with 1 if a case failed. The checkout is only read.
"""
import itertools
import logging
import os
import re
import sys
import time
import unittest

CLIENTS = ("client_test", "client_test5")
# These publish from one client before the SUBACK of the other has come (they wait for the wrong one's): who is first
# is chance. They get a second try.
RACES = ("client_test5.Test.test_request_response", "client_test5.Test.test_subscribe_options")


def listed():
    """Cases that docs/conformance.md lists as different, with the clause that allows it."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs/conformance.md")) as f:
        return set(re.findall(r"^\| `(client_test5?\.[\w.]+)` \|", f.read(), re.M))


def settings(name):
    """What the module's own main would set."""
    prefix = "client_test5/" if name == "client_test5" else ""
    topics = ["TopicA", "TopicA/B", "Topic/C", "TopicA/C", "/TopicA"]
    wild = ["TopicA/+", "+/C", "#", "/#", "/+", "+/+", "TopicA/#"]
    return {"topic_prefix": prefix, "topics": [prefix + t for t in topics], "wildtopics": [prefix + t for t in wild],
            "nosubscribe_topics": ("test/nosubscribe",)}


class Lines(unittest.TextTestResult):
    """A line per case."""

    def startTest(self, test):
        super().startTest(test)
        self.began = time.monotonic()

    def line(self, test, word):
        name = test.id() if hasattr(test, "id") else str(test)
        print(f"{word:4} {time.monotonic() - getattr(self, 'began', time.monotonic()):6.1f}s {name}", flush=True)

    def addSuccess(self, test):
        super().addSuccess(test)
        self.line(test, "ok")

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.line(test, "bad")

    def addError(self, test, err):
        super().addError(test, err)
        self.line(test, "bad")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.line(test, "SKIP")


def spread(client, addresses):
    """Each connection goes to the next address. A subscription gets a moment: the suite waits for the wrong client's
    SUBACK in places (RACES), and over several nodes the publisher would always be first."""
    connect, subscribe, turn = client.Client.connect, client.Client.subscribe, itertools.cycle(addresses)

    def subscribed(self, *args, **kwargs):
        result = subscribe(self, *args, **kwargs)
        time.sleep(0.5)
        return result
    client.Client.subscribe = subscribed

    def next_node(self, *args, **kwargs):
        kwargs["host"], kwargs["port"] = next(turn)
        return connect(self, *args, **kwargs)
    client.Client.connect = next_node


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    known = listed()
    folder = os.path.join(sys.argv[1], "interoperability")
    addresses = [(a.rpartition(":")[0], int(a.rpartition(":")[2])) for a in sys.argv[2].split(",")]
    os.chdir(folder)
    sys.dont_write_bytecode = True
    sys.path.insert(0, folder)
    logging.getLogger().setLevel(logging.ERROR)
    ran, failed, differ = 0, [], []
    for name in CLIENTS:
        module = __import__(name)
        vars(module).update(settings(name), host=addresses[0][0], port=addresses[0][1])
        if len(addresses) > 1:
            spread(module.mqtt_client, addresses)
        runner = unittest.TextTestRunner(stream=sys.stdout, resultclass=Lines, verbosity=0)
        result = runner.run(unittest.defaultTestLoader.loadTestsFromModule(module))
        ran += result.testsRun
        for case in [t.id() for t, _ in result.failures + result.errors + result.skipped]:
            if case in RACES and runner.run(unittest.defaultTestLoader.loadTestsFromName(case)).wasSuccessful():
                continue
            (differ if case.replace(".Test.", ".") in known else failed).append(case)
    print(f"paho.mqtt.testing: {ran} cases, {ran - len(failed) - len(differ)} passed, {len(differ)} differ as listed, "
          f"{len(failed)} failed {' '.join(failed)}")
    sys.exit(1 if failed or not ran else 0)


main()
