/* `checkpoint`: a container's processes into images, by CRIU. Afterwards the container has gone, unless it is to go on.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/num.h"
#include "oci/cgroup.h"
#include "oci/container.h"
#include "oci/criu.h"
#include "oci/criu_args.h"
#include "oci/criu_notes.h"
#include "oci/main.h"

#define CHECKPOINT_LOCK_MS 10000
#define PAGE_SERVER_MAX 256

static int checkpoint_page_server(const struct oci_args *a, char *address, struct oci_criu_opts *o, struct err *e)
{
    const char *text = a->value[OCI_OPT_PAGE_SERVER], *colon = text ? strrchr(text, ':') : NULL;
    uint64_t port;

    if (!text)
        return 0;
    if (!colon || colon == text || colon - text >= PAGE_SERVER_MAX || num_parse_u64(colon + 1, 1, 65535, &port) < 0)
        return err_set(e, EINVAL, "--page-server %s: must be ADDRESS:PORT", text);
    memcpy(address, text, (size_t)(colon - text));
    address[colon - text] = '\0';
    o->page_server_address = address;
    o->page_server_port = (int)port;
    return 0;
}

static int checkpoint_options(const struct oci_args *a, char *address, struct oci_criu_opts *o, struct err *e)
{
    const char *parent = a->value[OCI_OPT_PARENT_PATH];

    if (parent && parent[0] == '/')
        return err_set(e, EINVAL, "--parent-path %s: must be relative to --image-path", parent);
    o->parent_img = parent;
    o->track_mem = parent || oci_flag(a, OCI_OPT_PRE_DUMP);
    o->leave_running = oci_flag(a, OCI_OPT_LEAVE_RUNNING) || oci_flag(a, OCI_OPT_PRE_DUMP);
    o->tcp_skip_in_flight = oci_flag(a, OCI_OPT_TCP_SKIP_IN_FLIGHT);
    o->link_remap = oci_flag(a, OCI_OPT_LINK_REMAP);
    return checkpoint_page_server(a, address, o, e);
}

/* By the freezer CRIU stops everything at once, forks included. */
static int checkpoint_freezer(struct oci_cgroup *g, char *path, size_t size, struct oci_criu_opts *o, struct err *e)
{
    const struct oci_cgroup_hierarchy *h = NULL;
    const size_t n = g ? oci_cgroup_hierarchies(g, &h) : 0;

    for (size_t i = 0; i < n; i++) {
        if (h[i].options ? strcmp(h[i].options, "freezer") != 0 : n > 1)
            continue;
        if ((size_t)snprintf(path, size, "%s%s", h[i].mount, h[i].path) >= size)
            return err_set(e, ENAMETOOLONG, "cgroup %s: its path is too long", h[i].name);
        o->freeze_cgroup = path;
    }
    return 0;
}

static int checkpoint_dump(const struct oci_args *a, const struct oci_state *s, const struct oci_spec *spec,
                           struct oci_cgroup *g, const struct oci_criu_dirs *dirs, struct oci_criu_opts *o,
                           struct err *e)
{
    const bool pre = oci_flag(a, OCI_OPT_PRE_DUMP);
    AUTO(oci_criu_notes) struct oci_criu_notes *notes = oci_criu_notes_new();
    struct oci_criu_response answer;
    char freezer[4096];
    const struct oci_criu_place place = { .work_path = dirs->work_path };
    struct oci_criu criu = { 0 };
    int r = notes ? 0 : err_set(e, ENOMEM, "out of memory");

    if (r == 0)
        r = oci_criu_notes_take(spec, s->pid, notes, e);
    if (r == 0)
        r = checkpoint_freezer(g, freezer, sizeof(freezer), o, e);
    if (r == 0)
        r = oci_criu_start(a, &place, &criu, e);
    if (r < 0)
        return r;
    o->pid = s->pid;
    o->root = s->rootfs;
    o->ext_mounts = notes->pairs;
    o->n_ext_mounts = notes->n_pairs;
    o->external = (const char *const *)notes->external;
    o->n_external = notes->n_external;
    r = oci_criu_call(&criu, pre ? OCI_CRIU_SINGLE_PRE_DUMP : OCI_CRIU_DUMP, o, NULL, NULL, &answer, e);
    oci_criu_end(&criu);
    return r == 0 && !pre ? oci_criu_notes_save(notes, dirs->images_fd, e) : r;
}

static int checkpoint_open(const struct oci_args *a, struct oci_state **ret, struct err *e)
{
    AUTO(oci_state) struct oci_state *s = NULL;
    enum oci_status status;
    int r = oci_state_open(a, a->argv[0], &s, e);

    if (r == 0)
        r = oci_state_lock(s, CHECKPOINT_LOCK_MS, e);
    if (r < 0)
        return r;
    status = oci_container_status(s);
    if (status != OCI_RUNNING && status != OCI_PAUSED)
        return err_set(e, EINVAL, "container %s is %s: only a running or paused one can be saved", s->id,
                       oci_status_name(status));
    *ret = STEAL(s);
    return 0;
}

int oci_verb_checkpoint(const struct oci_args *a, struct err *e)
{
    AUTO(oci_state) struct oci_state *s = NULL;
    AUTO(oci_cgroup) struct oci_cgroup *g = NULL;
    AUTO(oci_spec) struct oci_spec *spec = NULL;
    char page_server[PAGE_SERVER_MAX];
    struct oci_criu_dirs dirs = { -1, -1, NULL };
    struct oci_criu_opts o;
    int r = checkpoint_open(a, &s, e);

    if (r == 0)
        r = oci_state_spec(s, &spec, e);
    if (r == 0)
        r = oci_state_cgroup(s, &g, e);
    if (r == 0)
        r = oci_criu_args(a, true, "dump.log", &dirs, &o, e);
    if (r == 0)
        r = checkpoint_options(a, page_server, &o, e);
    if (r == 0)
        r = checkpoint_dump(a, s, spec, g, &dirs, &o, e);
    oci_criu_dirs_done(&dirs);
    if (r < 0 || o.leave_running)
        return r;
    /* CRIU has ended all processes. */
    r = oci_container_kill_all(s, e);
    return r == 0 ? oci_container_destroy(a, s, e) : r;
}
