package broker

import "sync"

// tasks are goroutines that the broker waits for when it ends. Unlike those of a WaitGroup, more may begin
// while somebody waits: what the writers tell when they store their last batches begins some.
type tasks struct {
	mu sync.Mutex
	n  int
	no chan struct{} // closed when there are none; nil: nobody waits
}

func (t *tasks) Go(fn func()) {
	t.mu.Lock()
	t.n++
	t.mu.Unlock()
	go func() {
		defer t.done()
		fn()
	}()
}

func (t *tasks) done() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n--; t.n == 0 && t.no != nil {
		close(t.no)
		t.no = nil
	}
}

// Wait returns once there are none.
func (t *tasks) Wait() {
	t.mu.Lock()
	if t.n == 0 {
		t.mu.Unlock()
		return
	}
	if t.no == nil {
		t.no = make(chan struct{})
	}
	no := t.no
	t.mu.Unlock()
	<-no
}
