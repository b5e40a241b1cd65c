package schemas

import "time"

// The times that can be stored: MinTime up to, but not including, MaxTime. ClickHouse's DateTime64 and partitions by
// month end not far outside, and a clock that says such a time is wrong anyway.
var (
	MinTime = time.Date(1971, 1, 1, 0, 0, 0, 0, time.UTC)
	MaxTime = time.Date(2250, 1, 1, 0, 0, 0, 0, time.UTC)
)

// StorableTime reports whether t lies within MinTime and MaxTime. What a producer may set to any time is checked where
// it comes in; the recorder refuses the rest.
func StorableTime(t time.Time) bool { return !t.Before(MinTime) && t.Before(MaxTime) }
