#include "base/word.h"

#include <string.h>

#include "base/attr.h"

#define WORD_MAX 64
#define WORD_SHORT 3

/* Edits between two words of at most WORD_MAX characters: a character more, less or another, or two neighbours that
 * changed places (optimal string alignment). */
static size_t word_distance(const char *a, const char *b)
{
    size_t rows[3][WORD_MAX + 1], len_b = strlen(b), *before = rows[0], *last = rows[1], *row = rows[2];

    for (size_t j = 0; j <= len_b; j++)
        row[j] = j;
    for (size_t i = 0; a[i]; i++) {
        size_t *reused = before;

        before = last;
        last = row;
        row = reused;
        row[0] = i + 1;
        for (size_t j = 0; j < len_b; j++) {
            size_t replace = last[j] + (a[i] != b[j]);
            size_t edit = MIN(row[j], last[j + 1]) + 1;

            row[j + 1] = MIN(replace, edit);
            if (i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j])
                row[j + 1] = MIN(row[j + 1], before[j - 1] + 1);
        }
    }
    return row[len_b];
}

const char *word_nearest(const char *word, const char *(*next)(const void *opaque, size_t i), const void *opaque)
{
    const size_t len = strlen(word);
    size_t best = len <= WORD_SHORT ? 2 : 3; /* two edits make any short word of any other */
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
