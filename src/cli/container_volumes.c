/* -v, --mount and --tmpfs, and the folders that the image declares to be volumes. */
#include <errno.h>
#include <json-c/json.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/cleanup.h"
#include "cli/container_options.h"
#include "image/image.h"
#include "proto/inst_spec.h"
#include "proto/name.h"

/* A copy, or NULL for none; false: out of memory. */
static bool volumes_copy(const char *text, char **ret)
{
    *ret = text && text[0] ? strdup(text) : NULL;
    return *ret || !text || !text[0];
}

static int volumes_add(struct inst_container *c, enum inst_mount_kind kind, const char *source, const char *target,
                       const char *options)
{
    struct inst_mount *grown = reallocarray(c->mounts, c->n_mounts + 1, sizeof(*grown)), *m;

    if (!grown)
        return -ENOMEM;
    c->mounts = grown;
    m = &grown[c->n_mounts];
    *m = (struct inst_mount){ .kind = kind };
    c->n_mounts++; /* what is missing in it, the spec frees all the same */
    return volumes_copy(source, &m->source) && volumes_copy(target, &m->target) && volumes_copy(options, &m->options)
               ? 0
               : -ENOMEM;
}

/* A volume without a name gets one that nobody guesses; it goes with its container. */
static int volumes_add_anonymous(struct inst_container *c, const char *target, const char *options)
{
    unsigned char bytes[16];
    char name[2 * sizeof(bytes) + 1];

    if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
        return -EIO;
    for (size_t i = 0; i < sizeof(bytes); i++)
        snprintf(name + 2 * i, 3, "%02x", bytes[i]);
    return volumes_add(c, INST_MOUNT_VOLUME, name, target, options);
}

static bool volumes_has(const struct inst_container *c, const char *target)
{
    for (size_t i = 0; i < c->n_mounts; i++) {
        if (strcmp(c->mounts[i].target, target) == 0)
            return true;
    }
    return false;
}

/* A folder of the host as the user wrote it, or a volume's name. */
static int volumes_add_source(struct inst_container *c, const char *what, const char *source, const char *target,
                              const char *options, struct err *e)
{
    char path[PATH_MAX];
    int r;

    if (target[0] != '/')
        return err_set(e, EINVAL, "%s: '%s' is no absolute path in the container", what, target);
    if (volumes_has(c, target))
        return err_set(e, EINVAL, "%s: something is mounted at %s already; give it once", what, target);
    if (!source[0]) {
        r = volumes_add_anonymous(c, target, options);
    } else if (source[0] == '/' || source[0] == '.' || source[0] == '~') {
        if (!realpath(source, path))
            return err_set(e, errno, "%s: %s: %s; make it first", what, source, strerror(errno));
        r = volumes_add(c, INST_MOUNT_BIND, path, target, options);
    } else {
        if (!proto_name_ok(source))
            return err_set(e, EINVAL,
                           "%s: '%s' is no name for a volume (use 1 to %d of a-z, 0-9 and '-') and no path (it would "
                           "begin with / or .)",
                           what, source, PROTO_NAME_MAX);
        r = volumes_add(c, INST_MOUNT_VOLUME, source, target, options);
    }
    return r < 0 ? err_set(e, -r, "%s: %s", what, strerror(-r)) : 0;
}

/* -v [SRC:]DST[:OPTIONS] */
static int volumes_short(struct inst_container *c, const char *option, struct err *e)
{
    AUTO_FREE char *text = strdup(option);
    char what[300], *second, *third = NULL;

    if (!text)
        return err_set(e, ENOMEM, "out of memory");
    snprintf(what, sizeof(what), "--volume %.200s", option);
    second = strchr(text, ':');
    if (second)
        *second++ = '\0';
    third = second ? strchr(second, ':') : NULL;
    if (third)
        *third++ = '\0';
    if (!second)
        return volumes_add_source(c, what, "", text, NULL, e);
    return volumes_add_source(c, what, text, second, third, e);
}

/* The parts of --mount. */
struct volumes_mount {
    char type[16], source[PATH_MAX], target[PATH_MAX], options[512];
};

static int volumes_mount_word(struct volumes_mount *m, const char *key, const char *value, const char *option,
                              struct err *e)
{
    const size_t at = strlen(m->options);
    const char *word = NULL;

