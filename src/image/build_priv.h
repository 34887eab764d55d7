/* Shared by build*.c: the state of a build. */
#ifndef IMAGE_BUILD_PRIV_H
#define IMAGE_BUILD_PRIV_H

#include <json-c/json.h>

#include "image/build.h"
#include "image/build_copy.h"
#include "image/build_file.h"
#include "image/build_layer.h"
#include "image/build_match.h"
#include "image/build_words.h"
#include "image/image_priv.h"

#define BUILD_KEY_MAX 65
#define BUILD_STAGES_MAX 128

struct build_name {
    char text[IMAGE_NAME_MAX];
};

/* One stage, or an image that COPY --from names. */
struct build_stage {
    char *name;               /* AS; NULL: none */
    json_object *doc;         /* the configuration so far; owned */
    json_object *layers;      /* descriptors for the manifest; owned */
    char key[BUILD_KEY_MAX];  /* of all that led here */
    struct inst_strings args; /* "K=V" of ARG, in scope */
    bool cmd_set;             /* CMD of this stage, not of the base */
    bool changed;             /* there is something that the base does not have */
    int64_t created_ns;       /* of the newest layer, also where it came from the cache: equal builds are one image */
    char **paths;             /* unpacked layers, topmost first; NULL: not asked for since the last one came */
    size_t n_paths;
    char manifest[IMAGE_DIGEST_MAX]; /* when paths were made */
};

struct builder {
    struct store *store;
    const struct image_build *config;
    struct image_add *add;
    struct build_file file;
    struct build_ignore ignore;
    int context;                  /* the folder */
    struct inst_strings globals;  /* ARG before the first FROM, "K=V" */
    struct inst_strings builtins; /* platforms, likewise */
    struct build_stage stages[BUILD_STAGES_MAX];
    size_t n_stages;
    struct build_stage others[BUILD_STAGES_MAX]; /* images of COPY --from */
    size_t n_others;
    unsigned step, n_steps;
};

/* ---- build_doc.c: a configuration document ---- */

json_object *build_doc_new(void);                /* of "scratch"; NULL: no memory */
json_object *build_doc_config(json_object *doc); /* its "config", made where it is missing */
void build_doc_text(json_object *doc, const char *member, const char *value);
void build_doc_strings(json_object *doc, const char *member, const struct inst_strings *values);
void build_doc_pair(json_object *doc, const char *pair);  /* "K=V" into Env, in place of an older one */
void build_doc_label(json_object *doc, const char *pair); /* into Labels */
void build_doc_set(json_object *doc, const char *member, const char *key); /* {} in ExposedPorts, Volumes */
const char *build_doc_get(json_object *doc, const char *member);           /* a text; "" where it is missing */
/* The value of a variable of Env; NULL: not set. Borrowed. */
const char *build_doc_env(json_object *doc, const char *name);
/* created_ns 0: what the document says already. */
void build_doc_history(json_object *doc, const char *text, bool empty, int64_t created_ns);
void build_doc_diff_id(json_object *doc, const char *diff_id);

/* ---- build_stage.c ---- */

/* FROM name: another stage, scratch, or an image, pulled where it is not here. */
int build_stage_begin(struct builder *b, struct build_stage *stage, const char *from, const char *platform,
                      struct err *e) MUST_USE;
void build_stage_done(struct build_stage *stage);
/* Its file system, unpacked. Valid until the next layer. */
int build_stage_stack(struct builder *b, struct build_stage *stage, struct build_stack *ret_stack,
                      struct err *e) MUST_USE;
int build_stage_add_layer(struct build_stage *stage, const struct image_layer *layer) MUST_USE;
/* Enter it as an image; names may be none. */
int build_stage_commit(struct builder *b, struct build_stage *stage, const char *const *names, size_t n_names,
                       char ret_id[IMAGE_DIGEST_MAX], struct err *e) MUST_USE;
/* The stage that COPY --from means: by name or number, or an image. */
int build_stage_find(struct builder *b, const struct build_stage *now, const char *name, struct build_stage **ret_stage,
                     struct err *e) MUST_USE;

/* ---- build_cache.c ---- */

/* key becomes the key of what follows from key by a step: texts, NULL-terminated. */
int build_key_next(char key[BUILD_KEY_MAX], const char *const *texts) MUST_USE;
/* The layer that a step with this key made before. False: there is none. */
bool build_cache_find(struct builder *b, const char *key, struct image_layer *ret_layer, int64_t *ret_created_ns);
/* Losing this costs time only: no errors. */
void build_cache_add(struct builder *b, const char *key, const struct image_layer *layer, int64_t created_ns);

/* ---- build_run.c ---- */

struct build_run {
    const struct builder *b;
    const struct inst_strings *args; /* argv */
    const struct inst_strings *env;  /* "K=V" */
    const char *cwd, *user;          /* "": "/", root */
    bool network_none;
    const char *bundle; /* a folder for this run alone, made by the caller */
};
/* As the run of a build_step, opaque: struct build_run. */
int build_run(void *opaque, const char *path, int root, int from, struct err *e);
/* What a killed run may have left (cgroups). */
void build_run_clean(const struct build_run *run);

/* ---- build_exec.c ---- */

/* Carry out one instruction other than FROM. */
int build_instruction_run(struct builder *b, struct build_stage *stage, const struct build_instruction *i,
                          struct err *e) MUST_USE;
/* Variables that are there without being told: the platforms, as BuildKit names them. Once. */
int build_builtins(struct builder *b, struct err *e) MUST_USE;
/* -EINVAL: the instruction has a flag that is not among known, which NULL ends. */
int build_check_flags(const struct build_instruction *i, const char *const *known, struct err *e) MUST_USE;
/* An ARG, before the first FROM with stage NULL. */
int build_arg(struct builder *b, struct build_stage *stage, const struct build_instruction *i, struct err *e) MUST_USE;
/* Variables of a stage (NULL: the global ones), for build_word_expand. vars borrows scope. */
struct build_scope {
    const struct builder *b;
    const struct build_stage *stage;
};
struct build_vars build_scope_vars(const struct build_scope *scope);

#endif
