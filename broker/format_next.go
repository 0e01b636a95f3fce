//go:build nextformat

package broker

// formatNow is that of the version after this one, for a test.
const formatNow = 2
