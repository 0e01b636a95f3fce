package agent

import (
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// serviceUser is whom the unit runs the agent as (systemd/holdfast.service).
const serviceUser = "holdfast"

// reader is whoever will run the agent. Root may do everything, so what root checks is
// checked for the service's user, if there is one.
type reader struct {
	name string // "": whoever asks
	uid  uint32
	gids []uint32
}

func theReader() reader {
	if os.Geteuid() != 0 {
		return reader{}
	}
	u, err := user.Lookup(serviceUser)
	if err != nil {
		return reader{} // not installed as a service
	}
	r := reader{name: serviceUser, uid: number(u.Uid)}
	ids, _ := u.GroupIds() // without them its own has to do
	for _, id := range append(ids, u.Gid) {
		r.gids = append(r.gids, number(id))
	}
	return r
}

func number(s string) uint32 {
	n, _ := strconv.ParseUint(s, 10, 32) // the database has numbers only
	return uint32(n)
}

// may says whether the reader may do this (unix.R_OK, W_OK, X_OK) with the file. The
// folders above it are not looked at unless the reader is whoever asks.
func (r reader) may(path string, want uint32) error {
	if r.name == "" {
		return unix.Access(path, want)
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	st, is := info.Sys().(*syscall.Stat_t)
	if !is {
		return nil
	}
	bits := st.Mode & 7
	switch {
	case st.Uid == r.uid:
		bits = st.Mode >> 6 & 7
	case slices.Contains(r.gids, st.Gid):
		bits = st.Mode >> 3 & 7
	}
	if bits&want != want {
		return fmt.Errorf("user %s: %w", r.name, unix.EACCES)
	}
	return nil
}
