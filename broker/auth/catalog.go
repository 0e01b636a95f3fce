package auth

// Kinds is the types of sources that [[auth]] may name.
func Kinds() []Kind {
	return []Kind{
		{Type: "file", New: newFile},
		{Type: "anonymous", New: newAnonymous},
		{Type: "redis", New: newRedis},
		{Type: "mysql", New: newMySQL},
		{Type: "postgres", New: newPostgres},
		{Type: "http", New: newHTTP},
		{Type: "jwt", New: newJWT},
		{Type: "certificate", New: newCertificate},
		{Type: "acl_file", New: newACLFile, RulesOnly: true},
	}
}

// KindOf finds a type of source.
func KindOf(name string) (Kind, bool) {
	for _, k := range Kinds() {
		if k.Type == name {
			return k, true
		}
	}
	return Kind{}, false
}

// Types is the names of all.
func Types() (out []string) {
	for _, k := range Kinds() {
		out = append(out, k.Type)
	}
	return out
}
