/* Near misses: what a user may have meant by a word that is unknown. */
#ifndef BASE_WORD_H
#define BASE_WORD_H

#include <stddef.h>

/* The candidate that a mistyped word is nearest to (at most 2 edits, 1 for words of up to 3 characters), or NULL.
 * next(i) yields candidates until NULL. */
const char *word_nearest(const char *word, const char *(*next)(const void *opaque, size_t i), const void *opaque);

#endif
