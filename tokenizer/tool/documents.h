/* Documents out of files, one after another, a batch at a time. */
#ifndef DOCUMENTS_H
#define DOCUMENTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "tokenizer/buffer.h"
#include "tokenizer/tool/options.h"

/* A file of the input. */
typedef struct InputFile {
  char *path;
  int64_t bytes;
  int64_t modified; /* time of the last change, ns */
  bool jsonl;       /* a line is a JSON object */
  Split split;      /* of a text */
} InputFile;

typedef struct Inputs {
  InputFile *files; /* [n], by name */
  int64_t n;
  int64_t bytes; /* of all */
} Inputs;

/* Finds the files of --input. */
bool inputs_open(Inputs *in, const TokenizeOptions *o, Error *e);
void inputs_close(Inputs *in);

/* A place in the input: where a document begins. */
typedef struct InputPosition {
  int64_t file, offset; /* the file, and the byte in it */
  int64_t document;     /* documents before it, those that are left out too */
} InputPosition;

/* A document as the file has it: a JSON object, or text. */
typedef struct Document {
  size_t at, n;         /* bytes in DocumentBatch.text */
  int64_t file, offset; /* where it begins */
} Document;

typedef struct DocumentBatch {
  Bytes text;
  Document *documents; /* [n] */
  size_t n, capacity;
  int64_t first;       /* number of the first document */
  InputPosition after; /* where the next batch begins */
  int64_t bytes_read;  /* of the input, up to there */
} DocumentBatch;

typedef struct DocumentReader {
  const Inputs *in;
  int64_t max_document;
  int fd;             /* of the file at hand; -1 = none is open */
  InputPosition at;   /* of the next document */
  Bytes ahead;        /* what was read ... */
  size_t used;        /* ... and is handed out */
  bool ended;         /* the file has no more */
  int64_t done_bytes; /* of the files before */
} DocumentReader;

/* Begins at a position: zeros, or where another reader was. */
void document_reader_open(DocumentReader *r, const Inputs *in, int64_t max_document, InputPosition at);
/* Fills the batch with the next documents, about `bytes` of them; none are left when it is empty. */
bool document_reader_next(DocumentReader *r, DocumentBatch *b, size_t bytes, Error *e);
void document_reader_close(DocumentReader *r);
void document_batch_free(DocumentBatch *b);

#endif
