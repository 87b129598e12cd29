package dynamicforward

import (
	"strconv"
	"testing"
)

func TestAMemoForgetsRatherThanGrows(t *testing.T) {
	m := &memo{max: 10}
	for i := 0; i < 95; i++ {
		m.put(strconv.Itoa(i), i)
		m.put(strconv.Itoa(i), i) // takes no place
		if m.get(strconv.Itoa(i)) != i {
			t.Fatalf("%d is not there", i)
		}
	}
	there := 0
	for i := 0; i < 95; i++ {
		if m.get(strconv.Itoa(i)) != nil {
			there++
		}
	}
	if there != 5 {
		t.Errorf("%d of 95 are there, want those since the last forgetting: 5", there)
	}
}
