package up

import "time"

// ends decides what is said of a child that ends again and again: the first end at once, then, once it is clear that it
// does not stay up, that, and after that no more than now and then. A child whose
// port another program has taken ends every second until that program gives it back.
type ends struct {
	inRow int       // ends that came soon after their start
	said  time.Time // when the last of them was said
}

const (
	staysUp  = 10 * time.Second // a child that ran for so long did start
	hopeless = 5                // ends in a row that make it plain
	sayEvery = 30 * time.Second
)

// verdict is what to say of an end.
type verdict int

const (
	sayNothing  verdict = iota
	sayEnded            // it ended and is started again
	sayHopeless         // it does not stay up, and is tried again all the same
)

// next takes an end at now, of a child that had run for up.
func (e *ends) next(now time.Time, up time.Duration) verdict {
	if up >= staysUp {
		e.inRow = 0
	}
	e.inRow++
	switch {
	case e.inRow == 1, e.inRow == hopeless, now.Sub(e.said) >= sayEvery:
		e.said = now
	default:
		return sayNothing
	}
	if e.inRow >= hopeless {
		return sayHopeless
	}
	return sayEnded
}
