#!/usr/bin/python3
"""Stands where mosquitto's broker tests look for ../../src/mosquitto, and starts holdfast-broker instead.

Takes -p PORT or -c FILE of mosquitto's configuration. A setting that holdfast-broker has no equal for ends it with
64, and its name goes to $SUITE_UNSUPPORTED. $HOLDFAST_BROKER is the program, $SUITE_DATA a folder for its data. With
$SUITE_CLUSTER it is three nodes, and each connection goes to the next one (cluster.py, which that names).
"""
import os
import shutil
import sys

# Settings of mosquitto that change nothing here: what they ask for is the case anyway.
SAME = {
    "log_type", "log_dest", "autosave_interval", "persistence_location",
    "max_inflight_messages",  # what the client announces as its Receive Maximum counts
    "max_inflight_bytes", "max_queued_messages", "max_queued_bytes",  # queues are on disk
    "check_retain_source", "per_listener_settings",
}


def settings(args):
    """Ports, whether the store outlives a restart, its file, and what cannot be done."""
    ports, persistent, db, cannot = [], False, "", []
    if "-p" in args:
        return [args[args.index("-p") + 1]], False, "", []
    with open(args[args.index("-c") + 1]) as f:
        for line in f:
            key, _, value = line.strip().partition(" ")
            if not key or key.startswith("#"):
                continue
            if key in ("port", "listener"):
                ports.append(value.split()[0])
            elif key == "persistence":
                persistent = value == "true"
            elif key == "persistence_file":
                db = value
            elif key == "allow_anonymous" and value == "true" or key == "retain_available" and value == "true":
                pass
            elif key == "allow_zero_length_clientid" and value == "true":
                pass
            elif key not in SAME:
                cannot.append(line.strip())
    return ports, persistent, db, cannot


def main():
    args = sys.argv[1:]
    ports, persistent, db, cannot = settings(args)
    if len(ports) > 1:
        cannot.append("a second listener")
    if cannot or not ports:
        with open(os.environ["SUITE_UNSUPPORTED"], "a") as f:
            f.write("\n".join(cannot) + "\n")
        sys.exit(64)
    data = os.path.join(os.environ["SUITE_DATA"], ports[0])
    if not (persistent and os.path.exists(db)):  # the tests remove mosquitto's file to begin anew
        shutil.rmtree(data, ignore_errors=True)
    if persistent and db:
        open(db, "a").close()
    os.makedirs(data, exist_ok=True)
    conf = data + ".toml"
    with open(conf, "w") as f:
        f.write(f'[node]\nname = "n1"\ndata_dir = "{data}"\n[listen]\nmqtt = "127.0.0.1:{ports[0]}"\nadmin = ""\n'
                '[[verify]]\nfilter = "#"\npolicy = "off"\n')
    log = os.open(data + ".log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    open(os.path.join(os.environ["SUITE_DATA"], "started"), "w").close()
    broker, cluster = os.environ["HOLDFAST_BROKER"], os.environ.get("SUITE_CLUSTER")
    if cluster:
        os.execv(sys.executable, [sys.executable, cluster, broker, data, ports[0]])
    os.execv(broker, [broker, "run", "--config", conf])


main()
