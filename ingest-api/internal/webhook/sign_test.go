package webhook_test

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"leafcutter/ingest-api/internal/webhook"
)

const (
	secretA = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	secretB = "whsec_bmV2ZXJnb25uYWdpdmV5b3V1cG5ldmVyZ29ubmFsZXR5b3U="
)

func secrets(t testing.TB, texts ...string) (all []webhook.Secret) {
	t.Helper()
	for _, text := range texts {
		s, err := webhook.ParseSecret(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

// The example of the specification's own libraries: secret, message and signature.
func TestSignatureIsThatOfStandardWebhooks(t *testing.T) {
	got := webhook.Signature(secrets(t, secretA), "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	both := webhook.Signature(secrets(t, secretB, secretA), "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if parts := strings.Split(both, " "); len(parts) != 2 || parts[1] != got || parts[0] == got {
		t.Errorf("two secrets sign %s", both)
	}
}

func TestParseSecret(t *testing.T) {
	encode := func(n int) string { return base64.StdEncoding.EncodeToString(make([]byte, n)) }
	for text, ok := range map[string]bool{
		"whsec_" + encode(24): true, "whsec_" + encode(64): true, "whsec_" + encode(23): false, "whsec_" + encode(65): false,
		encode(32): false, "whsec_": false, "": false, "whsec_not base64 at all, whatever its length is": false,
	} {
		_, err := webhook.ParseSecret(text)
		if (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
		if err != nil && text != "" && strings.Contains(err.Error(), strings.TrimPrefix(text, "whsec_")) && len(text) > 6 {
			t.Errorf("the error repeats the secret: %v", err)
		}
	}
}

func TestConfig(t *testing.T) {
	good := webhook.Config{Secrets: []string{secretA}, Networks: []string{"10.1.0.0/16", " ::1/128"}, Timeout: time.Second, Retries: []time.Duration{time.Second}}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	if err := (webhook.Config{Timeout: time.Second}).Validate(); err != nil {
		t.Errorf("no secret, one try: %v", err)
	}
	bad := webhook.Config{Secrets: []string{"x"}, Networks: []string{"10.1.2.3"}, Timeout: time.Hour, Retries: []time.Duration{0}}
	err := bad.Validate()
	for _, name := range []string{"WEBHOOK_SECRET", "WEBHOOK_ALLOW_NETWORKS", "WEBHOOK_TIMEOUT", "WEBHOOK_RETRIES"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not named by %v", name, err)
		}
	}
	for target, refused := range map[string]bool{
		"https://example.org/hook": false, "https://8.8.8.8": false, "http://10.1.2.3:8080/": false, "http://[::1]/": false,
		"http://10.2.0.1/": true, "http://127.0.0.1:9000/": true, "http://localhost:9000/": true, "http://LOCALHOST./": true,
		"http://a.localhost/": true, "http://169.254.169.254/latest": true, "http://[fd00::1]/": true, "http://[::ffff:192.168.0.1]/": true,
		"http://%zz": true,
	} {
		if err := good.Refuses(target); (err != nil) != refused {
			t.Errorf("%s: %v", target, err)
		}
	}
}
