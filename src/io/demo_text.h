/* The built-in demo's text: very short English-looking stories made by a generator, so that the demo needs
 * no download. A story states facts early and comes back to them up to several hundred
 * bytes later in the same words, so that a model with a longer context reaches a lower loss. */
#ifndef DEMO_TEXT_H
#define DEMO_TEXT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* `bytes` bytes of stories in ASCII and a NUL, to be freed by the caller. The seed decides everything:
 * different seeds give different stories of the same language (training and validation text), and a
 * shorter text is the beginning of a longer one. The last story may be cut off. */
char *demo_text(uint64_t seed, int64_t bytes);

/* The beginning of a story, title and first facts, for a trained model to go on with; to be freed by the
 * caller. */
char *demo_prompt(uint64_t seed);

#ifdef __cplusplus
}
#endif
#endif
