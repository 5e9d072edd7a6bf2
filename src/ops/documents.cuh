/* Documents that share a sequence, by the first position of each row's. Private to src/ops/attention*. */
#ifndef DOCUMENTS_CUH
#define DOCUMENTS_CUH

#include "device/group.cuh" // defines: HD

/* The end of the document that position `at` is in, or `limit` if that comes before. starts: of the sequence;
 * at < limit <= T. */
HD int64_t document_end(const int32_t *starts, int64_t limit, int64_t at) {
  if (starts[limit - 1] <= at) return limit;
  int64_t low = at + 1, high = limit - 1; /* the end is one of low .. high */
  while (low < high) {
    int64_t middle = low + (high - low) / 2;
    if (starts[middle] <= at)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

#endif
