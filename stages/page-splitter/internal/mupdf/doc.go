// Package mupdf opens PDF and image documents with MuPDF, renders their pages
// and reads their text layer. Only the render child calls it: MuPDF parses what
// strangers wrote, is written in C, and has no time or memory limit of its own.
//
// The library is the one that github.com/gen2brain/go-fitz brings compiled for
// each platform. That package's own Go functions are not used: they leave page
// counts and page bounds outside MuPDF's exception handling (which then ends the
// process), draw neither annotations nor form fields, need a fourth byte a pixel,
// register every document format, and return text without its positions.
package mupdf
