//go:build !nextformat

package broker

// formatNow is the newest format that this program knows. The tag nextformat builds one that knows one more, so that a
// test has real programs of two versions beside each other.
const formatNow = 1
