module github.com/lifesix/dynamicforward

go 1.21

require (
	github.com/gomodule/redigo v1.9.3
	github.com/mna/redisc v1.4.0
	github.com/traefik/genconf v0.5.2
)
