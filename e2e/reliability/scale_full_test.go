//go:build full

package reliability

// full says whether the whole suite runs or a seeded twentieth of it.
const full = true
