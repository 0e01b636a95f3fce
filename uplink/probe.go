package uplink

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
)

// Probed is what one server said to a Probe.
type Probed struct {
	Server string // without credentials
	Err    error  // nil: it took the login
}

// Probe logs in to each server, one after the other, each for at most limit, and
// leaves at once. It does so as a client of its own (the client id with "-check"
// behind it, no session), so that an agent that is connected stays so.
func Probe(ctx context.Context, cfg Config, limit time.Duration) []Probed {
	var all []Probed
	for _, text := range cfg.Servers {
		s, err := parseServer(text)
		if err != nil {
			all = append(all, Probed{text, err})
			continue
		}
		all = append(all, Probed{s.String(), probe(ctx, s, cfg, limit)})
	}
	return all
}

func probe(ctx context.Context, s server, cfg Config, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	login, err := cfg.connectPacket()
	if err != nil {
		return err
	}
	login.ClientID += "-check"
	login.CleanStart, login.Properties.SessionExpiryInterval = true, nil
	nc, err := dial(ctx, s, cfg, nil)
	if err != nil {
		return err
	}
	defer func() { _ = nc.Close() }() // paho has closed it unless it never began
	client := paho.NewClient(paho.ClientConfig{Conn: nc, AuthHandler: noAuth{}, PacketTimeout: limit})
	ack, err := client.Connect(ctx, login)
	switch {
	case err == nil:
		return client.Disconnect(&paho.Disconnect{ReasonCode: packets.DisconnectNormalDisconnection})
	case ack != nil && ack.ReasonCode >= 0x80 && ack.Properties != nil:
		text := refusal("CONNACK", ack.ReasonCode, ack.Properties.ReasonString)
		if cfg.CertFile != "" && reasonOf(ack.ReasonCode).connack == stop {
			text += fmt.Sprintf("; or it binds certificates to client ids: this check is %q, so as not to disturb the agent, and such a broker refuses it and lets the agent in (holdfast status)", login.ClientID)
		}
		return errors.New(text)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no CONNACK within %v: does an MQTT broker listen at this port?", limit)
	}
	return fmt.Errorf("CONNACK: %w: does the server speak MQTT 5?", err)
}
