package up

import "testing"

// Between the choice of a port and the start of the process that listens there, nobody else is given it.
func TestPortsAreHeldUntilTheyAreReleased(t *testing.T) {
	chosen, hold, err := Ports{}.choose(true)
	if err != nil {
		t.Fatal(err)
	}
	if err := chosen.Free(); err == nil {
		t.Error("ports that are held can be had")
	}
	hold.release(chosen.API, chosen.Kafka, chosen.S3, chosen.SQL, chosen.OTLP)
	hold.release(chosen.API) // twice is legal
	if err := chosen.Free(); err != nil {
		t.Error(err)
	}
}
