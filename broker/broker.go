// Package broker is the broker node: an MQTT 5 and 3.1.1 broker whose queue is a log on disk.
//
// # What it is
//
// A PUBLISH is framed and decoded (front.go, conn.go, the pure codec in broker/mqtt), verified
// at the door (door.go), offered to the ledger (ingest.go, ledger.go), packed with what else is
// waiting into one batch (log.go, writer.go), stored and synced by an embedded JetStream
// (stream.go), and only then acknowledged. A session is a cursor into that log plus its
// subscriptions (session.go, deliver.go).
//
// # What it promises
//
//   - A PUBACK or PUBREC with success means: on disk, synced ([store] sync = "always").
//   - What was acknowledged survives kill -9 and a power cut of the node.
//   - Per publisher and topic, QoS 1 and 2 messages are delivered in the order they were sent.
//   - A slow or absent subscriber with a session falls behind on the log; nothing is dropped for
//     it before retention trims the log, and then the gap is counted.
//   - A bad packet ends its connection, never the process.
//
// # What it will not do
//
// It does not keep QoS 0 for those who are away or too slow. It does not order messages by any
// wall clock. It does not replicate: one node, one disk.
package broker
