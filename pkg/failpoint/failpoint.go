// Package failpoint marks the gaps between an object, a record, a row and a commit, at which a test may end the process or
// make it hang. The edges and the stage runtime call it; in all builds but those with the tag failpoints, which only tests
// make, a call is empty and the compiler leaves nothing of it.
package failpoint
