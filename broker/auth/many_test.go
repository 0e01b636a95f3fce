package auth

import (
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"holdfast/broker/auth/servers"
)

// many is how many clients connect: HOLDFAST_SOAK=1 for the count of the figures in docs/AUTH-SOURCES.md.
func many() int {
	if os.Getenv("HOLDFAST_SOAK") != "" {
		return 10_000
	}
	return 300
}

// TestManyConnects: clients come all at once to a chain with one source; every one is let in, with its own rules. The
// databases have theirs where they are running: TestRedis, TestMySQL, TestPostgres.
func TestManyConnects(t *testing.T) {
	for _, x := range []struct {
		kind  string
		ready func(t *testing.T, n int) (text string, clients []*Client)
	}{{"http", manyHTTP}, {"jwt", manyJWT}, {"certificate", manyCertificates}, {"acl_file", manyACL}} {
		t.Run(x.kind, func(t *testing.T) {
			text, clients := x.ready(t, many())
			manyConnects(t, x.kind, text, clients)
		})
	}
}

func manyConnects(t *testing.T, kind, text string, clients []*Client) {
	t.Helper()
	chain, n := chainWith(t, kind, text), len(clients)
	took := make([]time.Duration, n)
	next := make(chan int)
	began := time.Now()
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for i := range next {
				at := time.Now()
				g, err := chain.Admit(t.Context(), clients[i])
				if took[i] = time.Since(at); err != nil {
					t.Errorf("%s: %v", clients[i].ID, err)
				} else if !g.MayPublish("up/"+clients[i].ID, 0, false).Allowed || g.MayPublish("up/other", 0, false).Allowed {
					t.Errorf("%s has not its own rules", clients[i].ID)
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	all.Wait()
	spent := time.Since(began)
	slices.Sort(took)
	t.Logf("%s: %d connects in %s, %.0f/s; median %s, 99 of 100 within %s", kind, n, spent.Round(time.Millisecond), float64(n)/spent.Seconds(), took[n/2].Round(10*time.Microsecond), took[n*99/100].Round(10*time.Microsecond))
}

func chainWith(t *testing.T, kind, text string) *Chain {
	t.Helper()
	env, _ := sourceEnv(t)
	var links []Link
	for _, l := range []struct{ kind, text string }{{kind, text}, {"anonymous", ""}}[:1+bit(kind == "acl_file")] {
		k, _ := KindOf(l.kind)
		links = append(links, Link{Label: l.kind, Kind: k, Timeout: patience, OnError: OnErrorDeny, Open: func(env Env) Source {
			_, table := authTable(l.text)
			return k.New(table, env)
		}})
	}
	chain := NewChain(links, env, func(string) {})
	if err := chain.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := chain.Close(); err != nil {
			t.Error(err)
		}
	})
	return chain
}

// clientsOf are n clients d0, d1, … with the password "public".
func clientsOf(n int) (clients []*Client) {
	for i := range n {
		c := who(fmt.Sprintf("d%d", i), fmt.Sprintf("d%d", i), "192.0.2.1")
		c.Password = []byte("public")
		clients = append(clients, c)
	}
	return clients
}

func manyRedis(t *testing.T, r *servers.RedisServer) {
	n := many()
	value := `{"passhash":"` + cryptOf(t, "public") + `","publish_acl":[{"pattern":"up/%c"}]}`
	r.CLI(t, "EVAL", `for i = 0, ARGV[1] - 1 do redis.call("SET", '["","d' .. i .. '","d' .. i .. '"]', ARGV[2]) end`, "0", fmt.Sprint(n), value)
	manyConnects(t, "redis", fmt.Sprintf("servers = [%q]", r.Addr), clientsOf(n))
}

func manySQL(t *testing.T, d *servers.Database) {
	n := many()
	const hash = "efa1f375d76194fa51a3556a97e641e61685f914d446979da50a551a4333ffd7" // sha256 of "public"
	numbers := fmt.Sprintf("(select seq as i from seq_0_to_%d) s", n-1)
	if d.Kind == "postgres" {
		numbers = fmt.Sprintf("generate_series(0, %d) as s(i)", n-1)
	}
	d.SQL(t, fmt.Sprintf("INSERT INTO mqtt_user (username, password) SELECT concat('d', i), '%s' FROM %s; DELETE FROM mqtt_acl; INSERT INTO mqtt_acl (id, allow, username, access, topic) VALUES (1, 1, '$all', 2, 'up/%%u')", hash, numbers))
	if d.Kind == "postgres" { // EMQX's schema has none here, its MySQL schema has one
		d.SQL(t, "CREATE INDEX ON mqtt_user (username); ANALYZE")
	}
	manyConnects(t, d.Kind, d.Settings, clientsOf(n))
}

func manyHTTP(t *testing.T, n int) (string, []*Client) {
	h, server := httpServer(t)
	f := func(w http.ResponseWriter, q map[string]any) {
		_, _ = io.WriteString(w, `{"result":"allow","rules":[{"access":"publish","filter":"up/%c"}]}`)
	}
	h.answer.Store(&f)
	return fmt.Sprintf("url = %q", server.URL), clientsOf(n)
}

func manyJWT(t *testing.T, n int) (string, []*Client) {
	k := newKeyring(t)
	clients := clientsOf(n)
	for _, c := range clients {
		c.Password = []byte(token(t, jose.ES256, k.ec, "", map[string]any{"sub": c.Username, "exp": in(time.Hour), "acl": map[string]any{"pub": []string{"up/%c"}}}))
	}
	return k.files(t), clients
}

func manyCertificates(t *testing.T, n int) (string, []*Client) {
	own := newCA(t, "Gateways")
	clients := clientsOf(n)
	var revoked []*x509.Certificate
	for _, c := range clients {
		c.Certificate = own.leaf(t, c.ID, nil)
	}
	for range 100 {
		revoked = append(revoked, own.leaf(t, "x", nil))
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "ca"), own.pem())
	write(t, filepath.Join(dir, "crl"), own.crl(t, time.Now().Add(time.Hour), revoked...))
	return fmt.Sprintf("ca_file = %q\ncrl_file = %q\npublish = [\"up/%%i\"]", filepath.Join(dir, "ca"), filepath.Join(dir, "crl")), clients
}

func manyACL(t *testing.T, n int) (string, []*Client) {
	file := filepath.Join(t.TempDir(), "acl.conf")
	write(t, file, `{allow, {ipaddr, "192.0.2.0/24"}, publish, ["up/%c"]}. {deny, all}.`)
	clients := clientsOf(n)
	for _, c := range clients {
		c.Username, c.Password = "", nil
	}
	return fmt.Sprintf("path = %q", file), clients
}
