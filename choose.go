package dynamicforward

import "reflect"

// choose waits until one of the channels has something to receive or is closed.
// It returns which, counted from 0, and what came: nil from one that is closed.
//
// It stands for select statements that more than one goroutine can come to. Yaegi
// keeps the cases of a statement once for all goroutines, so two that come to it
// at the same moment take each other's channels; in interpreted code a select is
// therefore as dangerous as a map that is written without a lock. What a call of
// choose waits for belongs to that call. Plain sends and receives are safe too.
func choose(channels ...interface{}) (int, interface{}) {
	cases := make([]reflect.SelectCase, len(channels))
	for i, channel := range channels {
		cases[i].Dir = reflect.SelectRecv
		cases[i].Chan = reflect.ValueOf(channel)
	}
	which, value, ok := reflect.Select(cases)
	if !ok {
		return which, nil
	}
	return which, value.Interface()
}

// nudge leaves a word in a channel that has room for one, unless one is there.
func nudge(channel chan struct{}) {
	reflect.ValueOf(channel).TrySend(reflect.ValueOf(struct{}{}))
}
