package differential

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
)

// The shapes of the differential test, in the order of RFC 9110: what is asked, what is answered, what is upgraded.
var shapes = []shape{
	// Methods.
	{name: "GET", client: ask(get()), node: says(ok)},
	{name: "HEAD", client: ask(line("HEAD /game HTTP/1.1")), node: says("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")},
	{name: "HEAD without a length", client: ask(line("HEAD /game HTTP/1.1")), node: says("HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\n")},
	{name: "HEAD to a chunked answer", client: ask(line("HEAD /game HTTP/1.1")), node: says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")},
	{name: "POST", client: ask(post("hello")), node: says(ok)},
	{name: "PUT", client: ask(line("PUT /game HTTP/1.1", "Content-Length: 5") + "hello"), node: says(ok)},
	{name: "PATCH", client: ask(line("PATCH /game HTTP/1.1", "Content-Length: 5") + "hello"), node: says(ok)},
	{name: "DELETE", client: ask(line("DELETE /game HTTP/1.1")), node: says(ok)},
	{name: "DELETE with a body", client: ask(line("DELETE /game HTTP/1.1", "Content-Length: 5") + "hello"), node: says(ok)},
	{name: "OPTIONS", client: ask(line("OPTIONS /game HTTP/1.1")), node: says("HTTP/1.1 204 No Content\r\nAllow: GET, POST\r\n\r\n")},
	{name: "OPTIONS of everything", client: ask(line("OPTIONS * HTTP/1.1")), node: says(ok)},
	{name: "TRACE", client: ask(line("TRACE /game HTTP/1.1")), node: says(ok)},
	{name: "CONNECT", client: ask(line("CONNECT game.example:80 HTTP/1.1")), node: says(ok)},
	{name: "a method nobody knows", client: ask(line("PURGE /game HTTP/1.1")), node: says(ok)},
	{name: "a method in small letters", client: ask(line("get /game HTTP/1.1")), node: says(ok)},

	// Bodies of requests.
	{name: "GET with a body", client: ask(get("Content-Length: 5") + "hello"), node: says(ok)},
	{name: "POST of nothing", client: ask(post("")), node: says(ok)},
	{name: "POST without a length", client: ask(line("POST /game HTTP/1.1")), node: says(ok)},
	{name: "POST of 64 KiB", client: ask(post(long(64 << 10))), node: says(ok)},
	{name: "POST of 4 MiB", client: ask(post(long(4 << 20))), node: says(ok)},
	{name: "POST in chunks", client: ask(chunked("5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n")), node: says(ok)},
	{name: "POST in chunks of nothing", client: ask(chunked("0\r\n\r\n")), node: says(ok)},
	{name: "POST in chunks of 1 MiB", client: ask(chunked("100000\r\n" + long(1<<20) + "\r\n0\r\n\r\n")), node: says(ok)},
	{name: "a length and chunks", client: ask(chunked("5\r\nhello\r\n0\r\n\r\n", "Content-Length: 3")), node: says(ok)},
	{name: "two lengths", client: ask(post("hello", "Content-Length: 6")), node: says(ok)},
	{name: "trailers announced", client: ask(chunked("5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", "Trailer: X-Sum")), node: says(ok)},
	{name: "trailers not announced", client: ask(chunked("5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n")), node: says(ok)},
	{name: "100-continue accepted", client: expects("hello"), node: continues},
	{name: "100-continue refused", client: expects("hello"), node: refuses},
	{name: "100-continue not waited for", client: ask(post("hello", "Expect: 100-continue")), node: continues},
	{name: "another expectation", client: ask(post("hello", "Expect: 200-ok")), node: says(ok)},

	// Headers of requests.
	{name: "an empty value", client: ask(get("X-Empty:")), node: says(ok)},
	{name: "a repeated header", client: ask(get("X-Twice: 1", "x-twice: 2", "X-TWICE:")), node: says(ok)},
	{name: "names in any case", client: ask(get("x-small: 1", "X-LARGE: 2", "x_under: 3", "1-2: 4")), node: says(ok)},
	{name: "white space around values", client: ask(get("X-Wide:  \t a  b \t ")), node: says(ok)},
	{name: "bytes beyond ASCII", client: ask(get("X-Name: 游戏\xff")), node: says(ok)},
	{name: "a value of 8 KiB", client: ask(get("X-Long: " + long(8<<10))), node: says(ok)},
	{name: "200 headers", client: ask(get(many(200)...)), node: says(ok)},
	{name: "no User-Agent", client: ask("GET /game HTTP/1.1\r\nHost: game.example\r\nAccept-Encoding: br\r\n\r\n"), node: says(ok)},
	{name: "an empty User-Agent", client: ask("GET /game HTTP/1.1\r\nHost: game.example\r\nAccept-Encoding: br\r\nUser-Agent:\r\n\r\n"), node: says(ok)},
	{name: "Accept-Encoding gzip", client: ask(bare("GET /game HTTP/1.1", "Accept-Encoding: gzip")), node: says(gzipped)},
	{name: "Accept-Encoding br, gzip", client: ask(bare("GET /game HTTP/1.1", "Accept-Encoding: br;q=1.0, gzip;q=0.5")), node: says(ok)},
	{name: "an empty Accept-Encoding", client: ask(bare("GET /game HTTP/1.1", "Accept-Encoding:")), node: says(ok), differs: noGzip},
	{name: "no Accept-Encoding", client: ask(bare("GET /game HTTP/1.1")), node: says(ok), differs: noGzip},
	{name: "no Accept-Encoding and a node that likes gzip", client: ask(bare("GET /game HTTP/1.1")), node: zips, differs: noGzip},
	{name: "no Accept-Encoding, with a body", client: ask(bare("POST /game HTTP/1.1", "Content-Length: 5") + "hello"), node: says(ok), differs: noGzip},
	{name: "Range", client: ask(bare("GET /game HTTP/1.1", "Range: bytes=0-1")), node: says("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-1/10\r\nContent-Length: 2\r\n\r\nok")},
	{name: "If-None-Match", client: ask(get(`If-None-Match: "a"`)), node: says("HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n")},
	{name: "304 with a length", client: ask(get()), node: says("HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\nLast-Modified: Tue, 01 Jan 2030 00:00:00 GMT\r\n\r\n")},
	{name: "cookies", client: ask(get("Cookie: a=1; b=2", "Cookie: c=\"3\"")), node: says("HTTP/1.1 200 OK\r\nSet-Cookie: a=1; Path=/; HttpOnly\r\nSet-Cookie: b=\r\nContent-Length: 0\r\n\r\n")},
	{name: "Authorization", client: ask(get("Authorization: Basic YTpi")), node: says("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n")},
	{name: "X-Forwarded-* from the client", client: ask(get("X-Forwarded-For: 203.0.113.9", "X-Forwarded-Host: a", "X-Forwarded-Proto: https", "X-Forwarded-Port: 1", "X-Forwarded-Server: b", "X-Forwarded-Prefix: /c", "X-Real-Ip: 203.0.113.9")), node: says(ok)},
	{name: "Forwarded and Via", client: ask(get("Forwarded: for=203.0.113.9", "Via: 1.1 somebody")), node: says(ok)},

	// Headers of one connection alone.
	{name: "Connection: close", client: ask(get("Connection: close")), node: says(ok)},
	{name: "Connection: keep-alive", client: ask(get("Connection: keep-alive", "Keep-Alive: timeout=5")), node: says(ok)},
	{name: "Connection names a header", client: ask(get("Connection: X-Mine, keep-alive", "X-Mine: 1", "X-Other: 2")), node: says(ok)},
	{name: "Connection names headers in small letters", client: ask(get("Connection: x-mine", "Connection: x-other", "X-Mine: 1", "X-Other: 2")), node: says(ok)},
	{name: "Connection names X-Forwarded-For", client: ask(get("Connection: X-Forwarded-For, X-Real-Ip, Cookie, Host", "Cookie: a=1")), node: says(ok)},
	{name: "Connection is empty", client: ask(get("Connection:", "Connection: ,")), node: says(ok)},
	{name: "Proxy headers", client: ask(get("Proxy-Connection: keep-alive", "Proxy-Authorization: Basic YTpi", "Proxy-Authenticate: a", "Proxy: http://a")), node: says(ok)},
	{name: "TE: trailers", client: ask(get("TE: trailers")), node: says(ok)},
	{name: "TE: trailers, named by Connection", client: ask(get("TE: trailers", "Connection: TE")), node: says(ok)},
	{name: "TE: gzip", client: ask(get("TE: gzip, deflate")), node: says(ok)},
	{name: "Trailer without trailers", client: ask(get("Trailer: X-Sum")), node: says(ok)},

	// Targets.
	{name: "a path with encoded slashes", client: ask(line("GET /a%2Fb%2fc HTTP/1.1")), node: says(ok)},
	{name: "a path with encoded dots", client: ask(line("GET /a/%2e%2e/b HTTP/1.1")), node: says(ok)},
	{name: "a path with dots", client: ask(line("GET /a/../b/./c HTTP/1.1")), node: says(ok)},
	{name: "a path with double slashes", client: ask(line("GET //a//b/ HTTP/1.1")), node: says(ok)},
	{name: "a path with encoded text", client: ask(line("GET /%E6%B8%B8%20%41+b HTTP/1.1")), node: says(ok)},
	{name: "a path with characters left as they are", client: ask(line("GET /a|b^c'd\"e[f]{g}!$&()*,;=:@~ HTTP/1.1")), node: says(ok)},
	{name: "a path with bytes beyond ASCII", client: ask(line("GET /游戏 HTTP/1.1")), node: says(ok)},
	{name: "a path with a broken escape", client: ask(line("GET /%zz HTTP/1.1")), node: says(ok)},
	{name: "a path with a fragment", client: ask(line("GET /a#b HTTP/1.1")), node: says(ok)},
	{name: "an empty query", client: ask(line("GET /game? HTTP/1.1")), node: says(ok)},
	{name: "a query with semicolons", client: ask(line("GET /game?a=1;b=2&c=3 HTTP/1.1")), node: says(ok)},
	{name: "a query with broken escapes", client: ask(line("GET /game?a=%zz&b=%e&c=% HTTP/1.1")), node: says(ok)},
	{name: "a query with anything", client: ask(line("GET /game?a=1+1&a=%2F&=x&&b?c=/d|e HTTP/1.1")), node: says(ok)},
	{name: "a target of 6 KiB", client: ask(line("GET /game?a=" + long(6<<10) + " HTTP/1.1")), node: says(ok)},
	{name: "an absolute target", client: ask(line("GET http://game.example/game?a=b HTTP/1.1")), node: says(ok)},
	{name: "an absolute target on another host", client: ask(line("GET https://other.example:1/game?a=b HTTP/1.1")), node: says(ok)},
	{name: "an empty Host", client: ask("GET /game HTTP/1.1\r\nHost:\r\n" + identity + "\r\n\r\n"), node: says(ok)},
	{name: "a Host with a port", client: ask("GET /game HTTP/1.1\r\nHost: GAME.example:8080\r\n" + identity + "\r\n\r\n"), node: says(ok)},

	// Versions, and connections with more than one request.
	{name: "HTTP/1.0", client: ask(line("GET /game HTTP/1.0")), node: says(ok)},
	{name: "HTTP/1.0 without a host", client: ask("GET /game HTTP/1.0\r\n" + identity + "\r\n\r\n"), node: says(ok)},
	{name: "HTTP/1.0 kept alive", client: ask(line("GET /game HTTP/1.0", "Connection: keep-alive")), node: says(ok)},
	{name: "HTTP/1.0 and a chunked answer", client: ask(line("GET /game HTTP/1.0")), node: says(inChunks)},
	{name: "three requests in turn", client: inTurn(get(), post("hello"), get("X-A: 3")), node: says(ok)},
	{name: "four requests pipelined", client: ask(get(), post("hello"), line("HEAD /game HTTP/1.1"), get("X-A: 4")), node: says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")},
	{name: "HTTP/2", client: overHTTP2("GET", "", nil), node: says(ok)},
	{name: "HTTP/2 HEAD", client: overHTTP2("HEAD", "", nil), node: says("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")},
	{name: "HTTP/2 POST", client: overHTTP2("POST", "hello", nil), node: says(inChunks)},
	{name: "HTTP/2 with trailers both ways", client: overHTTP2("POST", "hello", http.Header{"X-Sum": {"1"}}, "TE: trailers"), node: says(withTrailers)},
	{name: "HTTP/2 and early hints", client: overHTTP2("GET", "", nil), node: says(hints + ok)},

	// Answers.
	{name: "200 in chunks", client: ask(get()), node: says(inChunks)},
	{name: "200 until the end of the connection", client: ask(get()), node: saysAndCloses("HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\nhello")},
	{name: "200 in HTTP/1.0", client: ask(get()), node: saysAndCloses("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello")},
	{name: "200 of 4 MiB", client: ask(get()), node: says(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", 4<<20, long(4<<20)))},
	{name: "200 in chunks of 1 MiB", client: ask(get()), node: says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n100000\r\n" + long(1<<20) + "\r\n0\r\n\r\n")},
	{name: "200 without a Content-Type", client: ask(get()), node: says("HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<html></html>")},
	{name: "200 that closes", client: ask(get()), node: saysAndCloses("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")},
	{name: "200 with a Date and a Server", client: ask(get()), node: says("HTTP/1.1 200 OK\r\nDate: Tue, 01 Jan 2030 00:00:00 GMT\r\nServer: node\r\nContent-Length: 0\r\n\r\n")},
	{name: "200 with odd headers", client: ask(get()), node: says("HTTP/1.1 200 OK\r\nX-Empty:\r\nx-small: 1\r\nX-Twice: 1\r\nX-Twice: 2\r\nContent-Length: 0\r\n\r\n")},
	{name: "200 with headers of the connection", client: ask(get()), node: says("HTTP/1.1 200 OK\r\nConnection: X-Mine, keep-alive\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: a\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n")},
	{name: "200 with trailers announced", client: ask(get("TE: trailers")), node: says(withTrailers)},
	{name: "200 with trailers not announced", client: ask(get()), node: says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n")},
	{name: "201 with a Location", client: ask(post("hello")), node: says("HTTP/1.1 201 Created\r\nLocation: /game/1\r\nContent-Length: 0\r\n\r\n")},
	{name: "204", client: ask(get()), node: says("HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n")},
	{name: "205", client: ask(get()), node: says("HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n")},
	{name: "302 to a Location", client: ask(get()), node: says("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/elsewhere?a=b\r\nContent-Length: 0\r\n\r\n")},
	{name: "400", client: ask(get()), node: says("HTTP/1.1 400 Bad Request\r\nContent-Length: 4\r\n\r\nbad\n")},
	{name: "500", client: ask(get()), node: says("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")},
	{name: "502", client: ask(get()), node: says("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\nbad\n")},
	{name: "503 with Retry-After", client: ask(get()), node: says("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n")},
	{name: "599 in its own words", client: ask(get()), node: says("HTTP/1.1 599 Out Of Cheese\r\nContent-Length: 0\r\n\r\n")},
	{name: "103 early hints", client: ask(get()), node: says(hints + ok)},
	{name: "102, 103 and 103", client: ask(get()), node: says("HTTP/1.1 102 Processing\r\n\r\n" + hints + hints + ok)},
	{name: "100 unasked", client: ask(get()), node: says("HTTP/1.1 100 Continue\r\n\r\n" + ok)},

	// Answers that come bit by bit.
	{name: "server-sent events", client: streams, node: bitByBit("Content-Type: text/event-stream", "Transfer-Encoding: chunked")},
	{name: "a stream in chunks", client: streams, node: bitByBit("Content-Type: text/plain", "Transfer-Encoding: chunked")},
	{name: "a slow answer of a known length", client: streams, node: bitByBit("Content-Type: text/plain", "Content-Length: 30")},

	// Nodes that fail.
	{name: "closes at once", client: ask(get()), node: func(*server) {}, differs: ownAnswers},
	{name: "closes after the request", client: ask(get()), node: saysAndCloses(""), differs: ownAnswers},
	{name: "closes after a POST", client: ask(post("hello")), node: saysAndCloses(""), differs: ownAnswers},
	{name: "closes within the head", client: ask(get()), node: saysAndCloses("HTTP/1.1 200 OK\r\nX-A"), differs: ownAnswers},
	{name: "closes within a body", client: cutShort(get()), node: saysAndCloses("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")},
	{name: "closes within chunks", client: cutShort(get()), node: saysAndCloses("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhello")},
	{name: "closes after early hints", client: ask(get()), node: saysAndCloses(hints), differs: ownAnswers},
	{name: "says more than it promised", client: ask(get()), node: says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more")},
	{name: "two lengths in an answer", client: ask(get()), node: saysAndCloses("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"), differs: ownAnswers},
	{name: "a chunk that is none", client: cutShort(get()), node: saysAndCloses("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n")},
	{name: "does not speak HTTP", client: ask(get()), node: saysAndCloses("SSH-2.0-node\r\n"), differs: ownAnswers},
	{name: "101 unasked", client: ask(get()), node: saysAndCloses(switched("websocket")), differs: ownAnswers},

	// Clients that say that they are done, and listen. net/http takes them for ones that have gone.
	{name: "done before the answer", client: doneBeforeTheAnswer(get()), node: answersNobody("")},
	{name: "done within an answer", client: doneWithinTheAnswer(get()), node: answersNobody("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nthe start\n")},
	{name: "done within an answer in chunks", client: doneWithinTheAnswer(get()), node: answersNobody("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nthe start\n\r\n")},
	{name: "done within the answer to a POST", client: doneWithinTheAnswer(post("hello")), node: answersNobody("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nthe start\n")},
	{name: "done before the answer to a handshake", client: doneBeforeTheAnswer(handshake()), node: answersNobody("")},
	{name: "done while a handshake is declined", client: doneWithinTheAnswer(handshake()), node: answersNobody("HTTP/1.1 403 Forbidden\r\nContent-Length: 20\r\n\r\nthe start\n")},

	// Upgrades.
	{name: "upgrade", client: upgrades(handshake()), node: echoes(switched("websocket")), differs: asWritten},
	{name: "upgrade with a subprotocol", client: upgrades(handshake("Sec-WebSocket-Protocol: chat, superchat", "Origin: http://game.example")), node: echoes(switched("websocket", "Sec-WebSocket-Protocol: chat"))},
	{name: "upgrade with an extension", client: upgrades(handshake("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")), node: echoes(switched("websocket", "Sec-WebSocket-Extensions: permessage-deflate"))},
	{name: "upgrade in odd spellings", client: upgrades(line("GET /game HTTP/1.1", "connection: keep-alive,  UPGRADE", "upgrade: WebSocket", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", "sec-websocket-version: 13")), node: echoes(switched("websocket"))},
	{name: "upgrade with other headers", client: upgrades(handshake("Cookie: a=1", "X-Twice: 1", "X-Twice: 2", "X-Empty:", "X-Forwarded-For: 203.0.113.9", "Keep-Alive: timeout=5", "Proxy-Authorization: Basic YTpi")), node: echoes(switched("websocket", "Set-Cookie: a=1", "Set-Cookie: b=2", "X-Empty:", "Server: node"))},
	{name: "upgrade with TE: trailers", client: upgrades(handshake("TE: trailers")), node: echoes(switched("websocket"))},
	{name: "upgrade whose Connection names a header", client: upgrades(handshake("Connection: X-Mine", "X-Mine: 1")), node: echoes(switched("websocket"))},
	{name: "upgrade without a User-Agent", client: upgrades("GET /game HTTP/1.1\r\nHost: game.example\r\n" + identity + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"), node: echoes(switched("websocket"))},
	{name: "upgrade without Accept-Encoding", client: upgrades(bare("GET /game HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket")), node: echoes(switched("websocket")), differs: noGzip},
	{name: "upgrade with an odd target", client: upgrades(line("GET /a%2Fb//c?a=%zz&b=1+1&c HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket")), node: echoes(switched("websocket"))},
	{name: "upgrade with semicolons in the query", client: upgrades(line("GET /game?a=1;b=2 HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket")), node: echoes(switched("websocket"))},
	{name: "upgrade to another protocol", client: upgrades(line("GET /game HTTP/1.1", "Connection: Upgrade", "Upgrade: chess/1.0")), node: echoes(switched("chess/1.0"))},
	{name: "upgrade to one of several protocols", client: ask(line("GET /game HTTP/1.1", "Connection: Upgrade", "Upgrade: chess/1.0, websocket")), node: saysAndCloses(switched("websocket")), differs: ownAnswers},
	{name: "upgrade by POST", client: upgrades(line("POST /game HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket", "Content-Length: 0")), node: echoes(switched("websocket"))},
	{name: "upgrade with a body", client: ask(line("POST /game HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket", "Content-Length: 5") + "hello"), node: says(ok), differs: bodyIsNoHandshake},
	{name: "upgrade with a body in chunks", client: ask(line("GET /game HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket", "Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n\r\n"), node: says(ok), differs: bodyIsNoHandshake},
	{name: "upgrade and bytes at once", client: upgradesAtOnce(handshake()), node: echoes(switched("websocket")), differs: earlyBytes},
	{name: "upgrade and bytes of the node at once", client: upgradesAndHears(handshake(), 4), node: echoes(switched("websocket") + "soon")},
	{name: "upgrade by HTTP/1.0", client: ask(line("GET /game HTTP/1.0", "Connection: Upgrade", "Upgrade: websocket")), node: says(ok)},
	{name: "upgrade after early hints", client: upgrades(handshake()), node: echoes(hints + switched("websocket"))},
	{name: "upgrade declined with 403", client: ask(handshake()), node: says("HTTP/1.1 403 Forbidden\r\nX-Reason: list\r\nContent-Length: 4\r\n\r\nno!\n")},
	{name: "upgrade declined in chunks", client: ask(handshake()), node: says("HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nno!\r\n0\r\n\r\n")},
	{name: "upgrade declined with trailers", client: ask(handshake()), node: says(withTrailers)},
	{name: "upgrade declined with 426", client: ask(handshake()), node: says("HTTP/1.1 426 Upgrade Required\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nContent-Length: 0\r\n\r\n")},
	{name: "upgrade declined with 200", client: ask(handshake()), node: says(ok)},
	{name: "upgrade declined with 204", client: ask(handshake()), node: says("HTTP/1.1 204 No Content\r\n\r\n")},
	{name: "upgrade declined until the end of the connection", client: ask(handshake()), node: saysAndCloses("HTTP/1.1 403 Forbidden\r\n\r\nno!\n")},
	{name: "upgrade declined bit by bit", client: streamsAfter(handshake()), node: bitByBit("Content-Type: text/event-stream", "Transfer-Encoding: chunked")},
	{name: "upgrade declined and cut short", client: cutShort(handshake()), node: saysAndCloses("HTTP/1.1 403 Forbidden\r\nContent-Length: 10\r\n\r\nno!\n")},
	{name: "upgrade and no answer", client: ask(handshake()), node: saysAndCloses(""), differs: ownAnswers},
	{name: "upgrade and no HTTP", client: ask(handshake()), node: saysAndCloses("SSH-2.0-node\r\n"), differs: ownAnswers},
	{name: "Upgrade without Connection", client: ask(get("Upgrade: websocket")), node: says(ok)},
	{name: "Connection: Upgrade without Upgrade", client: ask(get("Connection: Upgrade")), node: says(ok)},
	{name: "Upgrade: h2c", client: ask(get("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")), node: says(ok)},
	{name: "the node ends a session", client: sessionEndedByNode, node: saysAndCloses(switched("websocket") + "bye")},
	{name: "the client is done first", client: sessionEndedByClient, node: lastWord},
	{name: "the client resets a session", client: sessionReset, node: learnsHowItEnds, differs: passedReset},
}

// What nodes say.
const (
	ok       = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Node: 1\r\nContent-Length: 2\r\n\r\nok"
	inChunks = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
	hints    = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nLink: </b.css>\r\nX-Empty:\r\n\r\n"

	withTrailers = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\nX-Sum: 2\r\n\r\n"
)

var gzipped = func() string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte("hello, world"))
	_ = w.Close()
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", b.Len(), b.String())
}()

// switched is the answer that agrees to an upgrade.
func switched(protocol string, fields ...string) string {
	return strings.Join(append([]string{
		"HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: " + protocol,
		"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
	}, fields...), "\r\n") + "\r\n\r\n"
}

// What clients say.

// identity keeps Traefik's transport from asking for gzip.
const identity = "Accept-Encoding: identity"

// bare is a request with no headers but these, Host and User-Agent.
func bare(first string, fields ...string) string {
	return strings.Join(append([]string{first, "Host: game.example", "User-Agent: differential"}, fields...), "\r\n") + "\r\n\r\n"
}

// line is a bare request that says identity.
func line(first string, fields ...string) string {
	return bare(first, append([]string{identity}, fields...)...)
}

func get(fields ...string) string { return line("GET /game?a=b HTTP/1.1", fields...) }

func post(body string, fields ...string) string {
	return line("POST /game?a=b HTTP/1.1", append([]string{fmt.Sprint("Content-Length: ", len(body))}, fields...)...) + body
}

func chunked(chunks string, fields ...string) string {
	return line("POST /game?a=b HTTP/1.1", append([]string{"Transfer-Encoding: chunked"}, fields...)...) + chunks
}

func handshake(fields ...string) string {
	return get(append([]string{
		"Connection: Upgrade", "Upgrade: websocket",
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13",
	}, fields...)...)
}

// long is a text of so many bytes.
func long(length int) string { return strings.Repeat("0123456789abcdef", length/16) }

func many(count int) []string {
	var fields []string
	for i := range count {
		fields = append(fields, fmt.Sprintf("X-Field-%03d: %d", i, i))
	}
	return fields
}

func methodOf(request string) string {
	method, _, _ := strings.Cut(request, " ")
	return method
}

// What clients do.

// ask sends requests, all at once, and reads as many answers.
func ask(requests ...string) func(*caller) {
	return func(c *caller) {
		c.say(strings.Join(requests, ""))
		for _, r := range requests {
			if !c.hear(methodOf(r)) {
				return
			}
		}
		c.again()
	}
}

// cutShort asks for an answer that breaks off. How much of it comes is a race.
func cutShort(request string) func(*caller) {
	return func(c *caller) {
		c.say(request)
		m := c.hearHead()
		if m == nil {
			return
		}
		if m.readBody(c.in, true); m.broken {
			c.note("no answer: the connection ended")
		} else {
			c.note("%v", m)
		}
	}
}

// doneBeforeTheAnswer says that it is done when the node has the request.
func doneBeforeTheAnswer(request string) func(*caller) {
	return func(c *caller) {
		c.say(request)
		c.await()
		c.isDone()
		c.hear("GET")
	}
}

// doneWithinTheAnswer says that it is done when the answer has begun.
func doneWithinTheAnswer(request string) func(*caller) {
	return func(c *caller) {
		c.say(request)
		if c.hearHead() == nil {
			return
		}
		start, err := c.in.ReadString('\n')
		c.note("the answer begins with %q %s", start, fate(err))
		c.isDone()
		c.hearEnd()
	}
}

// inTurn sends each request when the one before is answered.
func inTurn(requests ...string) func(*caller) {
	return func(c *caller) {
		for _, r := range requests {
			c.say(r)
			if !c.hear(methodOf(r)) {
				return
			}
		}
		c.again()
	}
}

// expects sends a body once it is asked for it, and not at all where it is refused.
func expects(body string) func(*caller) {
	return func(c *caller) {
		c.say(line("POST /game HTTP/1.1", "Expect: 100-continue", fmt.Sprint("Content-Length: ", len(body))))
		m, err := readHead(c.in)
		if err != nil {
			c.note("no answer: %s", fate(err))
			return
		}
		if m.status() == "100" {
			c.note("%v", m)
			c.continued = true
			c.say(body)
			c.hear("POST")
		} else {
			m.readBody(c.in, true)
			c.note("%v", m)
		}
		c.again()
	}
}

// streams reads an answer of three parts, each of which comes when the one before
// has been read.
func streams(c *caller) { streamsAfter(get())(c) }

func streamsAfter(request string) func(*caller) {
	return func(c *caller) {
		c.say(request)
		m := c.hearHead()
		if m == nil {
			return
		}
		c.note("%v", m)
		var read string
		for part := range 3 {
			c.cue()
			for !strings.Contains(read, fmt.Sprintf("part %d   \n", part)) {
				b, err := c.in.ReadByte()
				if err != nil {
					c.note("part %d: %s", part, fate(err))
					return
				}
				read += string(b)
			}
		}
		c.note("all parts came one by one")
	}
}

// upgrades asks for an upgrade, and talks with the node.
func upgrades(request string) func(*caller) { return upgradesAndHears(request, 0) }

// upgradesAndHears is upgrades, where the node says so many bytes first.
func upgradesAndHears(request string, first int) func(*caller) {
	return func(c *caller) {
		c.say(request)
		m := c.hearHead()
		if m == nil {
			return
		}
		c.note("%v", m)
		if m.status() != "101" {
			return
		}
		c.hearBytes(first)
		for range 3 {
			c.say("ping")
			c.hearBytes(4)
		}
	}
}

// upgradesAtOnce does not wait for the node to agree.
func upgradesAtOnce(request string) func(*caller) {
	return func(c *caller) {
		c.say(request + "early ")
		if m := c.hearHead(); m != nil {
			c.note("%v", m)
			c.say("late")
			c.isDone()
			c.hearEnd()
		}
	}
}

// sessionEndedByNode asks for an upgrade and listens.
func sessionEndedByNode(c *caller) {
	c.say(handshake())
	if m := c.hearHead(); m != nil {
		c.note("%v", m)
		c.hearEnd()
	}
}

// sessionEndedByClient says that it is done, and listens.
func sessionEndedByClient(c *caller) {
	c.say(handshake())
	if m := c.hearHead(); m != nil {
		c.note("%v", m)
		c.say("bye")
		c.isDone()
		c.hearEnd()
	}
}

// What nodes do.

// says answers every request with the same bytes.
func says(answer string) func(*server) {
	return func(s *server) {
		for s.hear() {
			s.say(answer)
		}
	}
}

// saysAndCloses answers one request and closes the connection.
func saysAndCloses(answer string) func(*server) {
	return func(s *server) {
		s.hear()
		s.say(answer)
	}
}

// answersNobody begins an answer and goes on with it when the connection ends,
// which the request's end makes it do.
func answersNobody(start string) func(*server) {
	return func(s *server) {
		if !s.hear() {
			return
		}
		s.say(start)
		s.cue()
		_, err := io.Copy(io.Discard, s.in)
		s.note("the request ends: %t", fate(err) != "time-out")
		s.say("the rest, ")
	}
}

// zips says gzip to who says that it may.
func zips(s *server) {
	m := s.hearHead()
	if m == nil {
		return
	}
	s.note("%v", m)
	if strings.Contains(m.field("Accept-Encoding"), "gzip") {
		s.say(gzipped)
	} else {
		s.say("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\nhello, world")
	}
}

// continues asks for the body that a request announces.
func continues(s *server) {
	m := s.hearHead()
	if m == nil {
		return
	}
	s.say("HTTP/1.1 100 Continue\r\n\r\n")
	m.readBody(s.in, true)
	s.note("%v", m)
	s.say(ok)
}

// refuses does not want it.
func refuses(s *server) {
	if m := s.hearHead(); m != nil {
		s.note("%v", m)
		s.say("HTTP/1.1 417 Expectation Failed\r\nConnection: close\r\nContent-Length: 3\r\n\r\nno\n")
	}
}

// bitByBit answers in three parts of ten bytes, each when the client says so.
func bitByBit(fields ...string) func(*server) {
	return func(s *server) {
		if !s.hear() {
			return
		}
		s.say("HTTP/1.1 200 OK\r\n" + strings.Join(fields, "\r\n") + "\r\n\r\n")
		inChunks := strings.Contains(strings.Join(fields, ""), "chunked")
		for part := range 3 {
			s.await()
			text := fmt.Sprintf("part %d   \n", part)
			if inChunks {
				text = "a\r\n" + text + "\r\n"
			}
			s.say(text)
		}
		if inChunks {
			s.say("0\r\n\r\n")
		}
	}
}

// echoes agrees to an upgrade and returns what it gets.
func echoes(answer string) func(*server) {
	return func(s *server) {
		if !s.hear() {
			return
		}
		s.say(answer)
		for {
			b := make([]byte, 1)
			if _, err := s.in.Read(b); err != nil {
				return
			}
			s.say(string(b))
		}
	}
}

// lastWord listens until the client is done, and has the last word.
func lastWord(s *server) {
	if !s.hear() {
		return
	}
	s.say(switched("websocket"))
	s.hearEnd()
	s.say("bye, client")
}

// sessionReset has its connection reset when it is closed.
func sessionReset(c *caller) {
	c.say(handshake())
	if m := c.hearHead(); m != nil {
		c.note("%v", m)
		_ = c.Conn.(*net.TCPConn).SetLinger(0)
	}
}

// learnsHowItEnds listens until the connection ends.
func learnsHowItEnds(s *server) {
	if !s.hear() {
		return
	}
	s.say(switched("websocket"))
	_, err := io.Copy(io.Discard, s.in)
	s.note("the connection was reset: %t", errors.Is(err, syscall.ECONNRESET))
}
