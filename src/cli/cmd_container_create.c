/* caisson create and run. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fdio.h"
#include "cli/command.h"
#include "cli/container_options.h"
#include "cli/instance.h"
#include "image/image.h"
#include "image/import.h"
#include "image/registry_pull.h"
#include "instance/client.h"
#include "instance/lifecycle.h"
#include "instance/volume.h"
#include "proto/exit_code.h"
#include "store/volume.h"
#include "sys/userns.h"

/* ---- the image ---- */

static int create_check_platform(const struct cli_args *args, const struct image *image, const char *name,
                                 struct err *e)
{
    const char *platform = cli_value(args, "platform");
    json_object *os = NULL, *arch = NULL;
    char have[64];

    json_object_object_get_ex(image->config, "os", &os);
    json_object_object_get_ex(image->config, "architecture", &arch);
    snprintf(have, sizeof(have), "%s/%s", os ? json_object_get_string(os) : "linux",
             arch ? json_object_get_string(arch) : image_arch());
    if (platform && strncmp(platform, have, strlen(have)) != 0 && strcmp(platform, strchr(have, '/') + 1) != 0)
        return err_set(e, EINVAL, "image %s is for %s, not for %s; pull that one", name, have, platform);
    if (!platform && strcmp(strchr(have, '/') + 1, image_arch()) != 0)
        return err_set(e, EINVAL, "image %s is for %s, and this machine is linux/%s; pull one that fits", name, have,
                       image_arch());
    return 0;
}

/* The options alone, before time goes into a pull; what the image adds is not known yet. */
static int create_check(const struct cli_args *args, struct err *e)
{
    struct inst_spec spec;
    int r = inst_spec_init(&spec, INST_CONTAINER);

    if (r < 0)
        return err_set(e, ENOMEM, "out of memory");
    r = cli_container_spec(args, NULL, args->operands + 1, args->n_operands - 1, &spec, e);
    if (r == 0 && spec.container.args.n == 0 && inst_strings_add(&spec.container.args, "of the image") < 0)
        r = err_set(e, ENOMEM, "out of memory");
    if (r == 0)
        r = inst_spec_check_new(&spec, e);
    inst_spec_done(&spec);
    return r;
}

/* Fetch the image where --pull says so. */
static int create_pull(const struct cli_args *args, struct store *s, const char *name, enum image_pull_policy policy,
                       struct image *ret, struct err *e)
{
    const struct image_pull_config config = { .name = name, .policy = policy, .platform = cli_value(args, "platform") };
    struct image_pull_result result;
    int r = create_check(args, e);

    if (r < 0)
        return r;
    if (!cli_value(args, "quiet"))
        fprintf(stderr, "caisson: pulling %s\n", name);
    r = image_pull(s, &config, &result, e);
    return r < 0 ? r : image_get(s, result.id, ret, e);
}

static int create_image(const struct cli_args *args, struct store *s, const char *name, struct image *ret,
                        struct err *e)
{
    const char *pull = cli_value(args, "pull");
    enum image_pull_policy policy = IMAGE_PULL_MISSING;
    int r;

    if (pull && image_pull_policy_parse(pull, &policy) < 0)
        return err_set(e, EINVAL, "--pull %s: use missing, always, newer or never", pull);
    r = policy == IMAGE_PULL_ALWAYS || policy == IMAGE_PULL_NEWER ? -ENOENT : image_get(s, name, ret, e);
    if (r == -ENOENT && policy != IMAGE_PULL_NEVER)
        r = create_pull(args, s, name, policy, ret, e);
    if (r < 0)
        return r;
    if (ret->kind != IMAGE_CONTAINER)
        return err_set(e, EPROTOTYPE, "image %s is that of a VM; start one with 'caisson vm create --image %s'", name,
                       name);
    return create_check_platform(args, ret, name, e);
}

/* ---- the row ---- */

struct create {
    const struct cli_args *args;
    struct store *store;
};

/* Volumes that have no name of the user's belong to the instance. They are known by their length. */
static bool create_is_anonymous(const struct inst_mount *m)
{
    return m->kind == INST_MOUNT_VOLUME && strlen(m->source) == 32 &&
           m->source[strspn(m->source, "0123456789abcdef")] == '\0';
}

static int create_fill(void *opaque, struct store_instance *i, const char *dir, struct err *e)
{
    struct create *c = opaque;
    int r = 0;

    (void)dir;
    for (size_t m = 0; m < i->spec.container.n_mounts && r == 0; m++) {
        const struct inst_mount *mount = &i->spec.container.mounts[m];
        struct store_volume v = { 0 };

        if (!create_is_anonymous(mount) || store_volume_get(c->store, mount->source, &v, NULL) == 0) {
            store_volume_done(&v);
            continue;
        }
        r = inst_volume_create(c->store, mount->source, i->id, NULL, e);
    }
    return r;
}

static int create_replace(struct store *s, const char *name, struct err *e)
{
    AUTO_FREE struct store_instance *old = calloc(1, sizeof(*old));
    const struct shim_msg_request kill = { .op = SHIM_MSG_KILL, .signal = SIGKILL };
    struct inst_info info = { 0 };
    int code, r = old ? store_instance_get(s, name, old, e) : err_set(e, ENOMEM, "out of memory");

    if (r == -ENOENT)
        return 0;
    if (r == 0)
        r = inst_ask(old, &info, e);
    if (r == 0 && info.alive) {
        r = inst_call(old, &kill, INST_CALL_MS, NULL, e);
        if (r == 0 || r == -ENOTCONN)
            r = inst_wait(old, INST_CALL_MS, &code, e);
    }
    if (r == 0)
        r = inst_remove(s, old, e);
    if (old)
        store_instance_done(old);
    return r;
}

