/* Words of Containerfiles: quotes, escapes, and variables as Docker's shell-like words have them ($V, ${V}, ${V:-word},
 * ${V:+word}, ${V:?text}). Pure. */
#ifndef IMAGE_BUILD_WORDS_H
#define IMAGE_BUILD_WORDS_H

#include "base/attr.h"
#include "base/err.h"
#include "proto/inst_spec.h"

#define BUILD_WORD_MAX (1U << 20) /* bytes of one with its variables replaced */

/* Finds what a variable stands for; NULL: it is not set. */
struct build_vars {
    const char *(*lookup)(const void *opaque, const char *name);
    const void *opaque;
};

/* Replace variables, take quotes and escapes away. ret_word is malloc'd. -EINVAL with text, -ENOMEM. */
int build_word_expand(const char *text, char escape, const struct build_vars *vars, char **ret_word,
                      struct err *e) MUST_USE;
/* Split at blanks outside quotes; quotes and escapes stay for build_word_expand. Adds to ret_words. -EINVAL: a quote
 * that is not closed. */
int build_words_split(const char *text, char escape, struct inst_strings *ret_words, struct err *e) MUST_USE;
/* "K=V K2='V 2'" (or "K the rest") as words "K=V", expanded. what: the instruction. */
int build_words_pairs(const char *text, char escape, const struct build_vars *vars, const char *what,
                      struct inst_strings *ret_pairs, struct err *e) MUST_USE;

#endif
