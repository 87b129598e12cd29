# Each target does all its own set-up on a machine with Go and Debian or Ubuntu.
# TRAEFIK_BIN=/path uses a Traefik that is there; TRAEFIK_VERSION=v3.x.y builds
# another one than the reference.

.PHONY: demo test vendor lint fuzz bench capacity

demo: ## a real Traefik with the plugin, a Redis and two nodes, to play with
	@ci/traefik.sh
	@cd e2e && go run ./demo

test: ## everything: compiled, interpreted, in Traefik
	@ci/test.sh

vendor: ## recreates vendor/ from upstream and patches/
	@ci/vendor.sh

lint: ## gofmt, vet, staticcheck
	@ci/lint.sh

fuzz: ## ten minutes for each fuzz target; FUZZTIME=30s or 60000x for less
	@ci/fuzz.sh

bench: ## measures against a static Traefik route and OpenResty; writes docs/bench/
	@ci/install.sh redis-server nginx-light libnginx-mod-http-lua lua-nginx-redis wrk
	@ci/traefik.sh
	@cd e2e && go run ./bench

capacity: ## what so many players need, from what make bench has measured; writes docs/capacity.md
	@cd e2e && go run ./capacity
