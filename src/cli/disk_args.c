#include "cli/disk_args.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/num.h"
#include "proto/exit_code.h"

int disk_args_operand(const struct cli_args *args, int i, const char *what, const char **ret, struct err *e)
{
    if (i >= args->n_operands)
        return err_set(e, EINVAL, "%s is missing; see 'caisson disk --help'", what);
    if (args->operands[i][0] == '\0')
        return err_set(e, EINVAL, "%s is empty; name a disk", what);
    *ret = args->operands[i];
    return 0;
}

int disk_args_dirs(const struct cli_args *args, const char *dirs[DISK_ARGS_DIRS_MAX + 1], const char *const **ret_dirs,
                   struct err *e)
{
    size_t n = 0;

    for (size_t i = 0; i < args->n_given; i++) {
        if (strcmp(args->given[i].option->name, "allow-dir") != 0)
            continue;
        if (n == DISK_ARGS_DIRS_MAX)
            return err_set(e, EINVAL, "too many folders; give --allow-dir at most %d times", DISK_ARGS_DIRS_MAX);
        dirs[n++] = args->given[i].value;
    }
    dirs[n] = NULL;
    *ret_dirs = n ? dirs : NULL;
    return 0;
}

int disk_args_open(const struct cli_args *args, int i, const char *what, const char *format_option, struct disk_args *a,
                   struct err *e)
{
    int r;

    *a = (struct disk_args){ .config = { .format = cli_value(args, format_option) } };
    a->config.sharing = cli_value(args, "force-share") ? BLK_LOCK_NONE : BLK_LOCK;
    r = disk_args_operand(args, i, what, &a->config.path, e);
    if (r >= 0)
        r = cli_secret_read("secret", cli_value(args, "secret"), &a->secret, e);
    a->config.secret = a->secret.data;
    a->config.secret_len = a->secret.len;
    return r < 0 ? r : disk_args_dirs(args, a->dirs, &a->config.allowed_dirs, e);
}

void disk_args_done(struct disk_args *a)
{
    cli_secret_done(&a->secret);
}

int disk_args_backing(const char *option, const char *text, char **ret_path, char **ret_format, struct err *e)
{
    AUTO_FREE char *path = calloc(1, strlen(text) + 1);
    AUTO_FREE char *format = NULL;
    const char *p = text;
    size_t n = 0;

    if (!path)
        return err_set(e, ENOMEM, "out of memory");
    for (; *p && (*p != ',' || p[1] == ','); p++) {
        path[n++] = *p;
        p += *p == ',';
    }
    if (n == 0)
        return err_set(e, EINVAL, "--%s: no file; use FILE[,format=F]", option);
    if (*p == ',') {
        if (strncmp(p, ",format=", 8) != 0 || p[8] == '\0' || strchr(p + 8, ','))
            return err_set(e, EINVAL, "--%s %s: unknown part '%s'; use FILE[,format=F], a comma in FILE as ',,'",
                           option, text, p + 1);
        format = strdup(p + 8);
        if (!format)
            return err_set(e, ENOMEM, "out of memory");
    }
    *ret_path = STEAL(path);
    *ret_format = STEAL(format);
    return 0;
}

int disk_args_size(const struct cli_args *args, const char *option, uint64_t *ret, struct err *e)
{
    const char *text = cli_value(args, option);

    if (text && num_parse_size(text, ret) < 0)
        return err_set(e, EINVAL, "--%s %s: not a size; use a number with K, M, G or T behind it, e.g. 64K", option,
                       text);
    return 0;
}

int disk_args_prealloc(const struct cli_args *args, enum blk_prealloc *ret, struct err *e)
{
    static const char *const names[] = { [BLK_PREALLOC_OFF] = "off",
                                         [BLK_PREALLOC_METADATA] = "metadata",
                                         [BLK_PREALLOC_FALLOC] = "falloc",
                                         [BLK_PREALLOC_FULL] = "full" };
    const char *text = cli_value(args, "preallocation");

    for (size_t i = 0; text && i < ARRAY_SIZE(names); i++) {
        if (strcmp(text, names[i]) == 0) {
            *ret = (enum blk_prealloc)i;
            return 0;
        }
    }
    return text ? err_set(e, EINVAL, "--preallocation %s: unknown; use off, metadata, falloc or full", text) : 0;
}

/* ---- a new image ---- */

static bool disk_args_needs_qcow2(const struct cli_args *args, const char **ret_option)
{
    static const char *const options[] = { "cluster-size", "lazy-refcounts", "extended-l2",   "compression",
                                           "data-file",    "refcount-bits",  "data-file-raw", "qcow2-version" };

    for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
        if (cli_value(args, options[i])) {
            *ret_option = options[i];
            return true;
        }
    }
    return false;
}

