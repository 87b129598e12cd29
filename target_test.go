package dynamicforward

import (
	"errors"
	"strings"
	"testing"
)

func TestAddressesThatCanBeRead(t *testing.T) {
	for _, c := range []struct{ value, want string }{
		{"127.0.0.1:8888", "http://127.0.0.1:8888"},
		{" 127.0.0.1:8888\r\n", "http://127.0.0.1:8888"},
		{"[::1]:80", "http://[::1]:80"},
		{"game-7.example.com:9001", "http://game-7.example.com:9001"},
		{"wgame_1:9001", "http://wgame_1:9001"},
		{"http://10.0.0.1:80", "http://10.0.0.1:80"},
		{"http://10.0.0.1", "http://10.0.0.1"},
		{"https://game.example.com/eu/1", "https://game.example.com/eu/1"},
		{"HTTPS://game.example.com", "https://game.example.com"},
	} {
		node, err := parseTarget(c.value)
		if err != nil || node.url.String() != c.want {
			t.Errorf("%q: got %v, %v, want %s", c.value, node, err, c.want)
		}
	}
}

func TestWhatCountsAsNoSuchNode(t *testing.T) {
	for _, value := range []string{"", "null", "NULL", " ", " null\n"} {
		if node, err := parseTarget(value); !errors.Is(err, errUnknownNode) || node != nil {
			t.Errorf("%q: got %v, %v", value, node, err)
		}
	}
}

// What stands before an @ may be a password, and errors are logged.
func TestAnAddressThatCannotBeReadIsNotToldWithItsPassword(t *testing.T) {
	for _, value := range []string{"http://user:s3cret@10.0.0.7:80", "user:s3cret@10.0.0.7:80", "user:s3cret@10.0.0.7", "http://s3cret@[::1", "ftp://u:s3@cret@a"} {
		_, err := parseTarget(value)
		if err == nil || strings.Contains(err.Error(), "s3") || !strings.Contains(err.Error(), `"…@`) {
			t.Errorf("%q: got %v", value, err)
		}
	}
}

func TestAddressesThatCannotBeRead(t *testing.T) {
	for _, value := range []string{
		"127.0.0.1", "127.0.0.1:", ":80", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:http", "127.0.0.1:-1",
		"::1:80", "[::1]", "a b:80", "a:80/x", "a:80?x", "u@a:80", "a:80#f", "a,b:80", "a%b:80", "1:2:3",
		"ftp://a:80", "unix:///tmp/x", "http://", "http://:80", "http://u:p@a:80", "http://a:80?x=1", "http://a/#f",
		"http://a:b", "http://a:0", "http://a:", "://a:80", "Null", "nil", "a:80\x00", "127.0.0.1:80 127.0.0.1:81",
		"<script>:80", "\xff\xfe:80", "[fe80::1%25eth0]:80", "http://a:80?",
	} {
		if node, err := parseTarget(value); !errors.Is(err, errBadTarget) || node != nil {
			t.Errorf("%q: got %v, %v", value, node, err)
		}
	}
}
