// Package broker is the broker node: front, ingest, log, delivery, ledger.
package broker
