#include "ops/attention_documents.h"

/* Of a list, with its end: whole pieces of 16 bytes. */
static int64_t padded_offsets(const AttentionShape *s) {
  return (attention_documents_room(s) + 2) / 2 * 2;
}

DocumentList attention_document_list(void *memory, const AttentionShape *s) {
  int64_t n = padded_offsets(s), *offsets = memory;
  return (DocumentList){offsets, offsets + n, offsets + 2 * n, (int32_t *)(offsets + 3 * n)};
}

size_t attention_document_list_bytes(const AttentionShape *s) {
  return 3 * (size_t)padded_offsets(s) * sizeof(int64_t) +
         (size_t)attention_documents_room(s) * sizeof(int32_t);
}

/* Whether a document begins in that row of the batch. */
static bool begins(const AttentionShape *s, const int32_t *starts, int64_t row) {
  return row % s->T == 0 || starts[row] != starts[row - 1];
}

static void set_offset(const DocumentList *list, const AttentionShape *s, int64_t document, int64_t row) {
  list->query_offsets[document] = row * s->NH * s->HS;
  list->key_offsets[document] = row * s->NKV * s->HS;
  list->lse_offsets[document] = row * s->NH;
}

int64_t attention_list_documents(void *memory, const AttentionShape *s, const int32_t *starts) {
  DocumentList list = attention_document_list(memory, s);
  int64_t rows = s->B * s->T, room = attention_documents_room(s), count = 0, first = 0;
  for (int64_t row = 0; row < rows; row++) count += begins(s, starts, row);
  if (count > room) return count;
  for (int64_t d = 0; d < room; d++) {
    int64_t end = first;
    while (end < rows && (end == first || !begins(s, starts, end))) end++;
    set_offset(&list, s, d, first);
    list.lengths[d] = (int32_t)(end - first);
    first = end;
  }
  for (int64_t d = room; d < padded_offsets(s); d++) set_offset(&list, s, d, rows);
  return count;
}
