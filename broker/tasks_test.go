package broker

import (
	"sync/atomic"
	"testing"
)

// TestTasks: who waits, waits for what begins meanwhile, too.
func TestTasks(t *testing.T) {
	var ts tasks
	ts.Wait() // there are none
	var done atomic.Int32
	for range 100 {
		ts.Go(func() {
			ts.Go(func() { done.Add(1) })
			done.Add(1)
		})
	}
	ts.Wait()
	if n := done.Load(); n != 200 {
		t.Errorf("%d of 200 are done", n)
	}
	ts.Go(func() { done.Add(1) })
	ts.Wait()
	if n := done.Load(); n != 201 {
		t.Errorf("%d of 201 are done", n)
	}
}
