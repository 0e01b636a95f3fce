package agent

import (
	"os"
	"path/filepath"

	"holdfast/systemd"
	"holdfast/uplink"
)

// credential checks a file that the service manager gives the running service alone, with rights of
// its own making (LoadCredential= in the unit). Whoever looks while it does not run is told so, no more.
func (l *loader) credential(key, name string) {
	_, err := os.Stat(name)
	switch {
	case err == nil:
	case isService():
		l.Problem(key, "%v; the unit needs LoadCredential=%s:FILE", err, filepath.Base(name))
	default:
		l.Warn(key, "%s is a credential of the service and was not looked at: it is there while that runs, with LoadCredential=%s:FILE in the unit", name, filepath.Base(name))
	}
}

// withoutAbsent takes out of what is to be checked the credentials that only the service can see.
func (l *loader) withoutAbsent(u *uplink.Config) {
	absent := func(name string) bool {
		_, err := os.Stat(name)
		return systemd.IsCredential(name) && err != nil && !isService()
	}
	if absent(u.PasswordFile) {
		u.PasswordFile = "" // told before
	}
	if absent(u.CAFile) {
		l.credential("uplink.ca_file", u.CAFile)
		u.CAFile = ""
	}
	for key, name := range map[string]string{"uplink.cert_file": u.CertFile, "uplink.key_file": u.KeyFile} {
		if absent(name) {
			l.credential(key, name)
			u.CertFile, u.KeyFile = "", "" // one means nothing without the other
		}
	}
}

// isService: the service manager gave this process credentials (systemd.exec(5)).
func isService() bool { return os.Getenv("CREDENTIALS_DIRECTORY") != "" }
