package broker

import "context"

// State is a small map on disk: what the node must know again after a restart. Keys are paths,
// "session/<client id>" for instance. It is kept in the node's second stream.
type State interface {
	// Put stores a value; it is synced when Put returns nil. The value is not kept by reference.
	Put(ctx context.Context, key string, value []byte) error
	// Delete removes a key; to remove one that is not there is no error.
	Delete(ctx context.Context, key string) error
	// Each calls fn for every key with the prefix, in the order of the keys, and ends with fn's
	// first error. What is put meanwhile may or may not be seen. fn must not change value.
	Each(prefix string, fn func(key string, value []byte) error) error
}
