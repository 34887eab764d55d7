/* `restore`: a container out of CRIU's images. State and control groups are made as at create; CRIU then makes
 * namespaces, mounts and processes, as a child that is in the container's groups already, and gives us the first
 * process as a child of ours. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "oci/console.h"
#include "oci/create.h"
#include "oci/criu.h"
#include "oci/criu_args.h"
#include "oci/criu_notes.h"
#include "oci/main.h"
#include "oci/ns.h"
#include "oci/path.h"
#include "oci/state.h"
#include "oci/wait.h"

struct restore {
    struct oci_create c;
    struct oci_criu_dirs dirs;
    struct oci_criu_opts opts;
    struct oci_criu criu;
    struct oci_criu_notes *notes;
    struct oci_criu_fd inherit[3 + 2];
    struct oci_criu_pair cg_roots[32];
};

/* A mount point in the root file system itself must be there; those on other mounts come with their content. */
static int restore_mount_points(const struct oci_create *c, struct err *e)
{
    AUTO_FD int root = open(c->rootfs, O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (root < 0)
        return err_set(e, errno, "root.path %s: %m", c->rootfs);
    for (size_t i = 0; i < c->spec->n_mounts; i++) {
        const struct oci_mount *m = &c->spec->mounts[i];
        bool below = false;
        struct stat st;
        int fd;

        for (size_t k = 0; k < i && !below; k++) {
            const char *top = c->spec->mounts[k].destination;
            const size_t len = strlen(top);

            below = len > 1 && strncmp(m->destination, top, len) == 0 && m->destination[len] == '/';
        }
        if (below)
            continue;
        fd = oci_path_target(root, m->destination, !m->bind || stat(m->source, &st) < 0 || S_ISDIR(st.st_mode));
        if (fd < 0 && fd != -EROFS)
            return err_set(e, -fd, "mount %s: the place cannot be made: %s", m->destination, strerrordesc_np(-fd));
        if (fd >= 0)
            close(fd);
    }
    return 0;
}

/* Standard descriptors of now in the place of those of then, and namespaces that were joined. */
static int restore_inherit(struct restore *r, struct err *e)
{
    struct oci_launch *l = &r->c.launch;
    size_t n = 0;
    int res = oci_ns_open(l, e);

    if (res < 0)
        return res;
    for (int fd = 0; fd < 3; fd++) {
        bool same = false;

        for (size_t i = 0; i < n; i++)
            same |= strcmp(r->inherit[i].key, r->notes->stdio[fd]) == 0;
        if (r->notes->stdio[fd][0] && !same)
            r->inherit[n++] = (struct oci_criu_fd){ r->notes->stdio[fd], fd };
    }
    if (l->join_fd[OCI_NS_NET] >= 0)
        r->inherit[n++] = (struct oci_criu_fd){ OCI_CRIU_NET, l->join_fd[OCI_NS_NET] };
    if (l->join_fd[OCI_NS_PID] >= 0)
        r->inherit[n++] = (struct oci_criu_fd){ OCI_CRIU_PID, l->join_fd[OCI_NS_PID] };
    r->opts.inherit = r->inherit;
    r->opts.n_inherit = n;
    return 0;
}

/* Where CRIU is to look after groups, the new container's take the place of the old one's. */
static void restore_cgroup_roots(struct restore *r)
{
    const struct oci_cgroup_hierarchy *h = NULL;
    const size_t n = oci_cgroup_hierarchies(r->c.launch.cgroup, &h);

    if (!r->opts.manage_cgroups)
        return;
    for (size_t i = 0; i < n && i < ARRAY_SIZE(r->cg_roots); i++) {
        const char *name = h[i].options ? h[i].options : "";

        r->cg_roots[i] = (struct oci_criu_pair){ strncmp(name, "none,", 5) == 0 ? name + 5 : name, h[i].path };
        r->opts.n_cg_roots = i + 1;
    }
    r->opts.cg_roots = r->cg_roots;
}

static int restore_notify(void *opaque, const char *script, pid_t pid, int fd, struct err *e)
{
    struct restore *r = opaque;
    int res = 0;

    if (strcmp(script, "setup-namespaces") == 0) {
        r->c.pid = pid;
        res = oci_create_hooks(&r->c, OCI_HOOK_PRESTART, OCI_CREATED, e);
        if (res == 0)
            res = oci_create_hooks(&r->c, OCI_HOOK_CREATE_RUNTIME, OCI_CREATING, e);
        r->c.pid = 0; /* CRIU ends it where the restore fails */
    } else if (strcmp(script, "post-restore") == 0) {
        res = oci_criu_notes_restrict(r->notes, pid, e);
    } else if (strcmp(script, "orphan-pts-master") == 0 && fd >= 0 && r->c.launch.console_fd >= 0) {
        res = oci_send_fd(r->c.launch.console_fd, fd, "/dev/ptmx", sizeof("/dev/ptmx") - 1);
        if (res < 0)
            err_set(e, -res, "console socket: %s", strerrordesc_np(-res));
    }
    return res;
}

static int restore_plan(struct restore *r, struct err *e)
{
    const struct oci_args *a = r->c.args;
    int res = oci_criu_args(a, false, "restore.log", &r->dirs, &r->opts, e);

    r->notes = oci_criu_notes_new();
    if (res == 0 && !r->notes)
        res = err_set(e, ENOMEM, "out of memory");
    if (res == 0)
        res = oci_criu_notes_load(r->dirs.images_fd, r->notes, e);
    r->opts.rst_sibling = true;
    r->opts.lsm_profile = a->value[OCI_OPT_LSM_PROFILE];
    r->opts.lsm_mount_context = a->value[OCI_OPT_LSM_MOUNT_CONTEXT];
    return res;
}

/* By CRIU: the first process, with all others. */
static int restore_call(struct restore *r, struct err *e)
{
    struct oci_launch *l = &r->c.launch;
    const struct oci_namespace *ns = &r->c.spec->ns[OCI_NS_CGROUP];
    /* Where CRIU cares for groups, it must see all of them, and makes the namespace itself. */
    struct oci_criu_place place = { .rootfs = r->c.rootfs,
                                    .cgroup_ns = ns->wanted && !ns->path && !r->opts.manage_cgroups,
                                    .work_path = r->dirs.work_path };
    struct oci_criu_response answer;
    int res = oci_criu_notes_sources(r->notes, r->c.spec, r->c.rootfs, l->cgroup, e);

    if (res == 0)
        res = restore_inherit(r, e);
    if (res == 0)
        res = oci_console_prepare(l, r->c.args, e);
    place.keep = r->opts.inherit;
    place.n_keep = r->opts.n_inherit;
    if (res == 0)
        res = oci_criu_start(r->c.args, &place, &r->criu, e);
    if (res == 0)
        res = oci_cgroup_enter(l->cgroup, r->criu.pid, false, e);
    if (res < 0)
        return res;
    if (!oci_flag(r->c.args, OCI_OPT_DETACH))
        oci_wait_block();
    restore_cgroup_roots(r);
    r->opts.root = r->c.rootfs;
    r->opts.ext_mounts = r->notes->pairs;
    r->opts.n_ext_mounts = r->notes->n_pairs;
    res = oci_criu_call(&r->criu, OCI_CRIU_RESTORE, &r->opts, restore_notify, r, &answer, e);
    if (res < 0)
        return res;
    r->c.pid = answer.pid;
    if (answer.pid <= 0 || oci_proc_start_time(answer.pid, &r->c.start_time) < 0) {
        r->c.pid = 0;
        return err_set(e, ESRCH, "restore: the container's first process ended at once");
    }
    return 0;
}

static int restore_container(struct restore *r, struct err *e)
{
    struct oci_create *c = &r->c;
    int res = restore_mount_points(c, e);

    if (res == 0 && !oci_flag(c->args, OCI_OPT_SYSTEMD_CGROUP))
        res = oci_cgroup_apply(c->launch.cgroup, &c->spec->resources, e);
    if (res == 0)
        res = restore_call(r, e);
    oci_criu_end(&r->criu);
    if (res == 0 && oci_flag(c->args, OCI_OPT_SYSTEMD_CGROUP))
        res = oci_cgroup_apply(c->launch.cgroup, &c->spec->resources, e);
    if (res == 0)
        res = oci_create_write_state(c, e);
    if (res == 0)
        res = oci_console_take(&c->launch, e);
    if (res == 0 && c->args->value[OCI_OPT_PID_FILE])
        res = oci_pid_file(c->args->value[OCI_OPT_PID_FILE], c->pid, e);
    return res;
}

int oci_verb_restore(const struct oci_args *a, struct err *e)
{
    struct restore r = { .dirs = { -1, -1, NULL } };
    int res;

    oci_create_init(&r.c, a, true);
    /* The folder of images is named from where we are, config.json is looked for in the bundle. */
    res = restore_plan(&r, e);
    if (res == 0)
        res = oci_create_open(&r.c, e);
    if (res == 0) {
        res = oci_create_groups(&r.c, e);
        if (res == 0)
            res = restore_container(&r, e);
        if (res < 0)
            oci_create_undo(&r.c);
    }
    if (res == 0 && !oci_flag(a, OCI_OPT_DETACH))
        res = oci_run_wait(&r.c, e);
    oci_criu_dirs_done(&r.dirs);
    oci_criu_notes_free(r.notes);
    oci_create_done(&r.c);
    return res;
}
