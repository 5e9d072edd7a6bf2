#define _GNU_SOURCE /* memmem, fstat's times */
#include "tokenizer/tool/documents.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- the files ---- */

static int by_name(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool add_matches(glob_t *found, const char *pattern, Error *e) {
  switch (glob(pattern, GLOB_ERR | GLOB_NOSORT | (found->gl_pathc ? GLOB_APPEND : 0), NULL, found)) {
  case 0: return true;
  case GLOB_NOMATCH: return error_usage(e, "--input: no file matches '%s'. Check the pattern", pattern);
  case GLOB_ABORTED:
    return error_usage(e, "--input: a folder named in '%s' cannot be read. Check its permissions", pattern);
  default: return error_runtime(e, "out of memory while matching '%s'", pattern);
  }
}

static bool find_files(glob_t *found, const char *patterns, Error *e) {
  char *copy = strdup(patterns), *rest = copy, *pattern;
  CHECK(copy, "out of memory for patterns");
  bool ok = true;
  while (ok && (pattern = strsep(&rest, ","))) ok = !*pattern || add_matches(found, pattern, e);
  free(copy);
  if (ok && found->gl_pathc == 0) return error_usage(e, "--input: found no pattern in '%s'", patterns);
  if (ok) qsort(found->gl_pathv, found->gl_pathc, sizeof *found->gl_pathv, by_name);
  return ok;
}

static bool is_jsonl(const char *path, int format) {
  const char *dot = strrchr(path, '.');
  return format == INPUT_JSONL || (format == INPUT_AUTO && dot && strcasecmp(dot, ".jsonl") == 0);
}

static bool add_file(Inputs *in, const char *path, const TokenizeOptions *o, Error *e) {
  struct stat s;
  if (stat(path, &s) != 0) return error_usage(e, "%s: cannot be read: %s", path, strerror(errno));
  if (!S_ISREG(s.st_mode)) return error_usage(e, "%s: is not a plain file; give patterns of files", path);
  InputFile *f = &in->files[in->n];
  *f = (InputFile){.path = strdup(path),
                   .bytes = s.st_size,
                   .modified = (int64_t)s.st_mtim.tv_sec * 1000000000 + s.st_mtim.tv_nsec,
                   .jsonl = is_jsonl(path, o->format),
                   .split = (Split)o->split};
  CHECK(f->path, "out of memory for a path");
  in->n++;
  in->bytes += f->bytes;
  if (o->prompt_field && !f->jsonl)
    return error_usage(e, "%s: --prompt-field needs JSONL; give --format jsonl if this is some", path);
  return true;
}

bool inputs_open(Inputs *in, const TokenizeOptions *o, Error *e) {
  *in = (Inputs){0};
  glob_t found = {0};
  bool ok = find_files(&found, o->input, e);
  if (ok) {
    in->files = calloc(found.gl_pathc, sizeof *in->files);
    CHECK(in->files, "out of memory for %zu files", found.gl_pathc);
  }
  for (size_t i = 0; ok && i < found.gl_pathc; i++) {
    if (i > 0 && strcmp(found.gl_pathv[i], found.gl_pathv[i - 1]) == 0) continue;
    ok = add_file(in, found.gl_pathv[i], o, e);
  }
  globfree(&found);
  if (!ok) inputs_close(in);
  return ok;
}

void inputs_close(Inputs *in) {
  for (int64_t i = 0; i < in->n; i++) free(in->files[i].path);
  free(in->files);
  *in = (Inputs){0};
}

/* ---- reading ---- */

void document_reader_open(DocumentReader *r, const Inputs *in, int64_t max_document, InputPosition at) {
  *r = (DocumentReader){.in = in, .max_document = max_document, .fd = -1, .at = at};
  for (int64_t i = 0; i < at.file; i++) r->done_bytes += in->files[i].bytes;
}

static void close_file(DocumentReader *r) {
  if (r->fd >= 0) close(r->fd);
  r->fd = -1;
}

void document_reader_close(DocumentReader *r) {
  close_file(r);
  bytes_free(&r->ahead);
}

static bool open_file(DocumentReader *r, Error *e) {
  const InputFile *f = &r->in->files[r->at.file];
  r->fd = open(f->path, O_RDONLY | O_CLOEXEC);
  if (r->fd < 0) return error_usage(e, "%s: cannot be read: %s", f->path, strerror(errno));
  r->ended = false;
  r->ahead.n = r->used = 0;
  return lseek(r->fd, r->at.offset, SEEK_SET) == r->at.offset ||
         error_runtime(e, "%s: byte %lld cannot be reached", f->path, (long long)r->at.offset);
}

/* Reads on behind what is there. */
static bool read_ahead(DocumentReader *r, Error *e) {
  enum { PIECE = 1 << 18 };
  if (r->used) memmove(r->ahead.data, r->ahead.data + r->used, r->ahead.n - r->used);
  r->ahead.n -= r->used;
  r->used = 0;
  bytes_reserve(&r->ahead, PIECE);
  ssize_t got;
  do {
    got = read(r->fd, r->ahead.data + r->ahead.n, PIECE);
  } while (got < 0 && errno == EINTR);
  if (got < 0)
    return error_runtime(e, "%s: reading failed: %s. Check the disk", r->in->files[r->at.file].path,
                         strerror(errno));
  r->ahead.n += (size_t)got;
  r->ended = got == 0;
  return true;
}

/* The bytes of the line end, \n or \r\n, that the text begins with; 0 = none. */
static size_t line_end(const char *text, size_t n) {
  if (n >= 1 && text[0] == '\n') return 1;
  return n >= 2 && text[0] == '\r' && text[1] == '\n' ? 2 : 0;
}

/* The first \n from `from` on that ends a document: any, or one with an empty line behind it. n = none. */
static size_t find_newline(const char *text, size_t n, size_t from, bool blanks) {
  for (;;) {
    const char *found = from < n ? memchr(text + from, '\n', n - from) : NULL;
    if (!found) return n;
    from = (size_t)(found - text) + 1;
    if (!blanks || line_end(text + from, n - from)) return from - 1;
  }
}

/* Where the document at the start of the text [n] ends, and how many bytes are between it and the next one;
 * false when more must be read to tell. *from: where to look on, kept from one call to the next. */
static bool find_end(const InputFile *f, const char *text, size_t n, bool ended, size_t *from, size_t *length,
                     size_t *gap) {
  bool lines = f->jsonl || f->split == SPLIT_LINE, blanks = !lines && f->split == SPLIT_BLANK;
  size_t end = lines || blanks ? find_newline(text, n, *from, blanks) : n;
  bool found = end < n, whole = ended || (found && lines);
  *from = found || !blanks ? end : n - (n < 2 ? n : 2); /* the last bytes may be half of what is looked for */
  if (!found && ended && blanks && text[n - 1] == '\n') found = true, end = n - 1; /* the last line's end */
  *length = found && end && text[end - 1] == '\r' ? end - 1 : end;
  size_t past = end + found, more;
  while (blanks && (more = line_end(text + past, n - past))) past += more;
  *gap = past - *length;
  /* a \r may be half of an empty line */
  return whole || (found && past < n && !(past + 1 == n && text[past] == '\r'));
}

static bool too_long(const DocumentReader *r, Error *e) {
  return error_usage(
      e,
      "%s: the document at byte %lld is longer than --max-document %lld.\nGive a larger one, or "
      "--split line or blank for text that is many documents.",
      r->in->files[r->at.file].path, (long long)r->at.offset, (long long)r->max_document);
}

/* Reads the document at hand as a whole; *n and *gap as find_end; *there is false at the end of the file. */
static bool read_document(DocumentReader *r, bool *there, size_t *n, size_t *gap, Error *e) {
  const InputFile *f = &r->in->files[r->at.file];
  size_t from = 0, have;
  for (;;) {
    have = r->ahead.n - r->used;
    *there = have > 0;
    if (have && find_end(f, (char *)r->ahead.data + r->used, have, r->ended, &from, n, gap))
      return (int64_t)*n <= r->max_document || too_long(r, e);
    if (have && (int64_t)have > r->max_document + 1) return too_long(r, e);
    if (r->ended) return true;
    if (!read_ahead(r, e)) return false;
  }
}

/* What was read must be what the run began with: shards of half of it could not be told. */
static bool check_length(const DocumentReader *r, Error *e) {
  const InputFile *f = &r->in->files[r->at.file];
  return r->at.offset == f->bytes ||
         error_runtime(e, "%s: had %lld bytes and now has %lld: it changed while it was read", f->path,
                       (long long)f->bytes, (long long)r->at.offset);
}

static void add_document(DocumentBatch *b, const DocumentReader *r, size_t n) {
  b->documents = buffer_grow(b->documents, &b->capacity, b->n + 1, sizeof *b->documents);
  b->documents[b->n++] = (Document){b->text.n, n, r->at.file, r->at.offset};
  bytes_append(&b->text, r->ahead.data + r->used, n);
}

bool document_reader_next(DocumentReader *r, DocumentBatch *b, size_t bytes, Error *e) {
  b->n = b->text.n = 0;
  b->first = r->at.document;
  while (r->at.file < r->in->n && b->text.n < bytes) {
    bool there;
    size_t n = 0, gap = 0;
    if ((r->fd < 0 && !open_file(r, e)) || !read_document(r, &there, &n, &gap, e)) return false;
    if (there) {
      add_document(b, r, n);
      r->used += n + gap;
      r->at.offset += (int64_t)(n + gap);
      r->at.document++;
      continue;
    }
    close_file(r);
    if (!check_length(r, e)) return false;
    r->done_bytes += r->in->files[r->at.file].bytes;
    r->at.file++;
    r->at.offset = 0;
  }
  b->after = r->at;
  b->bytes_read = r->done_bytes + r->at.offset;
  return true;
}

void document_batch_free(DocumentBatch *b) {
  bytes_free(&b->text);
  free(b->documents);
  *b = (DocumentBatch){0};
}
