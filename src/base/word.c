#include "base/word.h"

#include <string.h>

#include "base/attr.h"

#define WORD_MAX 64

/* Levenshtein distance of two words of at most WORD_MAX characters. */
static size_t word_distance(const char *a, const char *b)
{
    size_t row[WORD_MAX + 1], len_b = strlen(b);

    for (size_t j = 0; j <= len_b; j++)
        row[j] = j;
    for (size_t i = 0; a[i]; i++) {
        size_t diagonal = row[0];

        row[0] = i + 1;
        for (size_t j = 0; j < len_b; j++) {
            size_t replace = diagonal + (a[i] != b[j]);
            size_t edit = MIN(row[j], row[j + 1]) + 1;

            diagonal = row[j + 1];
            row[j + 1] = MIN(replace, edit);
        }
    }
    return row[len_b];
}

const char *word_nearest(const char *word, const char *(*next)(const void *opaque, size_t i), const void *opaque)
{
    size_t best = 3, len = strlen(word);
    const char *found = NULL, *candidate;

    if (len > WORD_MAX)
        return NULL;
    for (size_t i = 0; (candidate = next(opaque, i)) != NULL; i++) {
        size_t d;

        if (strlen(candidate) > WORD_MAX)
            continue;
        d = word_distance(word, candidate);
        if (d < best && d < len) {
            best = d;
            found = candidate;
        }
    }
    return found;
}
