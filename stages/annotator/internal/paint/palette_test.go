package paint

import (
	"fmt"
	"math"
	"testing"
)

// lab is a colour in CIELAB (D65), seen by an eye that turns linear sRGB into eye × sRGB.
func lab(c colour, eye [3][3]float64) [3]float64 {
	rgb := [3]float64{linear(c[0]), linear(c[1]), linear(c[2])}
	seen := multiply(eye, rgb)
	for i := range seen {
		seen[i] = min(max(seen[i], 0), 1)
	}
	xyz := multiply([3][3]float64{{0.4124, 0.3576, 0.1805}, {0.2126, 0.7152, 0.0722}, {0.0193, 0.1192, 0.9505}}, seen)
	f := func(v, white float64) float64 {
		if v /= white; v > 216.0/24389 {
			return math.Cbrt(v)
		}
		return (24389.0/27*v + 16) / 116
	}
	x, y, z := f(xyz[0], 0.9505), f(xyz[1], 1), f(xyz[2], 1.0891)
	return [3]float64{116*y - 16, 500 * (x - y), 200 * (y - z)}
}

func multiply(m [3][3]float64, v [3]float64) (out [3]float64) {
	for i, row := range m {
		out[i] = row[0]*v[0] + row[1]*v[1] + row[2]*v[2]
	}
	return out
}

// eyes are how people see who have all cones, and who lack one kind of them (Machado, Oliveira and Fernandes: A
// Physiologically-based Model for Simulation of Color Vision Deficiency, 2009, severity 1).
var eyes = map[string]struct {
	matrix  [3][3]float64
	differs float64 // by how much any two colours must differ, in CIELAB (CIE76); about 2.3 is just noticed
}{
	"all":          {[3][3]float64{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}, 28},
	"protanopia":   {[3][3]float64{{0.152286, 1.052583, -0.204868}, {0.114503, 0.786281, 0.099216}, {-0.003882, -0.048116, 1.051998}}, 17},
	"deuteranopia": {[3][3]float64{{0.367322, 0.860646, -0.227968}, {0.280085, 0.672501, 0.047413}, {-0.011820, 0.042940, 0.968881}}, 17},
	"tritanopia":   {[3][3]float64{{1.255528, -0.076749, -0.178779}, {-0.078411, 0.930809, 0.147602}, {0.004733, 0.691367, 0.303900}}, 17},
}

func TestColoursAreToldApartByEveryEye(t *testing.T) {
	for name, eye := range eyes {
		for i, a := range palette {
			for _, b := range palette[:i] {
				la, lb := lab(a.colour, eye.matrix), lab(b.colour, eye.matrix)
				if d := math.Hypot(math.Hypot(la[0]-lb[0], la[1]-lb[1]), la[2]-lb[2]); d < eye.differs {
					t.Errorf("%s: %s and %s differ by %.1f, want %.0f", name, a.class, b.class, d, eye.differs)
				}
			}
		}
	}
}

func TestColoursStandOutAndLettersCanBeRead(t *testing.T) {
	for _, p := range palette {
		if k := contrast(p.colour, colour{255, 255, 255}); k < 3 {
			t.Errorf("%s has a contrast of %.2f on white", p.class, k)
		}
		if k := contrast(p.colour, p.colour.ink()); k < 4.5 {
			t.Errorf("letters on the tag of %s have a contrast of %.2f", p.class, k)
		}
	}
	if k := contrast(colour{0, 0, 0}, colour{255, 255, 255}); math.Abs(k-21) > 1e-9 {
		t.Errorf("black on white: %v", k)
	}
}

func TestClassesKeepTheirColour(t *testing.T) {
	known := map[colour]bool{}
	for _, p := range palette {
		known[p.colour] = true
		if colourOf(p.class) != p.colour {
			t.Errorf("%s has another colour than its own", p.class)
		}
	}
	used := map[colour]bool{}
	for i := range 200 {
		class := fmt.Sprint("class-", i)
		if c := colourOf(class); c != colourOf(class) || !known[c] {
			t.Errorf("%s: %v", class, c)
		} else {
			used[c] = true
		}
	}
	if len(used) != len(palette) {
		t.Errorf("200 unknown classes use %d of %d colours", len(used), len(palette))
	}
}
