// Package door decides which messages come in: it verifies what gateways have signed, under the rules of [[verify]], with the
// keys of the registry.
//
// A Door says of each message whether it is taken, taken with a mark, or refused, why, and what an operator can do about it
// (door.go, rule.go). The Registry is the gateways' keys, which wait, are active, retired or revoked; a key signs whole epochs,
// and what changes is on disk before it takes effect (registry.go, approve.go, certificate.go).
//
// It promises that nothing unsigned, altered or signed by a key that is not good for its epoch passes under the policy "reject".
//
// It asks nobody who may publish where (that is broker/auth), counts no duplicates (that is broker/ledger), and stores only
// through the State that it is given.
package door
