package dynamicforward

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
)

// fileOrContent returns the PEM that an option holds or names, as Traefik reads
// such options.
func fileOrContent(value string) ([]byte, error) {
	if strings.Contains(value, "-----BEGIN") {
		return []byte(value), nil
	}
	value = strings.TrimSpace(value) // Traefik splits a text at its commas alone
	content, err := os.ReadFile(value)
	if err != nil {
		return nil, unread(value, err)
	}
	return content, nil
}

// unread is why a file could not be read. What does not begin as a path does may be the
// secret itself, put into the wrong option or in another form than PEM, and is not told.
func unread(path string, err error) error {
	if strings.HasPrefix(path, "/") {
		return err
	}
	var failure *os.PathError
	if errors.As(err, &failure) {
		err = failure.Err
	}
	return fmt.Errorf("what it names, if it is a file, cannot be read: %w: use a path that begins with /", err)
}

// readCertPool reads certificates, each a PEM or the path of one. None is nil:
// the system's own.
func readCertPool(values []string) (*x509.CertPool, error) {
	if len(values) == 0 {
		return nil, nil
	}
	pool := x509.NewCertPool()
	for _, value := range values {
		pem, err := fileOrContent(value)
		if err != nil {
			return nil, err
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, errors.New("no certificate found: each must be a PEM, or the path of one")
		}
	}
	return pool, nil
}

// readKeyPair reads a certificate and its key, each a PEM or the path of one.
// The names are for errors.
func readKeyPair(certName, cert, keyName, key string) (tls.Certificate, error) {
	certPEM, err := fileOrContent(cert)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s: %w", certName, err)
	}
	keyPEM, err := fileOrContent(key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s: %w", keyName, err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s and %s: %w", certName, keyName, err)
	}
	return pair, nil
}
