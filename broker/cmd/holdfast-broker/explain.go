package main

import (
	"fmt"
	"net/url"

	"github.com/spf13/cobra"

	"holdfast/broker"
	"holdfast/broker/admin"
)

func (a *app) explainCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "explain CLIENT-ID TOPIC",
		Short: "Say whether a client may publish to a topic and gets messages on it, and why",
		Long: `Says for one client and one topic: may it publish, and what rule decides; would it get a
message that is published now, and what stands between; which of its subscriptions match,
and which almost do; what was discarded of it. It publishes and changes nothing.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, list []string) error {
			return a.ask(func(c *admin.Client) error {
				var e broker.Explanation
				q := url.Values{"client": {list[0]}, "topic": {list[1]}}
				if err := c.Get(cmd.Context(), "/v1/explain?"+q.Encode(), &e); err != nil {
					return err
				}
				if a.JSON {
					return a.PrintJSON(e)
				}
				a.printExplanation(&e)
				return nil
			})
		},
		ValidArgsFunction: a.completeClient,
	}
}

func (a *app) printExplanation(e *broker.Explanation) {
	say := func(v broker.Verdicts, words map[string]string) {
		fmt.Fprintln(a.Stdout, words[v.Answer])
		for _, why := range v.Why {
			fmt.Fprintf(a.Stdout, "  %s\n", printable(why))
		}
	}
	client, topic := printable(e.Client), printable(e.Topic)
	say(e.Publish, map[string]string{
		broker.ExplainYes: fmt.Sprintf("%s may publish to %s", client, topic),
		broker.ExplainNo:  fmt.Sprintf("%s may NOT publish to %s", client, topic),

		broker.ExplainUnknown: fmt.Sprintf("whether %s may publish to %s is known when it connects", client, topic),
	})
	say(e.Receive, map[string]string{
		broker.ExplainYes:   fmt.Sprintf("%s gets a message on %s at once", client, topic),
		broker.ExplainNo:    fmt.Sprintf("%s does NOT get a message on %s", client, topic),
		broker.ExplainLater: fmt.Sprintf("%s gets a message on %s later", client, topic),
		broker.ExplainMaybe: fmt.Sprintf("%s or another member of its group gets a message on %s", client, topic),
	})
	for _, n := range e.NearMiss {
		fmt.Fprintf(a.Stdout, "  not by %s\n", printable(n))
	}
	if r := e.Retained; r != nil {
		expired := ""
		if r.Expired {
			expired = ", expired"
		}
		fmt.Fprintf(a.Stdout, "retained: %d bytes, QoS %d, by %s at %s%s: who subscribes gets it\n", r.Bytes, r.QoS, printable(r.Client), stamp(r.Arrived), expired)
	}
	for _, x := range e.Discarded {
		fmt.Fprintf(a.Stdout, "discarded: %s, %s, last at %s: %s\n", amount(x.Messages, x.Batches), x.Reason, stamp(x.Last), broker.DiscardHelp[x.Reason])
	}
}
