package listen

import (
	"io"
	"net"
	"testing"
)

// FuzzWebSocket: whatever comes as frames ends at most its connection.
func FuzzWebSocket(f *testing.F) {
	mask := []byte{1, 2, 3, 4}
	f.Add([]byte("\x82\x82\x01\x02\x03\x04\xc1\x02"))
	f.Add(append([]byte{0x02, 0x80}, mask...))
	f.Add(append([]byte{0x89, 0xFE, 0xFF, 0xFF}, mask...))
	f.Add([]byte{0x88, 0x80, 0, 0, 0, 0})
	f.Add([]byte{0x82, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, frames []byte) {
		ours, theirs := net.Pipe()
		gone := make(chan struct{})
		go func() { // the client: request, frames, and whatever comes back
			defer close(gone)
			_, _ = io.WriteString(theirs, "GET /mqtt HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
				"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n")
			go func() { _, _ = io.Copy(io.Discard, theirs) }()
			_, _ = theirs.Write(frames)
			theirs.Close()
		}()
		c, err := newWSGate(nil, func() bool { return true }).open(ours)
		if err != nil {
			t.Fatalf("the request is refused: %v", err)
		}
		n, _ := io.Copy(io.Discard, c)
		if n > int64(len(frames)) {
			t.Errorf("%d bytes out of %d", n, len(frames))
		}
		c.Close()
		<-gone
	})
}
