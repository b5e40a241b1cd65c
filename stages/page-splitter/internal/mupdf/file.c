#include "library.h"

#include <stdio.h>
#include <unistd.h>

/*
 * A document is read from its file piece by piece. Mapped, each child that works
 * at a book would come to hold all of it, for MuPDF looks at an object of every
 * page before it has the first one. MuPDF's own file streams won't do: they call a
 * seek to a place that a broken file names, but does not have, lack of memory.
 */
struct file {
	int fd;
	int64_t size;
	unsigned char piece[16 << 10]; /* ends at the stream's pos */
};

static int next(fz_context *ctx, fz_stream *stream, size_t max)
{
	struct file *f = stream->state;
	size_t want = sizeof f->piece;
	ssize_t got;

	(void)ctx;
	(void)max; /* a hint */
	if ((int64_t)want > f->size - stream->pos)
		want = f->size - stream->pos;
	got = pread(f->fd, f->piece, want, stream->pos);
	if (got < 0) {
		/* MuPDF would go on without what is missing, and a page would lack
		 * it. The parent tries again in another child. */
		perror("reading the document");
		_exit(1);
	}
	stream->rp = f->piece;
	stream->wp = f->piece + got;
	stream->pos += got;
	return got > 0 ? *stream->rp++ : EOF;
}

/* What is close by is read already: objects that follow each other, and the
 * dictionary of a stream and its contents. */
static void seek(fz_context *ctx, fz_stream *stream, int64_t offset, int whence)
{
	struct file *f = stream->state;

	(void)ctx; /* whence is SEEK_SET or SEEK_END: the caller turns SEEK_CUR into the former */
	if (whence == SEEK_END)
		offset += f->size;
	if (offset < 0)
		offset = 0;
	if (offset > f->size)
		offset = f->size;
	if (offset <= stream->pos && offset >= stream->pos - (stream->wp - f->piece)) {
		stream->rp = stream->wp - (stream->pos - offset);
		return;
	}
	stream->rp = stream->wp = f->piece;
	stream->pos = offset;
}

fz_stream *lc_open_file(fz_context *ctx, int fd, int64_t size)
{
	struct file *f = fz_malloc(ctx, sizeof *f);
	fz_stream *stream;

	f->fd = fd;
	f->size = size;
	stream = fz_new_stream(ctx, f, next, fz_free); /* frees f where it throws */
	stream->rp = stream->wp = f->piece;
	stream->seek = seek;
	return stream;
}
