package guest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"
)

// QMP asks QEMU itself (docs/interop/qmp-spec.rst in its source); result may be nil.
func (g *Guest) QMP(command string, arguments, result any) error {
	conn, err := net.Dial("unix", filepath.Join(g.Dir, "qmp"))
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	from, to := json.NewDecoder(conn), json.NewEncoder(conn)
	var greeting struct{ QMP json.RawMessage }
	if err := from.Decode(&greeting); err != nil {
		return fmt.Errorf("QMP: %w", err)
	}
	for _, q := range []struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{{"qmp_capabilities", nil}, {command, arguments}} {
		if err := to.Encode(q); err != nil {
			return fmt.Errorf("QMP %s: %w", q.Execute, err)
		}
		got, err := returned(from)
		if err != nil {
			return fmt.Errorf("QMP %s: %w", q.Execute, err)
		}
		if q.Execute == command && result != nil {
			return json.Unmarshal(got, result)
		}
	}
	return nil
}

// returned passes over events.
func returned(from *json.Decoder) (json.RawMessage, error) {
	for {
		var m struct {
			Return json.RawMessage
			Error  *struct{ Desc string }
		}
		switch err := from.Decode(&m); {
		case err != nil:
			return nil, err
		case m.Error != nil:
			return nil, errors.New(m.Error.Desc)
		case m.Return != nil:
			return m.Return, nil
		}
	}
}

// Find is the path of the only part of the machine of a kind, "pl061" for one.
func (g *Guest) Find(kind string) (string, error) {
	const parts = "/machine/unattached"
	var all []struct{ Name, Type string }
	if err := g.QMP("qom-list", map[string]string{"path": parts}, &all); err != nil {
		return "", err
	}
	found := ""
	for _, p := range all {
		if p.Type == "child<"+kind+">" {
			if found != "" {
				return "", fmt.Errorf("more than one %s in the machine", kind)
			}
			found = parts + "/" + p.Name
		}
	}
	if found == "" {
		return "", fmt.Errorf("no %s in the machine", kind)
	}
	return found, nil
}

// Pins drives inputs of a part of the machine, over one connection to QEMU's test protocol
// (docs/devel/testing/qtest.rst in its source).
type Pins struct {
	conn net.Conn
	from *bufio.Reader
	part string
}

// Pins opens the one connection that QEMU takes at a time; Close it.
func (g *Guest) Pins(kind string) (*Pins, error) {
	part, err := g.Find(kind)
	if err != nil {
		return nil, err
	}
	conn, err := net.Dial("unix", filepath.Join(g.Dir, "qtest"))
	if err != nil {
		return nil, err
	}
	return &Pins{conn: conn, from: bufio.NewReader(conn), part: part}, nil
}

// Close ends the connection; the pins stay as they are.
func (p *Pins) Close() error { return p.conn.Close() }

// Set drives a pin, and returns when QEMU has done it.
func (p *Pins) Set(pin int, high bool) error {
	level := 0
	if high {
		level = 1
	}
	if err := p.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(p.conn, "set_irq_in %s unnamed-gpio-in %d %d\n", p.part, pin, level); err != nil {
		return err
	}
	line, err := p.from.ReadString('\n')
	if err == nil && strings.TrimSpace(line) != "OK" {
		err = errors.New(strings.TrimSpace(line))
	}
	if err != nil {
		return fmt.Errorf("pin %d: %w", pin, err)
	}
	return nil
}
