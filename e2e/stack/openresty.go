package stack

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// OpenResty is nginx with Lua that looks nodes up in Redis, as gateways did
// before: location /ws as it was, and location /kept, the same with connections
// to Redis and to nodes that are kept.
type OpenResty struct {
	addr, dir string
	process   *process
}

// luaModules is where Debian puts nginx's modules.
const luaModules = "/usr/lib/nginx/modules"

// ErrNoOpenResty means that nginx, its Lua module or its Redis driver is not
// installed (Debian: libnginx-mod-http-lua and lua-nginx-redis).
var ErrNoOpenResty = errors.New("no nginx with Lua and its Redis driver")

// StartOpenResty starts it, or says ErrNoOpenResty.
func StartOpenResty(redisAddr string) (*OpenResty, error) {
	nginx, err := exec.LookPath("nginx")
	if err != nil {
		return nil, ErrNoOpenResty
	}
	for _, file := range []string{luaModules + "/ngx_http_lua_module.so", "/usr/share/lua/5.1/nginx/redis.lua"} {
		if _, err := os.Stat(file); err != nil {
			return nil, ErrNoOpenResty
		}
	}
	dir, err := os.MkdirTemp("", "dynamicforward-openresty-")
	if err != nil {
		return nil, err
	}
	o := &OpenResty{dir: dir}
	if err := onFreePort(func(addr string) error { return o.start(nginx, addr, redisAddr) }); err != nil {
		o.Stop()
		return nil, err
	}
	return o, nil
}

func (o *OpenResty) start(nginx, addr, redisAddr string) error {
	o.addr = addr
	host, port, err := net.SplitHostPort(redisAddr)
	if err != nil {
		return err
	}
	conf := filepath.Join(o.dir, "nginx.conf")
	text := strings.NewReplacer("ADDR", addr, "REDIS_HOST", host, "REDIS_PORT", port, "MODULES", luaModules).Replace(openRestyConf)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return err
	}
	logFile := filepath.Join(o.dir, "nginx.log")
	_ = os.Remove(logFile)
	if o.process, err = startProcess(exec.Command(nginx, "-e", "stderr", "-p", o.dir, "-c", conf), logFile); err != nil {
		return err
	}
	answers := func() bool {
		resp, err := prober.Get("http://" + addr + "/alive")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == 200
	}
	if waitFor(patience, o.process.done, answers) {
		return nil
	}
	if strings.Contains(strings.ToLower(o.process.log()), "address already in use") {
		return fmt.Errorf("%s: %w", addr, errPortTaken)
	}
	return fmt.Errorf("nginx does not answer; the end of its log:\n%s", tail(o.process.log(), 10))
}

// openRestyConf: one worker for each core, as it was. Its access log of each node
// is left out, as Traefik's access log is.
const openRestyConf = `daemon off;
worker_processes auto;
worker_rlimit_nofile 20000;
pid nginx.pid;
error_log stderr error;
load_module MODULES/ndk_http_module.so;
load_module MODULES/ngx_http_lua_module.so;
events { worker_connections 16384; }
http {
  access_log off;
  keepalive_requests 100000000;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
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
    listen ADDR backlog=4096;
    location = /alive { return 200; }
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
}
`

// Addr returns the address, host:port.
func (o *OpenResty) Addr() string { return o.addr }

// Pids returns the process ids of the master and its workers.
func (o *OpenResty) Pids() []int {
	pids := []int{o.process.pid()}
	return append(pids, children(o.process.pid())...)
}

// Stop ends nginx and removes its files.
func (o *OpenResty) Stop() {
	if o.process != nil {
		o.process.stop(5 * time.Second)
	}
	_ = os.RemoveAll(o.dir)
}
