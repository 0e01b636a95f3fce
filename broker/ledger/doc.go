// Package ledger is the account of what gateways numbered: which messages came, which are missing, which were dropped and
// signed for, and which contradict each other.
//
// Offer says of a verified message whether it is new, a duplicate, or in conflict with an earlier one of the same identity, and
// Commit enters it once it is stored (ledger.go). Report and Sums say what is known, in words that ledger.go defines
// (report.go). Snapshot and Restore keep it (snapshot.go): it can always be made again from the log. What it remembers has
// bounds: beyond them detail becomes sums, and the report says so (bound.go, hashes.go, ranges.go).
//
// It promises that the same messages give the same account, whatever the order in which they came, and that no stream of
// messages makes it grow without a bound.
//
// It verifies nothing, stores nothing and asks nobody: what it is told has been verified before, and where it stands is a
// Position that it only keeps.
package ledger
