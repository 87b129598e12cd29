package dynamicforward

import (
	"strconv"
	"testing"
)

// shelved puts a route on a shelf and returns it.
func shelved(s *shelf, key, field string) *route {
	r := &route{key: key, field: field}
	s.put(r)
	return r
}

func TestAShelfKeepsRoutesByKeyAndField(t *testing.T) {
	s := newShelf(10)
	a1 := shelved(s, "a", "1")
	a2 := shelved(s, "a", "2")
	b1 := shelved(s, "b", "1")
	if s.get("a", "1") != a1 || s.get("a", "2") != a2 || s.get("b", "1") != b1 || s.get("b", "2") != nil || s.get("c", "1") != nil {
		t.Error("not what was put there")
	}
	if dropped := s.drop("a"); len(dropped) != 2 || s.get("a", "1") != nil || s.get("b", "1") != b1 || s.count != 1 {
		t.Errorf("after drop: %d dropped, %d left", len(dropped), s.count)
	}
	if a1.epoch != untrusted || a2.epoch != untrusted || b1.epoch == untrusted {
		t.Error("whoever still holds a dropped route must not trust it, and only then")
	}
	s.remove("b", "2")
	s.remove("b", "1")
	if s.count != 0 || len(s.keys) != 0 || b1.epoch != untrusted {
		t.Errorf("after remove: %d routes, %d keys", s.count, len(s.keys))
	}
}

func TestAShelfIsBounded(t *testing.T) {
	s := newShelf(10)
	routes := []*route{}
	for i := 0; i < 100; i++ {
		r := shelved(s, "key"+strconv.Itoa(i/2), strconv.Itoa(i%2))
		if s.get(r.key, r.field) != r {
			t.Fatal("the newest must stay")
		}
		routes = append(routes, r)
	}
	checkShelf(t, s, routes, 10)

	one := newShelf(10)
	routes = nil
	for i := 0; i < 100; i++ {
		routes = append(routes, shelved(one, "key", strconv.Itoa(i)))
	}
	checkShelf(t, one, routes, 10)
}

// checkShelf checks that a shelf has at most max of the routes, counts them
// right, and that nobody trusts the others.
func checkShelf(t *testing.T, s *shelf, routes []*route, max int) {
	t.Helper()
	there := 0
	for _, r := range routes {
		switch {
		case s.get(r.key, r.field) == r:
			there++
		case r.epoch != untrusted:
			t.Error("an evicted route is still trusted")
		}
	}
	if there != s.count || there > max || there < max-1 {
		t.Errorf("%d routes there, %d counted, at most %d allowed", there, s.count, max)
	}
}

func TestAReplacedRouteIsNotTrusted(t *testing.T) {
	s := newShelf(10)
	first := shelved(s, "a", "1")
	second := shelved(s, "a", "1")
	if s.count != 1 || s.get("a", "1") != second || first.epoch != untrusted {
		t.Errorf("%d routes", s.count)
	}
}
