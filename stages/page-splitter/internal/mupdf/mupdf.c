#include "mupdf.h"
#include "library.h"

#include <stdlib.h>
#include <string.h>

const char lc_mupdf_version[] = "1.24.9";

struct lc_doc {
	fz_context *ctx;
	fz_stream *stream;
	fz_document *doc;
	int kind;
	int indexed; /* lc_index_pages was called */
	fz_page *page; /* loaded last */
	fz_rect bounds; /* of page */
};

static void ignore(void *user, const char *message)
{
	(void)user;
	(void)message;
}

static int fail(fz_context *ctx, char *err, size_t err_len)
{
	strncpy(err, fz_caught_message(ctx), err_len - 1);
	err[err_len - 1] = 0;
	return fz_caught(ctx) == ERROR_SYSTEM ? LC_MEMORY : LC_BROKEN;
}

int lc_open(int fd, int64_t size, int kind, size_t store, lc_doc **out, char *err, size_t err_len)
{
	int code = LC_OK;
	lc_doc *d = calloc(1, sizeof *d);
	err[0] = 0;
	*out = NULL;
	if (!d)
		return LC_MEMORY;
	d->kind = kind;
	d->ctx = fz_new_context_imp(NULL, NULL, store, lc_mupdf_version);
	if (!d->ctx) {
		free(d);
		return LC_VERSION;
	}
	/* A hostile page can warn millions of times; none of it is read. */
	fz_set_warning_callback(d->ctx, ignore, NULL);
	fz_set_error_callback(d->ctx, ignore, NULL);
	TRY(d->ctx) {
		/* One parser alone is reachable: the one for the type that the
		 * allow-list found. Zip, XPS, SVG, EPUB and the rest stay out. */
		fz_register_document_handler(d->ctx, kind == LC_PDF ? &pdf_document_handler : &img_document_handler);
		d->stream = lc_open_file(d->ctx, fd, size);
		d->doc = fz_open_document_with_stream(d->ctx, kind == LC_PDF ? "application/pdf" : "image/tiff", d->stream);
	}
	CATCH(d->ctx) {
		code = fail(d->ctx, err, err_len);
	}
	if (code != LC_OK) {
		lc_close(d);
		return code;
	}
	*out = d;
	return LC_OK;
}

void lc_close(lc_doc *d)
{
	fz_drop_page(d->ctx, d->page);
	fz_drop_document(d->ctx, d->doc);
	fz_drop_stream(d->ctx, d->stream);
	fz_drop_context(d->ctx);
	free(d);
}

int lc_needs_password(lc_doc *d)
{
	return fz_needs_password(d->ctx, d->doc);
}

int lc_count_pages(lc_doc *d, int *count, char *err, size_t err_len)
{
	int code = LC_OK;
	err[0] = 0;
	TRY(d->ctx) {
		*count = fz_count_pages(d->ctx, d->doc);
	}
	CATCH(d->ctx) {
		code = fail(d->ctx, err, err_len);
	}
	return code;
}

int lc_load(lc_doc *d, int number, float *width, float *height, char *err, size_t err_len)
{
	int code = LC_OK;
	err[0] = 0;
	fz_drop_page(d->ctx, d->page);
	d->page = NULL;
	TRY(d->ctx) {
		if (d->kind == LC_PDF && !d->indexed) {
			d->indexed = 1;
			lc_index_pages(d->ctx, d->doc);
		}
		d->page = fz_load_page(d->ctx, d->doc, number);
		d->bounds = fz_bound_page(d->ctx, d->page);
		*width = d->bounds.x1 - d->bounds.x0;
		*height = d->bounds.y1 - d->bounds.y0;
	}
	CATCH(d->ctx) {
		code = fail(d->ctx, err, err_len);
	}
	return code;
}

/* Every local that the catch block reads is volatile: it changes between
 * sigsetjmp and the jump. */
int lc_render(lc_doc *d, float scale, int width, int height, int with_text, lc_page *out, char *err, size_t err_len)
{
	fz_context *ctx = d->ctx;
	fz_display_list *volatile list = NULL;
	fz_pixmap *volatile pixmap = NULL;
	fz_device *volatile device = NULL;
	fz_stext_page *volatile text = NULL;
	fz_buffer *volatile buffer = NULL;
	fz_output *volatile output = NULL;
	fz_irect canvas = { 0, 0, width, height };
	fz_rect page_area = { 0, 0, width, height };
	/* The page's top left corner comes to the pixel origin, whatever the
	 * page box says. */
	fz_matrix to_pixels = { scale, 0, 0, scale, -d->bounds.x0 * scale, -d->bounds.y0 * scale };

	err[0] = 0;
	memset(out, 0, sizeof *out);
	TRY(ctx) {
		/* The page is interpreted once; pixels and text are two readings
		 * of the list. It holds annotations and form fields as well. */
		list = fz_new_display_list_from_page(ctx, d->page);
		pixmap = fz_new_pixmap_with_bbox(ctx, fz_device_rgb(ctx), canvas, NULL, 0);
		fz_clear_pixmap_with_value(ctx, pixmap, 0xff);
		device = fz_new_draw_device(ctx, (fz_matrix){ 1, 0, 0, 1, 0, 0 }, pixmap);
		fz_run_display_list(ctx, list, device, to_pixels, page_area, NULL);
		fz_close_device(ctx, device);
		fz_drop_device(ctx, device);
		device = NULL;
		if (with_text) {
			text = fz_new_stext_page(ctx, page_area);
			device = fz_new_stext_device(ctx, text, NULL);
			fz_run_display_list(ctx, list, device, to_pixels, page_area, NULL);
			fz_close_device(ctx, device);
			buffer = fz_new_buffer(ctx, 4096);
			output = fz_new_output_with_buffer(ctx, buffer);
			fz_print_stext_page_as_json(ctx, output, text, 1);
			fz_close_output(ctx, output);
			out->text_len = fz_buffer_storage(ctx, buffer, (unsigned char **)&out->text);
		}
		out->pixels = fz_pixmap_samples(ctx, pixmap);
		out->stride = fz_pixmap_stride(ctx, pixmap);
		out->width = width;
		out->height = height;
	}
	ALWAYS(ctx) {
		fz_drop_output(ctx, output);
		fz_drop_device(ctx, device);
		fz_drop_stext_page(ctx, text);
		fz_drop_display_list(ctx, list);
	}
	CATCH(ctx) {
		fz_drop_buffer(ctx, buffer);
		fz_drop_pixmap(ctx, pixmap);
		memset(out, 0, sizeof *out);
		return fail(ctx, err, err_len);
	}
	out->pixmap = pixmap;
	out->buffer = buffer;
	return LC_OK;
}

void lc_drop_page(lc_doc *d, lc_page *page)
{
	fz_drop_buffer(d->ctx, page->buffer);
	fz_drop_pixmap(d->ctx, page->pixmap);
	memset(page, 0, sizeof *page);
}
