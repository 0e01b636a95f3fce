package broker

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
)

func contents(st *stateStore) map[string]string {
	m := map[string]string{}
	_ = st.Each("", func(k string, v []byte) error { m[k] = string(v); return nil })
	return m
}

// TestStateCompaction: while writers go on, the stream is written anew and its beginning goes;
// what was put last is what is there, also after a restart.
func TestStateCompaction(t *testing.T) {
	cfg := testConfig(t.TempDir())
	b := start(t, cfg)
	b.state.slack = 20 << 10
	ctx := context.Background()
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := range 100 {
				if err := b.state.Put(ctx, fmt.Sprintf("test/%d/%d", w, i%7), []byte(fmt.Sprint(i, strings.Repeat("x", 500)))); err != nil {
					t.Error(err)
				}
				if i%10 == 0 {
					if err := b.state.compact(ctx); err != nil {
						t.Error(err)
					}
				}
			}
			if err := b.state.Delete(ctx, fmt.Sprintf("test/%d/0", w)); err != nil {
				t.Error(err)
			}
		})
	}
	writers.Wait()
	first, _, _, err := b.state.stream.bounds(ctx)
	if err != nil || first <= 1 {
		t.Errorf("nothing was purged: %d, %v", first, err)
	}
	want := contents(b.state)
	for w := range 4 {
		for k, last := range map[int]int{1: 99, 2: 93, 6: 97} {
			if v := want[fmt.Sprintf("test/%d/%d", w, k)]; !strings.HasPrefix(v, fmt.Sprint(last)) {
				t.Errorf("%d/%d holds %.5s", w, k, v)
			}
		}
		if _, there := want[fmt.Sprintf("test/%d/0", w)]; there {
			t.Error("a deleted key is there")
		}
	}
	b.stop()
	b = start(t, cfg)
	got := contents(b.state)
	for k, v := range want {
		if strings.HasPrefix(k, "test/") && got[k] != v {
			t.Errorf("%s: %.10s, before the restart %.10s", k, got[k], v)
		}
	}
}