static int disk_args_qcow2(const struct cli_args *args, struct blk_create_config *c, struct err *e)
{
    const char *bits = cli_value(args, "refcount-bits"), *compression = cli_value(args, "compression");
    const char *version = cli_value(args, "qcow2-version");
    uint64_t n = 0;
    int r = disk_args_size(args, "cluster-size", &n, e);

    if (r < 0)
        return r;
    if (cli_value(args, "cluster-size") && (n < 512 || n > 2u << 20 || (n & (n - 1)) != 0))
        return err_set(e, EINVAL, "--cluster-size %s: not possible; use a power of two from 512 to 2M",
                       cli_value(args, "cluster-size"));
    c->cluster_size = (uint32_t)n;
    if (bits && (num_parse_u64(bits, 1, 64, &n) < 0 || (n & (n - 1)) != 0))
        return err_set(e, EINVAL, "--refcount-bits %s: not possible; use 1, 2, 4, 8, 16, 32 or 64", bits);
    c->refcount_bits = bits ? (unsigned)n : 0;
    if (version && num_parse_u64(version, 2, 3, &n) < 0)
        return err_set(e, EINVAL, "--qcow2-version %s: not possible; use 2 or 3", version);
    c->version = version ? (unsigned)n : 0;
    c->zstd = compression && strcmp(compression, "zstd") == 0;
    if (compression && !c->zstd && strcmp(compression, "zlib") != 0)
        return err_set(e, EINVAL, "--compression %s: unknown; use zlib or zstd", compression);
    c->lazy_refcounts = cli_value(args, "lazy-refcounts") != NULL;
    c->extended_l2 = cli_value(args, "extended-l2") != NULL;
    c->data_file = cli_value(args, "data-file");
    c->data_file_raw = cli_value(args, "data-file-raw") != NULL;
    return 0;
}

/* Encryption is asked for by --encrypt or --format luks, and not without a passphrase; nor is one given for nothing. */
static int disk_args_encrypt(const struct cli_args *args, const char *secret_option, struct disk_args_target *t,
                             struct err *e)
{
    bool luks = strcmp(t->config.format, "luks") == 0, wanted = luks || cli_value(args, "encrypt");
    const char *text = cli_value(args, secret_option), *iter = cli_value(args, "iter-time");
    uint64_t ms = 0;
    int r;

    if (wanted && !text)
        return err_set(e, EINVAL, "an encrypted disk needs a passphrase; give --%s file:PATH", secret_option);
    if (wanted && strcmp(t->config.format, "raw") == 0)
        return err_set(e, EINVAL, "--encrypt: the format raw cannot be encrypted; use --format qcow2 or luks");
    if (!wanted) /* it may be the backing file's */
        return 0;
    if (iter && num_parse_u64(iter, 1, 60000, &ms) < 0)
        return err_set(e, EINVAL, "--iter-time %s: not possible; use 1 to 60000 milliseconds", iter);
    t->config.luks_iter_ms = (unsigned)ms;
    r = cli_secret_read(secret_option, text, &t->secret, e);
    t->config.secret = t->secret.data;
    t->config.secret_len = t->secret.len;
    return r;
}

int disk_args_target(const struct cli_args *args, const char *path, const char *secret_option,
                     struct disk_args_target *t, struct err *e)
{
    const char *format = cli_value(args, "format"), *backing = cli_value(args, "backing"), *option = NULL;
    int r = 0;

    *t = (struct disk_args_target){ .config = { .path = path, .format = format ? format : "qcow2" } };
    format = t->config.format;
    if (strcmp(format, "raw") != 0 && strcmp(format, "qcow2") != 0 && strcmp(format, "luks") != 0)
        return err_set(e, EINVAL, "--format %s: cannot be made; use raw, qcow2 or luks", format);
    if (strcmp(format, "qcow2") != 0 && disk_args_needs_qcow2(args, &option))
        return err_set(e, EINVAL, "--%s: only for the format qcow2; leave it out, or use --format qcow2", option);
    t->config.overwrite = cli_value(args, "force") != NULL;
    r = disk_args_prealloc(args, &t->config.prealloc, e);
    if (r >= 0)
        r = disk_args_qcow2(args, &t->config, e);
    if (r >= 0 && backing)
        r = disk_args_backing("backing", backing, &t->backing, &t->backing_format, e);
    t->config.backing_path = t->backing;
    t->config.backing_format = t->backing_format;
    return r < 0 ? r : disk_args_encrypt(args, secret_option, t, e);
}

void disk_args_target_done(struct disk_args_target *t)
{
    cli_secret_done(&t->secret);
    free(t->backing);
    free(t->backing_format);
}

/* ---- work and output ---- */

int disk_args_long(const struct cli_args *args, const char *operation,
                   int (*work)(void *opaque, const struct disk_progress *progress, struct err *e), void *opaque,
                   struct err *e)
{
    struct cli_cancel cancel;
    struct cli_progress bar;
    struct disk_progress progress = { .step = cli_progress_step, .opaque = &bar };
    int r = cli_cancel_begin(&cancel, e);

    if (r < 0)
        return cli_fail(e);
    r = cli_progress_begin(&bar, args, operation, &cancel, e);
    if (r >= 0) {
        r = work(opaque, &progress, e);
        cli_progress_end(&bar, r >= 0);
    }
    return cli_cancel_end(&cancel, r < 0 ? cli_fail(e) : EXIT_CODE_OK);
}

void disk_args_print_json(json_object *o)
{
    printf("%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED |
                                                         JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(o);
}

const char *disk_args_text(json_object *o, const char *key)
{
    json_object *v = NULL;

    return json_object_object_get_ex(o, key, &v) && json_object_is_type(v, json_type_string) ? json_object_get_string(v)
                                                                                             : "";
}

uint64_t disk_args_u64(json_object *o, const char *key)
{
    json_object *v = NULL;

    return json_object_object_get_ex(o, key, &v) && json_object_is_type(v, json_type_int) ? json_object_get_uint64(v)
                                                                                          : 0;
}

bool disk_args_flag(json_object *o, const char *key)
{
    json_object *v = NULL;

    return json_object_object_get_ex(o, key, &v) && json_object_get_boolean(v);
}
