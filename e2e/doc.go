// Package e2e holds the end-to-end tests: `leafcutter up` with the real binaries and the embedded servers, from the front
// doors to rows, objects and traces. Long ones carry the build tag full. Package pipeline starts and asks it, package
// corpus has the documents.
package e2e
