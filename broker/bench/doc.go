// Package bench measures holdfast-broker as real programs, and its peers in the same run: three nodes, or one, on the
// loopback of one machine, with the load beside them. It holds benchmarks only:
//
//	go test -run '^$' -bench Cluster -benchtime 1x ./broker/bench
//
// It promises that the load generator is no bottleneck (BenchmarkClusterLoad/ceiling shows how much it could carry), that every
// message is counted, and that whatever is lost, repeated or out of order is reported beside the speed. It will not compare
// single speeds over runs: a shared machine moves by a factor of two within minutes. What counts are ratios within a run.
//
// The peers are never part of this module: mosquitto is Debian's, comqtt is built from the Go module proxy into a
// temporary folder, and nats-server, whose library the broker is built on, runs as itself in a child of the test program.
package bench
