#ifndef LEAFCUTTER_MUPDF_LIBRARY_H
#define LEAFCUTTER_MUPDF_LIBRARY_H

#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The library comes compiled with go-fitz, but its headers are out of reach of
 * another module's cgo. What is used of it is therefore declared here: opaque
 * handles, functions of the public interface, three plain structs that are
 * passed by value, and two whose fields are a part of that interface.
 * fz_new_context_imp compares the release it is told with its own and refuses any
 * other, so these declarations cannot meet a library that they don't describe.
 */
typedef struct fz_context fz_context;
typedef struct fz_document fz_document;
typedef struct fz_document_handler fz_document_handler;
typedef struct fz_page fz_page;
typedef struct fz_pixmap fz_pixmap;
typedef struct fz_colorspace fz_colorspace;
typedef struct fz_device fz_device;
typedef struct fz_stext_page fz_stext_page;
typedef struct fz_buffer fz_buffer;
typedef struct fz_output fz_output;
typedef struct fz_display_list fz_display_list;
typedef struct pdf_document pdf_document;
typedef struct pdf_obj pdf_obj;

typedef struct { float x0, y0, x1, y1; } fz_rect;
typedef struct { int x0, y0, x1, y1; } fz_irect;
typedef struct { float a, b, c, d, e, f; } fz_matrix;

typedef struct fz_stream fz_stream;
struct fz_stream {
	int refs, error, eof, progressive;
	int64_t pos; /* in the file, of the byte at wp */
	int avail, bits;
	unsigned char *rp, *wp; /* what was read and not used yet is from rp to before wp */
	void *state;
	int (*next)(fz_context *ctx, fz_stream *stream, size_t max); /* reads on; the next byte or EOF */
	void (*drop)(fz_context *ctx, void *state);
	void (*seek)(fz_context *ctx, fz_stream *stream, int64_t offset, int whence);
};

/* An entry of the table of a PDF's objects. */
typedef struct {
	char type;
	unsigned char marked;
	unsigned short gen;
	int num;
	int64_t ofs, stm_ofs;
	fz_buffer *stm_buf; /* the stream's contents, if they were changed */
	pdf_obj *obj; /* NULL until the object is read from the file */
} pdf_xref_entry;

extern fz_document_handler pdf_document_handler;
extern fz_document_handler img_document_handler;

sigjmp_buf *fz_push_try(fz_context *ctx);
int fz_do_try(fz_context *ctx);
int fz_do_always(fz_context *ctx);
int fz_do_catch(fz_context *ctx);
int fz_caught(fz_context *ctx);
const char *fz_caught_message(fz_context *ctx);
void fz_rethrow(fz_context *ctx);
void fz_var_imp(void *variable); /* keeps a variable that changes inside a try in memory */
void *fz_malloc(fz_context *ctx, size_t size);
void fz_free(fz_context *ctx, void *p);

fz_context *fz_new_context_imp(const void *alloc, const void *locks, size_t max_store, const char *version);
void fz_drop_context(fz_context *ctx);
void fz_set_warning_callback(fz_context *ctx, void (*callback)(void *user, const char *message), void *user);
void fz_set_error_callback(fz_context *ctx, void (*callback)(void *user, const char *message), void *user);
void fz_register_document_handler(fz_context *ctx, const fz_document_handler *handler);
fz_stream *fz_new_stream(fz_context *ctx, void *state, int (*next)(fz_context *, fz_stream *, size_t), void (*drop)(fz_context *, void *));
void fz_drop_stream(fz_context *ctx, fz_stream *stream);
fz_document *fz_open_document_with_stream(fz_context *ctx, const char *magic, fz_stream *stream);
void fz_drop_document(fz_context *ctx, fz_document *doc);
int fz_needs_password(fz_context *ctx, fz_document *doc);
int fz_count_pages(fz_context *ctx, fz_document *doc);
fz_page *fz_load_page(fz_context *ctx, fz_document *doc, int number);
void fz_drop_page(fz_context *ctx, fz_page *page);
fz_rect fz_bound_page(fz_context *ctx, fz_page *page);
fz_display_list *fz_new_display_list_from_page(fz_context *ctx, fz_page *page);
void fz_run_display_list(fz_context *ctx, fz_display_list *list, fz_device *dev, fz_matrix ctm, fz_rect scissor, void *cookie);
void fz_drop_display_list(fz_context *ctx, fz_display_list *list);
fz_colorspace *fz_device_rgb(fz_context *ctx);
fz_pixmap *fz_new_pixmap_with_bbox(fz_context *ctx, fz_colorspace *cs, fz_irect bbox, void *separations, int alpha);
void fz_clear_pixmap_with_value(fz_context *ctx, fz_pixmap *pix, int value);
unsigned char *fz_pixmap_samples(fz_context *ctx, const fz_pixmap *pix);
int fz_pixmap_stride(fz_context *ctx, const fz_pixmap *pix);
void fz_drop_pixmap(fz_context *ctx, fz_pixmap *pix);
fz_device *fz_new_draw_device(fz_context *ctx, fz_matrix ctm, fz_pixmap *dest);
fz_device *fz_new_stext_device(fz_context *ctx, fz_stext_page *page, const void *options);
void fz_close_device(fz_context *ctx, fz_device *dev);
void fz_drop_device(fz_context *ctx, fz_device *dev);
fz_stext_page *fz_new_stext_page(fz_context *ctx, fz_rect mediabox);
void fz_drop_stext_page(fz_context *ctx, fz_stext_page *page);
void fz_print_stext_page_as_json(fz_context *ctx, fz_output *out, fz_stext_page *page, float scale);
fz_buffer *fz_new_buffer(fz_context *ctx, size_t capacity);
size_t fz_buffer_storage(fz_context *ctx, fz_buffer *buf, unsigned char **data);
void fz_drop_buffer(fz_context *ctx, fz_buffer *buf);
fz_output *fz_new_output_with_buffer(fz_context *ctx, fz_buffer *buf);
void fz_close_output(fz_context *ctx, fz_output *out);
void fz_drop_output(fz_context *ctx, fz_output *out);

