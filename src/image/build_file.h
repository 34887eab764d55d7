/* Containerfiles (Dockerfiles) as a list of instructions: comments, directives, continued lines, flags, the exec form.
 * Variables are not replaced here, since what they stand for changes from line to line (build_words.h). Pure: no file
 * is touched. */
#ifndef IMAGE_BUILD_FILE_H
#define IMAGE_BUILD_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attr.h"
#include "base/err.h"
#include "proto/inst_spec.h"

#define BUILD_FILE_MAX (1U << 20)
#define BUILD_INSTRUCTIONS_MAX 4096

enum build_op {
    BUILD_ADD,
    BUILD_ARG,
    BUILD_CMD,
    BUILD_COPY,
    BUILD_ENTRYPOINT,
    BUILD_ENV,
    BUILD_EXPOSE,
    BUILD_FROM,
    BUILD_HEALTHCHECK,
    BUILD_LABEL,
    BUILD_MAINTAINER,
    BUILD_ONBUILD,
    BUILD_RUN,
    BUILD_SHELL,
    BUILD_STOPSIGNAL,
    BUILD_USER,
    BUILD_VOLUME,
    BUILD_WORKDIR,
};

struct build_instruction {
    enum build_op op;
    unsigned line;             /* where it begins, from 1 */
    char *text;                /* as written, lines joined: for messages, history and cache keys */
    struct inst_strings flags; /* "--from=x", in order, variables not yet replaced */
    char *rest;                /* what is behind keyword and flags */
    bool exec;                 /* rest is a JSON array of strings: */
    struct inst_strings args;  /* these */
};

struct build_file {
    char escape; /* '\\' or '`' */
    struct build_instruction *at;
    size_t n;
};

/* text need not end with a zero. -EINVAL with text that names the line; -ENOMEM. *ret_file is the caller's. */
int build_file_parse(const char *text, size_t len, struct build_file *ret_file, struct err *e) MUST_USE;
/* Accepts a zeroed one. */
void build_file_done(struct build_file *f);
/* "COPY". */
const char *build_op_name(enum build_op op);
/* The value of --name=VALUE among the flags; NULL: not given. */
const char *build_flag(const struct build_instruction *i, const char *name);

#endif
