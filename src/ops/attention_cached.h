/* Attention of a few new tokens over the keys and values of a text so far: what generating needs. */
#ifndef ATTENTION_CACHED_H
#define ATTENTION_CACHED_H

#include "ops/attention.h" /* defines: AttentionShape, Heads */

#ifdef __cplusplus
extern "C" {
#endif

enum { CACHED_MOST_HS = 384 }; /* numbers of a head, at most */

/* Puts the keys and values of `rows` tokens into the cache: their row r goes to row first + r of keys and
 * values, [., NKV*HS] each. */
void attention_cache(Device *dev, DType dt, void *keys, void *values, int64_t first, Heads k, Heads v,
                     const AttentionShape *s, int64_t rows);

/* o [rows, NH*HS]: query row r stands at position first + r and sees the cache's rows up to its own, as far
 * back as the window reaches. Of the shape, B and T are not looked at. Sums in fp32. */
void attention_cached(Device *dev, DType dt, void *o, Heads q, const void *keys, const void *values,
                      int64_t first, const AttentionShape *s, int64_t rows);

#ifdef __cplusplus
}
#endif
#endif
