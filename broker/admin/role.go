package admin

import (
	"context"
	"fmt"
	"net/http"
	"slices"
)

// Role says what the holder of a token may do. Each may do what those before it may.
type Role string

// The roles.
const (
	RoleViewer   Role = "viewer"   // look at nodes, sessions, gateways and the ledger
	RoleOperator Role = "operator" // read messages, end connections, empty nodes, let gateways in
	RoleAdmin    Role = "admin"    // all: keys and members taken out, tokens, audit log, backups
)

// Roles in the order of what they may do.
var Roles = []Role{RoleViewer, RoleOperator, RoleAdmin}

// ParseRole reads a role.
func ParseRole(s string) (Role, error) {
	if r := Role(s); slices.Contains(Roles, r) {
		return r, nil
	}
	return "", fmt.Errorf("%q is no role; there are %q", s, Roles)
}

// allows says whether a role may do what another one may. No role may do nothing.
func (r Role) allows(need Role) bool {
	at := slices.Index(Roles, r)
	return at >= 0 && at >= slices.Index(Roles, need)
}

// Who is the author of a request.
type Who struct {
	Name string // of the token, or the user id at the socket
	Role Role
	From string // remote address, or "socket"
}

type whoKey struct{}

// as notes who makes a request.
func as(r *http.Request, w Who) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), whoKey{}, w))
}

// whoOf is who makes a request; without a guard in front it is nobody, who may do nothing.
func whoOf(r *http.Request) Who {
	w, _ := r.Context().Value(whoKey{}).(Who)
	return w
}
