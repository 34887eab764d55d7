#include "oci/criu_args.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "oci/path.h"

#define CRIU_LOG_LEVEL 4
#define IMAGES_DEFAULT "checkpoint"

static int criu_refuse(const struct oci_args *a, struct err *e)
{
    if (geteuid() != 0)
        return err_set(e, EPERM, "%s: CRIU needs root", a->verb);
    if (oci_flag(a, OCI_OPT_LAZY_PAGES) || a->value[OCI_OPT_STATUS_FD])
        return err_set(e, EOPNOTSUPP,
                       "--lazy-pages, --status-fd: pages cannot be left behind at the moment: leave the option away");
    return 0;
}

static int criu_cgroups_mode(const struct oci_args *a, struct oci_criu_opts *o, struct err *e)
{
    static const struct {
        const char *name;
        enum oci_criu_cgroups mode;
    } modes[] = { { "ignore", OCI_CRIU_CG_IGNORE },
                  { "soft", OCI_CRIU_CG_SOFT },
                  { "full", OCI_CRIU_CG_FULL },
                  { "strict", OCI_CRIU_CG_STRICT } };
    const char *name = a->value[OCI_OPT_MANAGE_CGROUPS_MODE];

    /* Without a wish the runtime makes the groups of the container, as it does at create. */
    for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
        if (strcmp(name ? name : "ignore", modes[i].name) == 0) {
            o->cgroups_mode = modes[i].mode;
            o->manage_cgroups = modes[i].mode != OCI_CRIU_CG_IGNORE;
            return 0;
        }
    }
    return err_set(e, EINVAL, "--manage-cgroups-mode %s: must be soft, full, strict or ignore", name);
}

static int criu_empty_ns(const struct oci_args *a, struct oci_criu_opts *o, struct err *e)
{
    const char *name;

    for (int at = 0; (name = oci_opt_next(a, OCI_OPT_EMPTY_NS, &at));) {
        if (strcmp(name, "network") != 0)
            return err_set(e, EINVAL, "--empty-ns %s: must be network", name);
        o->empty_ns = CLONE_NEWNET;
    }
    return 0;
}

static int criu_open(const char *path, bool make, const char *option, struct err *e)
{
    int r = make ? oci_path_mkdirs_host(path, 0700) : 0, fd = -1;

    if (r == 0) {
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        r = fd < 0 ? -errno : 0;
    }
    return r < 0 ? err_set(e, -r, "%s %s: %s", option, path, strerrordesc_np(-r)) : fd;
}

static int criu_dirs(const struct oci_args *a, bool make, struct oci_criu_dirs *dirs, struct err *e)
{
    const char *images = a->value[OCI_OPT_IMAGE_PATH] ? a->value[OCI_OPT_IMAGE_PATH] : IMAGES_DEFAULT;
    const char *work = a->value[OCI_OPT_WORK_PATH] ? a->value[OCI_OPT_WORK_PATH] : images;

    dirs->work_path = work;
    dirs->images_fd = criu_open(images, make, "--image-path", e);
    if (dirs->images_fd < 0)
        return dirs->images_fd;
    dirs->work_fd = criu_open(work, true, "--work-path", e);
    return MIN(dirs->work_fd, 0);
}

int oci_criu_args(const struct oci_args *a, bool make, const char *log_file, struct oci_criu_dirs *dirs,
                  struct oci_criu_opts *o, struct err *e)
{
    int r;

    *dirs = (struct oci_criu_dirs){ .images_fd = -1, .work_fd = -1 };
    *o = (struct oci_criu_opts){
        .ext_unix_sk = oci_flag(a, OCI_OPT_EXT_UNIX_SK),
        .tcp_established = oci_flag(a, OCI_OPT_TCP_ESTABLISHED),
        .shell_job = oci_flag(a, OCI_OPT_SHELL_JOB),
        .file_locks = oci_flag(a, OCI_OPT_FILE_LOCKS),
        .auto_dedup = oci_flag(a, OCI_OPT_AUTO_DEDUP),
        .notify_scripts = true,
        .orphan_pts_master = true,
        .log_level = CRIU_LOG_LEVEL,
        .log_file = log_file,
    };
    r = criu_refuse(a, e);
    if (r == 0)
        r = criu_cgroups_mode(a, o, e);
    if (r == 0)
        r = criu_empty_ns(a, o, e);
    if (r == 0)
        r = criu_dirs(a, make, dirs, e);
    o->images_dir_fd = dirs->images_fd;
    o->work_dir_fd = dirs->work_fd;
    return r;
}

void oci_criu_dirs_done(struct oci_criu_dirs *dirs)
{
    if (dirs->images_fd >= 0)
        close(dirs->images_fd);
    if (dirs->work_fd >= 0)
        close(dirs->work_fd);
    dirs->images_fd = dirs->work_fd = -1;
}
