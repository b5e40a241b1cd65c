// Package api holds the JSON bodies of the HTTP API: what ingest-api answers and what its client reads, one truth for
// both. The tags doc, example, enum, minimum and maximum end up in the OpenAPI document.
//
// Links are paths on the API's own host, so that they hold behind any proxy. Times are RFC 3339 in UTC. Boxes are
// [x0, y0, x1, y1] in pixels of the page image, origin top left. Pages and boxes count from 1.
package api
