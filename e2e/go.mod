module github.com/lifesix/dynamicforward/e2e

go 1.25.0

tool github.com/traefik/yaegi/cmd/yaegi

require (
	github.com/alicebob/miniredis/v2 v2.40.0
	github.com/coder/websocket v1.8.15
	github.com/gomodule/redigo v1.9.3
)

require (
	github.com/traefik/yaegi v0.16.1 // indirect
	github.com/yuin/gopher-lua v1.1.1 // indirect
)
