//go:build !windows

package cli

import "leafcutter/deploy/local/internal/up"

// running gives the addresses of the pipeline that runs on a data directory.
func (t *terminal) running(data string) (where, bool) {
	if data == "" {
		var err error
		if data, err = up.DefaultData(t.getenv); err != nil {
			return where{}, false
		}
	}
	s, err := up.ReadState(data)
	if err != nil {
		return where{}, false
	}
	return where{data: data, api: s.API, sql: s.SQL}, true
}
