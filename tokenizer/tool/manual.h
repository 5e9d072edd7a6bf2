/* What the manual page of tokenize says beside the flags. */
#ifndef TOKENIZE_MANUAL_H
#define TOKENIZE_MANUAL_H

#include "cli/man.h" /* ManTexts */

extern const ManTexts tokenize_manual;

#endif
