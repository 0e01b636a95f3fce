package door

import "time"

// GatewayCertificate is a client certificate of a gateway, as the index has it.
type GatewayCertificate struct {
	Serial    string    `json:"serial"` // hexadecimal
	Issuer    string    `json:"issuer"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	Issued    time.Time `json:"issued"`
	By        string    `json:"by"` // "token", "renewal", or who recorded it
	State     string    `json:"state"`
	Revoked   time.Time `json:"revoked,omitzero"`
}

// The values of GatewayCertificate.State.
const (
	CertValid   = "valid"
	CertExpired = "expired" // good for its renewal, for a while
	CertRevoked = "revoked"
)

// CertificateSerial is for the audit log.
func (g GatewayCertificate) CertificateSerial() string { return g.Serial }
