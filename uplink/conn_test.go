package uplink

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"testing/iotest"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

// canned is a connection that reads from a reader and keeps what is written.
type canned struct {
	net.Conn
	r io.Reader
	w bytes.Buffer
}

func (c *canned) Read(p []byte) (int, error)       { return c.r.Read(p) }
func (c *canned) Write(p []byte) (int, error)      { return c.w.Write(p) }
func (c *canned) Close() error                     { return nil }
func (c *canned) SetWriteDeadline(time.Time) error { return nil }

func cannedConn(r io.Reader, acked func([]uint16)) (*conn, *canned) {
	raw := &canned{r: r}
	return newConn(raw, time.Second, func() time.Duration { return 0 }, acked, func() {}), raw
}

// TestTakeAcks: plain PUBACKs are taken out of the stream, everything else goes to
// paho, in whatever pieces it comes.
func TestTakeAcks(t *testing.T) {
	var stream bytes.Buffer
	stream.Write([]byte{0x40, 2, 0, 1})                 // success, short
	stream.Write([]byte{0x40, 3, 0, 2, 0x10})           // no matching subscribers
	stream.Write([]byte{0xD0, 0})                       // PINGRESP
	stream.Write([]byte{0x40, 4, 0, 3, 0, 0})           // success, no properties
	stream.Write([]byte{0x40, 4, 0, 4, 0x97, 0})        // quota exceeded: paho's
	stream.Write([]byte{0x40, 7, 0, 5, 0, 3, 31, 0, 0}) // success with an (empty) reason string: paho's
	stream.Write([]byte{0x40, 2, 1, 6})
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader, "halves": iotest.HalfReader,
	} {
		t.Run(name, func(t *testing.T) {
			var ids []uint16
			c, _ := cannedConn(wrap(bytes.NewReader(stream.Bytes())), func(got []uint16) { ids = append(ids, got...) })
			var kinds []byte
			for {
				p, err := packets.ReadPacket(c)
				if err != nil {
					if !errors.Is(c.why(), errPeerClosed) {
						t.Fatal(c.why())
					}
					break
				}
				kinds = append(kinds, p.Type)
			}
			if !slices.Equal(ids, []uint16{1, 2, 3, 0x106}) {
				t.Fatalf("acknowledged %v", ids)
			}
			if !slices.Equal(kinds, []byte{packets.PINGRESP, packets.PUBACK, packets.PUBACK}) {
				t.Fatalf("paho got %v", kinds)
			}
		})
	}
}

// FuzzInbound feeds a connection what a hostile or foreign server might send: neither
// the framing nor paho's parser may panic, or allocate for a packet that is not there.
func FuzzInbound(f *testing.F) {
	for _, p := range []interface {
		WriteTo(io.Writer) (int64, error)
	}{
		&packets.Connack{Properties: &packets.Properties{ReasonString: "x", ReceiveMaximum: ptr(uint16(9))}},
		&packets.Puback{PacketID: 3, ReasonCode: 0x97, Properties: &packets.Properties{ReasonString: "y"}},
		&packets.Disconnect{ReasonCode: 0x95, Properties: &packets.Properties{ServerReference: "z"}},
		&packets.Publish{Topic: "t", QoS: 1, PacketID: 1, Payload: []byte("x"), Properties: &packets.Properties{}},
		&packets.Suback{PacketID: 1, Reasons: []byte{0}, Properties: &packets.Properties{}},
		&packets.Auth{ReasonCode: 0x18, Properties: &packets.Properties{AuthMethod: "a"}},
	} {
		var w wire
		_, _ = p.WriteTo(&w)
		f.Add([]byte(w))
	}
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	f.Add([]byte{0x40, 2, 0, 1, 0x40, 3, 0, 2, 0x10, 0xD0, 0, 0xE0, 0, 0xE0, 1, 0x8B})
	f.Add([]byte{0x20, 2, 0, 1})
	f.Add([]byte{0x30, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, _ := cannedConn(bytes.NewReader(b), func([]uint16) {})
		l := newLine(Options{Now: func() time.Duration { return 0 }, Rand: func() float64 { return 0 }}, 4, quick())
		for {
			p, err := packets.ReadPacket(c)
			if err != nil {
				return
			}
			switch p.Type {
			case packets.PUBACK, packets.PUBCOMP, packets.SUBACK, packets.UNSUBACK, packets.PUBREC, packets.PUBREL:
				_ = l.PacketReceived(p, nil)
			case packets.CONNACK:
				_ = l.ConAckReceived(io.Discard, nil, p.Content.(*packets.Connack))
			case packets.DISCONNECT:
				_ = l.ConnectionLost(p.Content.(*packets.Disconnect))
				l.ended(false)
			}
		}
	})
}

// TestCork: outside a cork each packet leaves at once, inside they leave together.
func TestCork(t *testing.T) {
	c, raw := cannedConn(bytes.NewReader(nil), nil)
	ping := packets.NewControlPacket(packets.PINGREQ)
	if _, err := ping.WriteTo(c); err != nil || raw.w.Len() != 2 {
		t.Fatal(err, raw.w.Len())
	}
	c.cork()
	for range 3 {
		_, _ = ping.WriteTo(c)
	}
	if raw.w.Len() != 2 {
		t.Fatal("flushed inside the cork")
	}
	if err := c.uncork(); err != nil || raw.w.Len() != 8 {
		t.Fatal(err, raw.w.Len())
	}
}
