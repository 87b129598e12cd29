package dynamicforward

// shelf keeps at most max routes by key and field. Redis tells about changes by
// key, so a key's fields come and go together. It has no lock of its own.
type shelf struct {
	max   int
	count int
	keys  map[string]map[string]*route
}

func newShelf(max int) *shelf {
	return &shelf{max: max, keys: map[string]map[string]*route{}}
}

// get returns the route of a key and field, or nil.
func (s *shelf) get(key, field string) *route {
	return s.keys[key][field]
}

// put adds or replaces a route. Where there is no place left a key at random
// makes room: to lose a route costs one look-up, and an order of use would cost
// something at each request.
func (s *shelf) put(r *route) {
	fields := s.keys[r.key]
	if fields == nil {
		fields = map[string]*route{}
		s.keys[r.key] = fields
	}
	if old := fields[r.field]; old != nil {
		old.doubt()
	} else {
		s.count++
	}
	fields[r.field] = r
	for s.count > s.max {
		s.evict(r)
	}
}

// evict drops one key, at random, but not the route that has just come.
func (s *shelf) evict(newest *route) {
	for key := range s.keys { // Go begins anywhere in a map
		if key != newest.key {
			s.drop(key)
			return
		}
	}
	for field := range s.keys[newest.key] {
		if field != newest.field {
			s.remove(newest.key, field)
			return
		}
	}
}

// drop removes a key and returns its routes.
func (s *shelf) drop(key string) map[string]*route {
	fields := s.keys[key]
	for _, r := range fields {
		r.doubt()
	}
	s.count -= len(fields)
	delete(s.keys, key)
	return fields
}

// all returns every route.
func (s *shelf) all() []*route {
	routes := make([]*route, 0, s.count)
	for _, fields := range s.keys {
		for _, r := range fields {
			routes = append(routes, r)
		}
	}
	return routes
}

// dropAll removes the keys of the routes that which picks.
func (s *shelf) dropAll(which func(r *route) bool) {
	var picked []string
	for key, fields := range s.keys {
		for _, r := range fields {
			if which(r) {
				picked = append(picked, key)
				break
			}
		}
	}
	for _, key := range picked {
		s.drop(key)
	}
}

// remove removes a single route, if it is there.
func (s *shelf) remove(key, field string) {
	fields := s.keys[key]
	r := fields[field]
	if r == nil {
		return
	}
	r.doubt()
	s.count--
	delete(fields, field)
	if len(fields) == 0 {
		delete(s.keys, key)
	}
}
