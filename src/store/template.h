/* Templates: an image and the options that instances made from it get. The options are kept as words of the command
 * line, since that is how users give them and how they are checked. */
#ifndef STORE_TEMPLATE_H
#define STORE_TEMPLATE_H

#include <stdint.h>

#include "proto/inst_spec.h"
#include "proto/name.h"
#include "store/store.h"

#define STORE_TEMPLATE_IMAGE_MAX 512
#define STORE_TEMPLATE_WORDS_MAX 512

struct store_template {
    char name[PROTO_NAME_MAX + 1];
    char image[STORE_TEMPLATE_IMAGE_MAX]; /* name or id, as given */
    enum inst_kind kind;                  /* of the image when it was made */
    struct inst_strings words;            /* "--memory", "1G", ...; owned */
    int64_t created_ns;
};
void store_template_done(struct store_template *t);

/* created_ns is set here. -EEXIST with text: there is one of this name. */
int store_template_add(struct store *s, const struct store_template *t, struct err *e) MUST_USE;
/* -ENOENT with the nearest name. The result is the caller's. */
int store_template_get(struct store *s, const char *name, struct store_template *ret_template, struct err *e) MUST_USE;
/* By name. fn borrows the template. */
int store_template_each(struct store *s, int (*fn)(void *opaque, const struct store_template *t), void *opaque,
                        struct err *e) MUST_USE;
int store_template_remove(struct store *s, const char *name, struct err *e) MUST_USE;

#endif
