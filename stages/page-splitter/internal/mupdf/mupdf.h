/*
 * The part of MuPDF that a render child needs, behind functions that never
 * unwind past their caller: every MuPDF exception ends in one of them and comes
 * back as a code and a message.
 */
#ifndef LEAFCUTTER_MUPDF_H
#define LEAFCUTTER_MUPDF_H

#include <stddef.h>
#include <stdint.h>

enum { LC_OK = 0, LC_BROKEN = 1, LC_MEMORY = 2, LC_VERSION = 3 };

enum { LC_PDF = 0, LC_IMAGE = 1 };

typedef struct lc_doc lc_doc;

typedef struct {
	const unsigned char *pixels; /* RGB, 3 bytes a pixel */
	int width, height, stride;
	const unsigned char *text; /* structured text as JSON, or NULL */
	size_t text_len;
	void *pixmap, *buffer; /* owners of the above, see lc_drop_page */
} lc_page;

/* The MuPDF release whose binary interface mupdf.c declares. */
extern const char lc_mupdf_version[];

/* Opens the document in the size bytes of the file fd, which must stay open and
 * as it is until lc_close. err has room for err_len bytes and is always
 * terminated. */
int lc_open(int fd, int64_t size, int kind, size_t store, lc_doc **doc, char *err, size_t err_len);
void lc_close(lc_doc *doc);

int lc_needs_password(lc_doc *doc);
int lc_count_pages(lc_doc *doc, int *count, char *err, size_t err_len);

/* Loads a page, counted from 0, and keeps it for lc_render. The size is in
 * points (1/72 inch) as the page is shown, rotation applied. */
int lc_load(lc_doc *doc, int number, float *width, float *height, char *err, size_t err_len);

/* Renders the loaded page on white at scale pixels a point to width x height
 * pixels, and extracts its text where with_text is set. */
int lc_render(lc_doc *doc, float scale, int width, int height, int with_text, lc_page *out, char *err, size_t err_len);
void lc_drop_page(lc_doc *doc, lc_page *page);

#endif