    if (strcmp(key, "type") == 0)
        snprintf(m->type, sizeof(m->type), "%s", value);
    else if (strcmp(key, "source") == 0 || strcmp(key, "src") == 0)
        snprintf(m->source, sizeof(m->source), "%s", value);
    else if (strcmp(key, "target") == 0 || strcmp(key, "destination") == 0 || strcmp(key, "dst") == 0)
        snprintf(m->target, sizeof(m->target), "%s", value);
    else if (strcmp(key, "readonly") == 0 || strcmp(key, "ro") == 0)
        word = strcmp(value, "false") == 0 ? "rw" : "ro";
    else if (strcmp(key, "tmpfs-size") == 0 || strcmp(key, "size") == 0)
        snprintf(m->options + at, sizeof(m->options) - at, "%ssize=%s", at ? "," : "", value);
    else if (strcmp(key, "tmpfs-mode") == 0 || strcmp(key, "mode") == 0)
        snprintf(m->options + at, sizeof(m->options) - at, "%smode=%s", at ? "," : "", value);
    else if (strcmp(key, "bind-propagation") == 0)
        word = value;
    else if (strcmp(key, "volume-nocopy") == 0)
        word = "nocopy";
    else if (!value[0])
        word = key;
    else
        return err_set(e, EINVAL, "--mount %s: '%s' is not known; give type, source, target, readonly, ...", option,
                       key);
    if (word)
        snprintf(m->options + at, sizeof(m->options) - at, "%s%s", at ? "," : "", word);
    return 0;
}

/* --mount type=bind,source=SRC,target=DST[,readonly]... */
static int volumes_long(struct inst_container *c, const char *option, struct err *e)
{
    AUTO_FREE char *text = strdup(option);
    AUTO_FREE struct volumes_mount *m = calloc(1, sizeof(*m));
    char what[300], *save = NULL;
    int r = text && m ? 0 : err_set(e, ENOMEM, "out of memory");

    snprintf(what, sizeof(what), "--mount %.200s", option);
    for (char *word = r == 0 ? strtok_r(text, ",", &save) : NULL; word && r == 0; word = strtok_r(NULL, ",", &save)) {
        char *value = strchr(word, '=');

        if (value)
            *value++ = '\0';
        r = volumes_mount_word(m, word, value ? value : "", option, e);
    }
    if (r < 0)
        return r;
    if (strcmp(m->type, "tmpfs") == 0) {
        if (m->target[0] != '/' || m->source[0])
            return err_set(e, EINVAL, "%s: a tmpfs has a target and no source", what);
        r = volumes_add(c, INST_MOUNT_TMPFS, NULL, m->target, m->options);
        return r < 0 ? err_set(e, -r, "%s: %s", what, strerror(-r)) : 0;
    }
    if (m->type[0] && strcmp(m->type, "bind") != 0 && strcmp(m->type, "volume") != 0)
        return err_set(e, EINVAL, "%s: '%s' is no type; give bind, volume or tmpfs", what, m->type);
    if (strcmp(m->type, "bind") == 0 && m->source[0] != '/' && m->source[0] != '.')
        return err_set(e, EINVAL, "%s: the source of a bind mount is a path", what);
    return volumes_add_source(c, what, m->source, m->target, m->options, e);
}

/* --tmpfs DST[:OPTIONS] */
static int volumes_tmpfs(struct inst_container *c, const char *option, struct err *e)
{
    AUTO_FREE char *text = strdup(option);
    char *options = text ? strchr(text, ':') : NULL;
    int r;

    if (options)
        *options++ = '\0';
    if (text && text[0] != '/')
        return err_set(e, EINVAL, "--tmpfs %s: is no absolute path in the container", option);
    r = text ? volumes_add(c, INST_MOUNT_TMPFS, NULL, text, options) : -ENOMEM;
    return r < 0 ? err_set(e, -r, "--tmpfs %s: %s", option, strerror(-r)) : 0;
}

/* Declared by the image, and not mounted by the user. */
static int volumes_declared(struct inst_container *c, const struct image *image, struct err *e)
{
    json_object *config = NULL, *volumes = NULL;
    int r = 0;

    if (!image || !json_object_object_get_ex(image->config, "config", &config) ||
        !json_object_object_get_ex(config, "Volumes", &volumes) || !json_object_is_type(volumes, json_type_object))
        return 0;
    json_object_object_foreach(volumes, key, value)
    {
        (void)value;
        if (r == 0 && key[0] == '/' && !volumes_has(c, key))
            r = volumes_add_anonymous(c, key, NULL);
    }
    return r < 0 ? err_set(e, -r, "the image's volumes: %s", strerror(-r)) : 0;
}

int cli_container_volumes(const struct cli_args *args, const struct image *image, struct inst_spec *spec, struct err *e)
{
    struct inst_container *c = &spec->container;
    int r = 0;

    for (size_t i = 0; i < args->n_given && r == 0; i++) {
        const char *name = args->given[i].option->name, *v = args->given[i].value;

        if (strcmp(name, "volume") == 0)
            r = volumes_short(c, v, e);
        else if (strcmp(name, "mount") == 0)
            r = volumes_long(c, v, e);
        else if (strcmp(name, "tmpfs") == 0)
            r = volumes_tmpfs(c, v, e);
    }
    return r == 0 ? volumes_declared(c, image, e) : r;
}
