package wire

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// benchPacks: one text reading that makes 256 bytes of SenML JSON, and twenty numbers
// as a scale sends them.
func benchPacks() map[string]Pack {
	single := Pack{Gateway: "gw-0042", Device: "scale", Base: testBase, Records: []Record{{Name: "line", VS: ptr("")}}}
	entries, _ := flatten(single)
	fill := strings.Repeat("x", 256-len(appendSenMLJSON(nil, entries)))
	single.Records[0].VS = &fill
	twenty := Pack{Gateway: "gw-0042", Device: "scale", Base: testBase}
	for i := range 20 {
		twenty.Records = append(twenty.Records, Record{
			Name: "weight", Unit: "kg", V: ptr(12.5 + float64(i)/8), Time: time.Duration(i) * 10 * time.Millisecond,
		})
	}
	return map[string]Pack{"256B": single, "20readings": twenty}
}

func eachBench(b *testing.B, f func(b *testing.B, format Format, h Header, p Pack, k *PrivateKey)) {
	packs := benchPacks()
	for _, name := range []string{"256B", "20readings"} {
		for _, format := range []Format{JSON, CBOR} {
			for _, alg := range []string{Ed25519, HMACSHA256} {
				b.Run(fmt.Sprintf("%s/%s/%s", name, format, alg), func(b *testing.B) {
					p := packs[name]
					b.ReportAllocs()
					f(b, format, testHeader(len(p.Records)), p, testKey(b, alg, 1))
				})
			}
		}
	}
}

// BenchmarkSeal reports what a message has on the wire beyond its SenML JSON.
func BenchmarkSeal(b *testing.B) {
	eachBench(b, func(b *testing.B, format Format, h Header, p Pack, k *PrivateKey) {
		var m Message
		for b.Loop() {
			m, _ = Seal(format, h, p, k)
		}
		entries, err := flatten(p)
		if err != nil {
			b.Fatal(err)
		}
		plain := len(appendSenMLJSON(nil, entries))
		b.ReportMetric(float64(len(m.JWS)+len(m.Payload)-plain), "overhead-B")
		b.ReportMetric(float64(len(m.AppendEnvelope(nil))), "envelope-B")
	})
}

// BenchmarkVerify reports, beside the time, how many times it is that of the signature
// alone, over as many bytes and in the same run.
func BenchmarkVerify(b *testing.B) {
	eachBench(b, func(b *testing.B, format Format, h Header, p Pack, k *PrivateKey) {
		m, err := Seal(format, h, p, k)
		if err != nil {
			b.Fatal(err)
		}
		s, err := open(m, &scratch{})
		if err != nil {
			b.Fatal(err)
		}
		keys, key := NewKeySet(k.Public()), k.Public()
		var alone time.Duration
		const rounds = 500
		floor := func() {
			start := time.Now()
			for range rounds {
				if err := key.verify(key.alg, key.kid, s.signed, s.signature); err != nil {
					b.Fatal(err)
				}
			}
			alone += time.Since(start)
		}
		floor()
		for b.Loop() {
			if _, err := Verify(m, keys); err != nil {
				b.Fatal(err)
			}
		}
		whole := float64(b.Elapsed()) / float64(b.N)
		floor()
		b.ReportMetric(whole/(float64(alone)/(2*rounds)), "x-signature")
	})
}

func BenchmarkDecode(b *testing.B) {
	eachBench(b, func(b *testing.B, format Format, h Header, p Pack, k *PrivateKey) {
		m, err := Seal(format, h, p, k)
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if _, err := Decode(m); err != nil {
				b.Fatal(err)
			}
		}
	})
}
