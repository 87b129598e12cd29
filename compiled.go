package dynamicforward

import "reflect"

// method returns a method of the type of a value, as a function that has the receiver for
// its first argument. Yaegi has no method expressions for compiled types; and for x.Name(y)
// it looks the method up, and makes room for it in the frame, at each call, which costs more
// than a function that the caller has captured. So this is for what each plain request
// calls. Captured it has to be in a local variable, of the type that the method has, and by
// way of the reflect.Value's Interface: other ways, each call takes some more memory.
func method(of interface{}, name string) reflect.Value {
	m, known := reflect.TypeOf(of).MethodByName(name)
	if !known {
		panic("there is no method " + name)
	}
	return m.Func
}
