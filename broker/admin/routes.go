package admin

import (
	"fmt"
	"net/http"
)

// route is one request that the API knows. There is no other way into it than this table: a test holds the source
// against it.
type route struct {
	pattern string // as http.ServeMux has it
	role    Role   // the least that it needs; "": anybody who reaches the listener
	audited bool   // it changes something, or gives secrets away: it is in the audit log
	serve   http.HandlerFunc
}

// routes is everything that the API answers.
func (s *Server) routes() []route {
	return []route{
		{"GET /healthz", "", false, healthz},
		{"GET /readyz", "", false, s.readyz},
		{"GET /metrics", "", false, s.o.Metrics.ServeHTTP},
		{"GET /{$}", "", false, page},

		{"GET /v1/status", RoleViewer, false, s.status},
		{"GET /v1/devices", RoleViewer, false, s.listDevices},
		{"GET /v1/devices/{gateway}", RoleViewer, false, s.showDevice},
		{"GET /v1/ledger", RoleViewer, false, s.ledger},
		{"GET /v1/sessions", RoleViewer, false, s.listSessions},
		{"GET /v1/sessions/{id...}", RoleViewer, false, s.showSession},
		{"GET /v1/explain", RoleViewer, false, s.explain},
		{"GET /v1/cluster", RoleViewer, false, s.showCluster},
		{"GET /v1/cluster/members/{node}/drain", RoleViewer, false, s.showDrain},

		{"GET /v1/tail", RoleOperator, false, s.tail},
		{"GET /v1/trace/{id...}", RoleOperator, false, s.trace},
		{"POST /v1/devices", RoleOperator, true, s.addDevice},
		{"POST /v1/devices/{gateway}/approve", RoleOperator, true, s.approveDevice},
		{"POST /v1/devices/{gateway}/token", RoleOperator, true, s.enrolToken},
		{"POST /v1/devices/{gateway}/certificates", RoleOperator, true, s.recordCertificate},
		{"DELETE /v1/sessions/{id...}", RoleOperator, true, s.kickSession},
		{"POST /v1/cluster/members/{node}/drain", RoleOperator, true, s.drain},
		{"DELETE /v1/cluster/members/{node}/drain", RoleOperator, true, s.undrain},

		{"DELETE /v1/devices/{gateway}", RoleAdmin, true, s.revokeDevice},
		{"DELETE /v1/devices/{gateway}/certificates", RoleAdmin, true, s.revokeCertificates},
		{"POST /v1/cluster/members", RoleAdmin, true, s.join},
		{"DELETE /v1/cluster/members/{node}", RoleAdmin, true, s.leave},
		{"GET /v1/backup", RoleAdmin, true, s.backup},
		{"GET /v1/tokens", RoleAdmin, false, s.listTokens},
		{"POST /v1/tokens", RoleAdmin, true, s.addToken},
		{"DELETE /v1/tokens/{name}", RoleAdmin, true, s.removeToken},
		{"GET /v1/audit", RoleAdmin, false, s.audit},
	}
}

// Handler is the API. Who asks has been found out by a Host; without one nobody may do anything.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, r := range s.routes() {
		mux.HandleFunc(r.pattern, s.checked(r))
	}
	mux.HandleFunc("/", notFound)
	return mux
}

// checked asks for the role, and writes down what is to be changed before it is.
func (s *Server) checked(rt route) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		who := whoOf(r)
		switch {
		case rt.role != "" && !who.Role.allows(rt.role):
			err := &Error{http.StatusForbidden, fmt.Sprintf("%s needs the role %s, and %q has the role %q", rt.pattern, rt.role, who.Name, who.Role),
				"use another token, or the socket on the node itself; an administrator makes one: holdfast-broker token add NAME --role " + string(rt.role)}
			if rt.audited {
				s.refusedChange(who, rt, r, err)
			}
			fail(w, err)
		case rt.audited:
			s.change(w, r, who, rt)
		default:
			rt.serve(w, r)
		}
	}
}

func notFound(w http.ResponseWriter, r *http.Request) {
	fail(w, &Error{http.StatusNotFound, fmt.Sprintf("there is no %s %s", r.Method, r.URL.Path),
		"see /v1/status, /v1/devices, /v1/ledger, /v1/tail, /v1/sessions, /v1/explain, /v1/cluster, /v1/backup, /v1/tokens, /v1/audit, /healthz, /readyz, /metrics"})
}
