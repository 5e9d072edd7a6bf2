/* The documents of a packed batch as a list: lengths, and where each begins in the tensors. Host only;
 * private to src/ops/attention*. */
#ifndef ATTENTION_DOCUMENTS_H
#define ATTENTION_DOCUMENTS_H

#include "ops/attention.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Parts of a list, one after the other in one piece of memory. Room that is left after the last document is
 * filled with documents without tokens that begin where that one ends. */
typedef struct DocumentList {
  int64_t *query_offsets; /* [room + 1]: the element at which a document begins in rows of NH heads, */
  int64_t *key_offsets;   /* in rows of NKV heads, */
  int64_t *lse_offsets;   /* and in rows of NH numbers; and where the last one ends */
  int32_t *lengths;       /* [room] in tokens */
} DocumentList;

/* The parts of the list at `memory`; all begin at multiples of 16 bytes. */
DocumentList attention_document_list(void *memory, const AttentionShape *s);
size_t attention_document_list_bytes(const AttentionShape *s);

#ifdef __cplusplus
}
#endif
#endif
