package dynamicforward

import (
	"sync"
	"sync/atomic"
)

// memo is a map for reading without a lock that holds at most max values. When
// there are too many all are forgotten: that costs little, since whoever asks
// can make a value again, and an order of use would cost something at each get.
type memo struct {
	max    int64
	count  atomic.Int64
	values sync.Map
}

// get returns what is remembered, or nil.
func (m *memo) get(key string) interface{} {
	value, _ := m.values.Load(key)
	return value
}

// put remembers a value, in place of an older one with the same key.
func (m *memo) put(key string, value interface{}) {
	_, replaced := m.values.Swap(key, value)
	if !replaced {
		m.bound(key)
	}
}

// keep remembers a value unless there is one already, and returns the one that
// is remembered.
func (m *memo) keep(key string, value interface{}) interface{} {
	kept, known := m.values.LoadOrStore(key, value)
	if !known {
		m.bound(key)
	}
	return kept
}

// bound forgets all but the value that has just come, if there are too many.
func (m *memo) bound(key string) {
	if m.count.Add(1) <= m.max {
		return
	}
	m.count.Store(1)
	forget := func(old, _ interface{}) bool {
		if old != key {
			m.values.Delete(old)
		}
		return true
	}
	m.values.Range(forget)
}
