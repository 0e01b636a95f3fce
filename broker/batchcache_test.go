package broker

import (
	"context"
	"errors"
	"sync"
	"testing"
)

// TestBatchIsReadOnce: however many want a batch at the same time, it is read once, and all get it, or the error.
func TestBatchIsReadOnce(t *testing.T) {
	broken := errors.New("broken")
	for _, want := range []error{nil, broken} {
		var c batchCache
		at, b := cursor{Node: "n1", Batch: 7}, &Batch{Header: Header{Number: 7}, Size: 1}
		entered, goOn := make(chan struct{}), make(chan struct{})
		reads := 0
		load := func() (*Batch, error) {
			reads++
			close(entered) // a second time panics
			<-goOn
			if want != nil {
				return nil, want
			}
			return b, nil
		}
		check := func() {
			if got, err := c.read(t.Context(), at, load); !errors.Is(err, want) || want == nil && got != b {
				t.Errorf("got %v, %v, want %v", got, err, want)
			}
		}
		var wg sync.WaitGroup
		wg.Go(check)
		<-entered
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.read(ended, at, load); !errors.Is(err, context.Canceled) {
			t.Errorf("who goes away while another reads gets %v", err)
		}
		for range 20 {
			wg.Go(func() { // waits, or comes when it is there
				if want == nil {
					check()
				}
			})
		}
		close(goOn)
		wg.Wait()
		if reads != 1 || len(c.reading) != 0 || (c.get("n1", 7) == b) != (want == nil) {
			t.Errorf("read %d times; kept: %v", reads, c.get("n1", 7) == b)
		}
	}
}

// TestBatchOfAReaderThatWasCancelled: who waits for a reader whose business ends reads for itself.
func TestBatchOfAReaderThatWasCancelled(t *testing.T) {
	var c batchCache
	at, b := cursor{Node: "n1", Batch: 7}, &Batch{Header: Header{Number: 7}, Size: 1}
	entered, goOn := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = c.read(t.Context(), at, func() (*Batch, error) {
			close(entered)
			<-goOn
			return nil, context.Canceled
		})
	})
	<-entered
	wg.Go(func() {
		if got, err := c.read(t.Context(), at, func() (*Batch, error) { return b, nil }); got != b || err != nil {
			t.Errorf("got %v, %v", got, err)
		}
	})
	close(goOn)
	wg.Wait()
}