pdf_document *pdf_document_from_fz_document(fz_context *ctx, fz_document *doc);
int pdf_was_repaired(fz_context *ctx, pdf_document *doc);
pdf_obj *pdf_trailer(fz_context *ctx, pdf_document *doc);
pdf_obj *pdf_lookup_page_obj(fz_context *ctx, pdf_document *doc, int number);
pdf_xref_entry *pdf_get_xref_entry_no_change(fz_context *ctx, pdf_document *doc, int num);
void pdf_xref_entry_map(fz_context *ctx, pdf_document *doc, void (*visit)(fz_context *, pdf_xref_entry *, int num, pdf_document *, void *arg), void *arg);
void pdf_mark_xref(fz_context *ctx, pdf_document *doc);
void pdf_clear_xref_to_mark(fz_context *ctx, pdf_document *doc);
pdf_obj *pdf_new_dict(fz_context *ctx, pdf_document *doc, int capacity);
pdf_obj *pdf_new_name(fz_context *ctx, const char *name);
pdf_obj *pdf_keep_obj(fz_context *ctx, pdf_obj *obj);
void pdf_drop_obj(fz_context *ctx, pdf_obj *obj);
int pdf_obj_refs(fz_context *ctx, pdf_obj *obj);
int pdf_is_indirect(fz_context *ctx, pdf_obj *obj);
pdf_obj *pdf_resolve_indirect_chain(fz_context *ctx, pdf_obj *obj);
int pdf_to_num(fz_context *ctx, pdf_obj *obj);
const char *pdf_to_name(fz_context *ctx, pdf_obj *obj);
int pdf_array_len(fz_context *ctx, pdf_obj *array);
pdf_obj *pdf_array_get(fz_context *ctx, pdf_obj *array, int i);
pdf_obj *pdf_dict_gets(fz_context *ctx, pdf_obj *dict, const char *key);
void pdf_dict_puts_drop(fz_context *ctx, pdf_obj *dict, const char *key, pdf_obj *value);

/*
 * MuPDF's exceptions: a try block must be left by its end, never by return or
 * goto, and locals changed inside it and read after it must be volatile.
 */
#define TRY(ctx) if (!sigsetjmp(*fz_push_try(ctx), 0)) if (fz_do_try(ctx)) do
#define ALWAYS(ctx) while (0); if (fz_do_always(ctx)) do
#define CATCH(ctx) while (0); if (fz_do_catch(ctx))

enum { ERROR_SYSTEM = 2 }; /* fz_caught: out of memory, or a system call failed */

/* Opens the size bytes of the file fd for reading. The stream holds 16 KiB of
 * them at a time and leaves fd open. */
fz_stream *lc_open_file(fz_context *ctx, int fd, int64_t size);

/* Has MuPDF make its table of a PDF's pages without holding every page's
 * objects. It throws for lack of memory alone. */
void lc_index_pages(fz_context *ctx, fz_document *doc);

#endif
