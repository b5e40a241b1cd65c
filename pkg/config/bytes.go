package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Bytes is an amount of memory or storage: 8388608, 8MiB, 1.5GiB, 500MB. KB, MB, GB count by thousands; KiB, MiB, GiB,
// and the bare letters k, m, g that containers use, by 1024.
type Bytes int64

var units = []struct {
	suffix string
	factor float64
}{
	{"kib", 1 << 10}, {"mib", 1 << 20}, {"gib", 1 << 30}, {"tib", 1 << 40},
	{"kb", 1e3}, {"mb", 1e6}, {"gb", 1e9}, {"tb", 1e12},
	{"k", 1 << 10}, {"m", 1 << 20}, {"g", 1 << 30}, {"t", 1 << 40},
	{"b", 1}, {"", 1},
}

// UnmarshalText parses what a user wrote.
func (b *Bytes) UnmarshalText(text []byte) error {
	given := strings.ToLower(strings.TrimSpace(string(text)))
	for _, unit := range units {
		number, ok := strings.CutSuffix(given, unit.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || math.IsNaN(n) || n < 0 || n*unit.factor >= math.MaxInt64 {
			break
		}
		*b = Bytes(n * unit.factor)
		return nil
	}
	return fmt.Errorf("not an amount such as 8388608, 8MiB or 1.5GB")
}

// MarshalText writes whole units of 1024 where that loses nothing, else plain bytes.
func (b Bytes) MarshalText() ([]byte, error) {
	for i := 3; i >= 0; i-- {
		if factor := Bytes(units[i].factor); b >= factor && b%factor == 0 {
			return fmt.Appendf(nil, "%d%s", b/factor, []string{"KiB", "MiB", "GiB", "TiB"}[i]), nil
		}
	}
	return strconv.AppendInt(nil, int64(b), 10), nil
}

// String is what MarshalText writes.
func (b Bytes) String() string {
	text, _ := b.MarshalText() // never fails
	return string(text)
}
