#include "library.h"

#include <string.h>

/*
 * Before it gives the first page, MuPDF walks the tree of pages to its end and
 * keeps every page's dictionary for good, more than a kilobyte each. All that it
 * looks for is what their Type says. So the tree is walked here first: each page is
 * read, and its place in the table of objects then taken by one small dictionary
 * for all of them, which says that it is a page. MuPDF makes its own table of that,
 * and afterwards the places are empty again: a page that is asked for is read as
 * ever. What this walk leaves out costs memory and nothing else, for MuPDF's walk
 * decides.
 */

enum {
	MAX_DEPTH = 32,
	MAX_KIDS = 30000, /* in all. References to an object are counted in 16 bits */
	CLEAR_EVERY = 1000
};

struct walk {
	pdf_document *doc;
	pdf_obj *stand_in;
	/* The arrays of kids from the root to here, held: all else may be dropped
	 * from the table of objects meanwhile. */
	pdf_obj *kids[MAX_DEPTH];
	int at[MAX_DEPTH];
	int depth;
	int seen;
};

static int is(fz_context *ctx, pdf_obj *node, const char *type)
{
	return !strcmp(pdf_to_name(ctx, pdf_dict_gets(ctx, node, "Type")), type);
}

static void descend(fz_context *ctx, struct walk *w, pdf_obj *node)
{
	if (w->depth == MAX_DEPTH || !is(ctx, node, "Pages"))
		return;
	w->kids[w->depth] = pdf_keep_obj(ctx, pdf_resolve_indirect_chain(ctx, pdf_dict_gets(ctx, node, "Kids")));
	w->at[w->depth++] = 0;
}

static void replace(fz_context *ctx, struct walk *w, pdf_obj *page)
{
	pdf_xref_entry *entry = pdf_get_xref_entry_no_change(ctx, w->doc, pdf_to_num(ctx, page));

	if (!entry || !entry->obj || entry->stm_buf || pdf_obj_refs(ctx, entry->obj) != 1)
		return;
	pdf_drop_obj(ctx, entry->obj);
	entry->obj = pdf_keep_obj(ctx, w->stand_in);
}

static void walk(fz_context *ctx, struct walk *w)
{
	pdf_mark_xref(ctx, w->doc);
	descend(ctx, w, pdf_dict_gets(ctx, pdf_dict_gets(ctx, pdf_trailer(ctx, w->doc), "Root"), "Pages"));
	while (w->depth > 0 && w->seen < MAX_KIDS) {
		int top = w->depth - 1;
		pdf_obj *kid;
		if (w->at[top] >= pdf_array_len(ctx, w->kids[top])) {
			pdf_drop_obj(ctx, w->kids[top]);
			w->depth = top;
			continue;
		}
		kid = pdf_array_get(ctx, w->kids[top], w->at[top]++);
		if (!pdf_is_indirect(ctx, kid) || !is(ctx, kid, "Page"))
			descend(ctx, w, kid);
		else
			replace(ctx, w, kid);
		/* A broken object has MuPDF look for all objects anew, and change some
		 * in memory alone: these must not be dropped, and what was seen may be
		 * wrong. */
		if (pdf_was_repaired(ctx, w->doc))
			return;
		/* A page in an object stream came with all that is in there. */
		if (++w->seen % CLEAR_EVERY == 0)
			pdf_clear_xref_to_mark(ctx, w->doc);
	}
	pdf_clear_xref_to_mark(ctx, w->doc);
}

static void put_back(fz_context *ctx, pdf_xref_entry *entry, int num, pdf_document *doc, void *stand_in)
{
	(void)num;
	(void)doc;
	if (entry->obj != stand_in)
		return;
	pdf_drop_obj(ctx, entry->obj);
	entry->obj = NULL;
}

void lc_index_pages(fz_context *ctx, fz_document *document)
{
	struct walk w = { .doc = pdf_document_from_fz_document(ctx, document) };

	if (pdf_was_repaired(ctx, w.doc))
		return;
	fz_var_imp(&w);
	TRY(ctx) {
		w.stand_in = pdf_new_dict(ctx, w.doc, 1);
		pdf_dict_puts_drop(ctx, w.stand_in, "Type", pdf_new_name(ctx, "Page"));
		walk(ctx, &w);
		if (!pdf_was_repaired(ctx, w.doc))
			pdf_lookup_page_obj(ctx, w.doc, 0); /* makes the table */
	}
	ALWAYS(ctx) {
		while (w.depth > 0)
			pdf_drop_obj(ctx, w.kids[--w.depth]);
		if (w.stand_in)
			pdf_xref_entry_map(ctx, w.doc, put_back, w.stand_in);
		pdf_drop_obj(ctx, w.stand_in);
	}
	CATCH(ctx) {
		if (fz_caught(ctx) == ERROR_SYSTEM)
			fz_rethrow(ctx);
		/* All else befalls MuPDF again, and it tells. */
	}
}
