package stack

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
)

// OpenResty is nginx with Lua that looks nodes up in Redis, as gateways did
// before: location /ws as it was, and location /kept, the same with connections
// to Redis and to nodes that are kept.
type OpenResty struct{ *Nginx }

// luaModules is where Debian puts nginx's modules.
const luaModules = "/usr/lib/nginx/modules"

// ErrNoOpenResty means that nginx, its Lua module or its Redis driver is not
// installed (Debian: libnginx-mod-http-lua and lua-nginx-redis).
var ErrNoOpenResty = errors.New("no nginx with Lua and its Redis driver")

// StartOpenResty starts it, or says ErrNoOpenResty. With the paths of a certificate and
// its key its clients have to speak TLS 1.3; empty: they must speak none.
func StartOpenResty(redisAddr, certFile, keyFile string) (*OpenResty, error) {
	if _, err := exec.LookPath("nginx"); err != nil {
		return nil, ErrNoOpenResty
	}
	for _, file := range []string{luaModules + "/ngx_http_lua_module.so", "/usr/share/lua/5.1/nginx/redis.lua"} {
		if _, err := os.Stat(file); err != nil {
			return nil, ErrNoOpenResty
		}
	}
	host, port, err := net.SplitHostPort(redisAddr)
	if err != nil {
		return nil, err
	}
	listen := "listen ADDR"
	if certFile != "" {
		listen = fmt.Sprintf("ssl_certificate %q;\n    ssl_certificate_key %q;\n    ssl_protocols TLSv1.3;\n    listen ADDR ssl", certFile, keyFile)
	}
	fill := strings.NewReplacer("REDIS_HOST", host, "REDIS_PORT", port, "MODULES", luaModules, "LISTEN", listen)
	n, err := startNginx(fill.Replace(openRestyMain), fill.Replace(openRestyHTTP))
	if err != nil {
		return nil, err
	}
	return &OpenResty{n}, nil
}

// openRestyMain: one worker for each core, as it was.
const openRestyMain = `worker_processes auto;
worker_rlimit_nofile 20000;
load_module MODULES/ndk_http_module.so;
load_module MODULES/ngx_http_lua_module.so;
events { worker_connections 16384; }
`

// openRestyHTTP leaves the access log of each node out, as Traefik's is.
const openRestyHTTP = `
  keepalive_requests 100000000;
  lua_package_path "/usr/share/lua/5.1/?.lua;;";
  init_by_lua_block {
    redis = require "nginx.redis"
    function find(keep)
      local args = ngx.req.get_uri_args()
      if not args.nodeName or not args.threadId or not args.platform then
        ngx.log(ngx.ERR, "a parameter is missing")
        return ngx.exit(500)
      end
      local red = redis:new()
      red:set_timeout(1000)
      local ok, err = red:connect("REDIS_HOST", REDIS_PORT)
      if not ok then
        ngx.log(ngx.ERR, "redis: ", err)
        return ngx.exit(500)
      end
      local key = "game-server_" .. args.platform .. "_node_" .. args.nodeName
      local node = red:hget(key, args.threadId)
      if not node or node == ngx.null or node == "" or node == "null" or node == "NULL" then
        ngx.log(ngx.ERR, "no such node: ", key)
        return ngx.exit(500)
      end
      if keep then red:set_keepalive(60000, 100) else red:close() end
      return node
    end
  }
  upstream kept {
    server 0.0.0.1;
    balancer_by_lua_block {
      local balancer = require "ngx.balancer"
      balancer.set_current_peer(ngx.ctx.host, ngx.ctx.port)
    }
    keepalive 256;
    keepalive_requests 100000000;
  }
  map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
  server {
    LISTEN backlog=4096;
    location = /ws {
      set $backend_node '';
      access_by_lua_block { ngx.var.backend_node = find(false) }
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection "upgrade";
      proxy_set_header Host $http_host;
      proxy_set_header X-Real-IP $remote_addr;
      proxy_set_header X-Forwarded-For "$remote_addr:$remote_port";
      proxy_redirect off;
      proxy_read_timeout 3600s;
      proxy_pass http://$backend_node;
    }
    location = /kept {
      access_by_lua_block {
        ngx.ctx.host, ngx.ctx.port = find(true):match("^(.*):(%d+)$")
        ngx.ctx.port = tonumber(ngx.ctx.port)
      }
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_set_header Host $http_host;
      proxy_set_header X-Real-IP $remote_addr;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_redirect off;
      proxy_read_timeout 3600s;
      proxy_pass http://kept;
    }
  }
`

// Pids returns the process ids of the master and its workers.
func (o *OpenResty) Pids() []int {
	pids := []int{o.process.pid()}
	return append(pids, children(o.process.pid())...)
}
