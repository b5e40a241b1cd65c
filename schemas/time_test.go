package schemas_test

import (
	"testing"
	"time"

	"leafcutter/schemas"
)

func TestStorableTime(t *testing.T) {
	for _, tc := range []struct {
		at   time.Time
		want bool
	}{
		{time.Time{}, false},
		{schemas.MinTime.Add(-time.Nanosecond), false},
		{schemas.MinTime, true},
		{at, true},
		{schemas.MinTime.In(time.FixedZone("", 14*3600)), true}, // an instant, whatever its zone calls it
		{schemas.MaxTime.Add(-time.Nanosecond), true},
		{schemas.MaxTime, false},
		{time.UnixMilli(1 << 62), false},
	} {
		if got := schemas.StorableTime(tc.at); got != tc.want {
			t.Errorf("%s: %v", tc.at, got)
		}
	}
}
