package e2e

import (
	"strings"
	"testing"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// A bad configuration is an error that names the option, and takes its own
// router alone.
func TestBadConfiguration(t *testing.T) {
	bad := map[string]stack.Options{
		"project":                            {"project": ""},
		"key":                                {"key": ""},
		"key: unclosed":                      {"key": "{nodeName"},
		"field: unknown":                     {"field": "{nonsense.threadId}"},
		"redis.endpoints":                    {"redis": stack.Options{"endpoints": []string{"nowhere"}}},
		"redis.db":                           {"redis": stack.Options{"endpoints": []string{"127.0.0.1:1"}, "db": -1}},
		"redis.dialTimeout":                  {"redis": stack.Options{"endpoints": []string{"127.0.0.1:1"}, "dialTimeout": "soon"}},
		"redis.readTimeout":                  {"redis": stack.Options{"endpoints": []string{"127.0.0.1:1"}, "readTimeout": "-1s"}},
		"redis.writeTimeout":                 {"redis": stack.Options{"endpoints": []string{"127.0.0.1:1"}, "writeTimeout": "1 s"}},
		"errorStatus":                        {"errorStatus": 42},
		"catchAll":                           {"catchAll": "nginx"},
		"serversTransport: of the service":   {"catchAll": "service", "serversTransport": stack.Options{"insecureSkipVerify": true}},
		"responseForwarding: of the service": {"catchAll": "service", "responseForwarding": stack.Options{"flushInterval": "1s"}},
		"websocket: of the service":          {"catchAll": "service", "websocket": stack.Options{"maxPerNode": 1}},
		"fallback: of the service":           {"catchAll": "service", "fallback": true},
		"responseForwarding":                 {"responseForwarding": stack.Options{"flushInterval": "soon"}},
		"serversTransport": {"serversTransport": stack.Options{
			"forwardingTimeouts": stack.Options{"responseHeaderTimeout": "later"},
		}},
	}
	conf := stack.Game(redisAt(redis))
	option := map[string]string{}
	for what, options := range bad {
		option[what], _, _ = strings.Cut(what, ":")
		name := strings.NewReplacer(".", "-", ": ", "-", " ", "-").Replace(what)
		if options["redis"] == nil {
			options = redisAt(redis, options)
		}
		conf.Routers[name] = stack.Router{Rule: "Path(`/" + name + "`)", Middlewares: []string{name}}
		conf.Middlewares[name] = options
	}
	own := start(t, stack.TraefikOptions{Dynamic: conf.YAML(), AllowErrors: true})
	refused := own.Errors()
	for what := range bad {
		name := strings.NewReplacer(".", "-", ": ", "-", " ", "-").Replace(what)
		found := false
		for _, line := range refused {
			if strings.Contains(line, "routerName="+name+"@file") {
				found = true
				if !strings.Contains(line, option[what]) {
					t.Errorf("%s: the error does not name the option %s: %s", what, option[what], line)
				}
			}
		}
		if !found {
			t.Errorf("%s: accepted", what)
		}
		resp, err := newClient(t).Get(own.URL() + "/" + name + place(t, node.Addr()))
		must(t, err)
		resp.Body.Close()
		if resp.StatusCode != 404 {
			t.Errorf("%s: the router answers %s", what, resp.Status)
		}
	}
	resp, err := newClient(t).Get(own.URL() + "/ws" + place(t, node.Addr()))
	must(t, err)
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("the router beside them answers %s", resp.Status)
	}
}

// Durations are as in Traefik: a string with a unit, or a bare number of
// seconds; numbers may come as text, as they do from labels.
func TestWeaklyTypedConfiguration(t *testing.T) {
	path := route(t, stack.Options{
		"passHostHeader": "false",
		"errorStatus":    "500",
		"redis": stack.Options{
			"endpoints": redis.Addr(), "db": "0", "dialTimeout": 2, "readTimeout": "2", "writeTimeout": "1500ms",
		},
		"serversTransport": stack.Options{"maxIdleConnsPerHost": "8", "forwardingTimeouts": stack.Options{"dialTimeout": 1}},
	})
	n := startNode(t, stack.NodeOptions{})
	wantNode(t, get(t, path+place(t, n.Addr())), n)
	if got := seen(t, n).Host; got != n.Addr() {
		t.Errorf("passHostHeader: \"false\": the node saw Host %s", got)
	}
	wantAnswer(t, get(t, path+query(nobody())), 500, "unknown-node")
}
