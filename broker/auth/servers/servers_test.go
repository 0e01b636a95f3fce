package servers

import (
	"net"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestEndsWithItsTest: a server hangs, dies, is there again at the same address, and is gone when its test is over.
func TestEndsWithItsTest(t *testing.T) {
	var addr string
	t.Run("test", func(t *testing.T) {
		r := Redis(t, nil)
		addr = r.Addr
		r.CLI(t, "SET", "a", "b")
		r.Hang()
		r.GoOn()
		r.Die()
		if c, err := net.Dial("tcp", addr); err == nil {
			t.Error("it still listens")
			c.Close()
		}
		r.Start()
		r.Listens(addr)
		r.Hang() // a test may end like that
	})
	if c, err := net.Dial("tcp", addr); err == nil {
		t.Error("it outlived its test")
		c.Close()
	}
}
