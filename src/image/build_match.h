/* Patterns of files in build contexts: Go's filepath.Match ('*' and '?' within a component, "[a-z]", '\' before a
 * character), with "**" for any number of components; and ignore files made of them. Pure. */
#ifndef IMAGE_BUILD_MATCH_H
#define IMAGE_BUILD_MATCH_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attr.h"
#include "proto/inst_spec.h"

/* Whether path (relative, components separated by single slashes) fits pattern as a whole. */
bool build_match(const char *pattern, const char *path);
/* Whether text has characters that mean something to build_match. */
bool build_match_is_pattern(const char *text);

/* The patterns of an ignore file, in order; "!..." takes back. */
struct build_ignore {
    struct inst_strings patterns;
    bool negates; /* one of them begins with '!': folders that are ignored must be looked into */
};
/* text: of the file. -ENOMEM. */
int build_ignore_parse(const char *text, size_t len, struct build_ignore *ret_ignore) MUST_USE;
void build_ignore_done(struct build_ignore *i);
/* Whether path is left out: it or a folder above it fits, and no later pattern takes it back. */
bool build_ignore_fits(const struct build_ignore *i, const char *path);

#endif
