package systemd

import "strings"

// credentials is where the service manager puts what LoadCredential= names, a folder for each unit
// (systemd.exec(5)); a service finds its own in CREDENTIALS_DIRECTORY.
const credentials = "/run/credentials/"

// IsCredential says whether a file's name is that of a credential: it is there only while the service runs,
// and its rights are the service manager's business.
func IsCredential(name string) bool { return strings.HasPrefix(name, credentials) }