/* Made before the instance, so that one whose id cannot be told is not left behind. */
static int create_cidfile_open(const char *path, int *ret_fd, struct err *e)
{
    *ret_fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (*ret_fd >= 0)
        return 0;
    return errno == EEXIST ? err_set(e, EEXIST, "--cidfile %s: is there already; remove it", path)
                           : err_set(e, errno, "--cidfile %s: %s; give a file that can be made", path, strerror(errno));
}

static int create_cidfile_write(int fd, const char *path, struct store *s, const struct store_instance *i,
                                struct err *e)
{
    struct err ignored = { 0 };
    int r = fd_write_all(fd, i->id, strlen(i->id));

    if (r < 0)
        (void)!inst_remove(s, i, &ignored);
    return r < 0 ? err_set(e, -r, "--cidfile %s: %s; make room", path, strerror(-r)) : 0;
}

static int create_spec(const struct cli_args *args, struct store *s, struct inst_spec *spec, struct err *e)
{
    const char *name = args->operands[0];
    struct image image = { 0 };
    int r = create_image(args, s, name, &image, e);

    if (r == 0)
        r = cli_container_spec(args, &image, args->operands + 1, args->n_operands - 1, spec, e);
    if (r == 0) {
        spec->image_id = strdup(image.id);
        spec->image_name = strdup(name);
        if (!spec->image_id || !spec->image_name)
            r = err_set(e, ENOMEM, "out of memory");
    }
    if (r == 0)
        r = inst_spec_check_new(spec, e);
    image_done(&image);
    return r;
}

static int create_made(const struct cli_args *args, struct store *s, struct store_instance *ret, struct err *e)
{
    const char *name = cli_value(args, "name");
    struct create c = { .args = args, .store = s };
    struct inst_spec spec;
    int r;

    if (inst_spec_init(&spec, INST_CONTAINER) < 0)
        return err_set(e, ENOMEM, "out of memory");
    r = create_spec(args, s, &spec, e);
    if (r == 0 && name && cli_value(args, "replace"))
        r = create_replace(s, name, e);
    if (r == 0)
        cli_container_warn(&spec.container);
    if (r == 0)
        r = inst_create(s, name ? name : "", &spec, create_fill, &c, ret, e);
    inst_spec_done(&spec);
    return r;
}

static int create_instance(const struct cli_args *args, struct store_instance *ret, struct err *e)
{
    const char *cidfile = cli_value(args, "cidfile");
    AUTO(store) struct store *store = NULL;
    AUTO_FD int cid = -1;
    int r;

    if (args->n_operands == 0)
        return err_set(e, EINVAL, "no image named; give the name of one, see 'caisson image ls'");
    r = cli_inst_open(STORE_WRITE, &store, e);
    if (r == 0 && cidfile)
        r = create_cidfile_open(cidfile, &cid, e);
    if (r == 0)
        r = create_made(args, store, ret, e);
    if (r == 0 && cidfile) {
        r = create_cidfile_write(cid, cidfile, store, ret, e);
        if (r < 0)
            store_instance_done(ret);
    }
    if (r < 0 && cid >= 0)
        unlink(cidfile);
    return r;
}

int cli_cmd_create(const struct cli_args *args)
{
    AUTO_FREE struct store_instance *i = calloc(1, sizeof(*i));
    struct err e = { 0 };
    int r = i ? create_instance(args, i, &e) : err_set(&e, ENOMEM, "out of memory");

    if (r < 0)
        return cli_fail(&e);
    printf("%s\n", i->id);
    store_instance_done(i);
    return EXIT_CODE_OK;
}

/* ---- run ---- */

/* The exit code for a container that did not start. */
static int run_code(const struct err *e)
{
    if (strncmp(e->text, "exec: ", 6) == 0)
        return e->code == ENOENT ? EXIT_CODE_NO_PROGRAM : EXIT_CODE_NOT_EXECUTABLE;
    return EXIT_CODE_NOT_RUN;
}

/* A container of `run` that never ran is of no use with --rm. */
static void run_forget(const struct store_instance *i)
{
    AUTO(store) struct store *s = NULL;
    struct err ignored = { 0 };

    if (store_open(STORE_WRITE, &s, &ignored) == 0)
        (void)!inst_remove(s, i, &ignored);
}

static int run_started(const struct cli_args *args, struct store_instance *i)
{
    const bool detach = cli_value(args, "detach") != NULL;
    const struct cli_attach_options o = { .in = i->spec.container.stdin_open, .proxy_signals = true };
    struct inst_start how = { .attach = !detach, .in = !detach && o.in, .wait = !detach };
    struct inst_session session;
    struct err e = { 0 };
    int r;

    inst_session_init(&session);
    cli_attach_size(i, &how);
    r = inst_start(i, &how, &session, &e);
    if (r < 0) {
        fprintf(stderr, "caisson: %s\n", e.text);
        if (i->spec.remove)
            run_forget(i);
        r = run_code(&e);
    } else if (detach) {
        printf("%s\n", i->id);
    } else {
        r = cli_attach(i, &session, &o);
    }
    inst_session_done(&session);
    return r;
}

int cli_cmd_run(const struct cli_args *args)
{
    AUTO_FREE struct store_instance *i = calloc(1, sizeof(*i));
    struct err e = { 0 };
    int r = i ? create_instance(args, i, &e) : err_set(&e, ENOMEM, "out of memory");

    if (r < 0) {
        fprintf(stderr, "caisson: %s\n", e.text);
        return EXIT_CODE_NOT_RUN;
    }
    r = run_started(args, i);
    store_instance_done(i);
    return r;
}
