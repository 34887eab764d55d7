#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "oci/container.h"
#include "oci/main.h"

enum list_form { LIST_TABLE, LIST_JSON, LIST_QUIET };

static void list_one(int root_fd, const char *id, enum list_form form, bool first, struct buf *b)
{
    AUTO(oci_state) struct oci_state *s = NULL;
    enum oci_status status;

    /* Gone since the directory was read, or damaged: the others count. */
    if (oci_state_open_at(root_fd, id, &s, NULL) < 0)
        return;
    status = oci_container_status(s);
    if (form == LIST_QUIET) {
        buf_printf(b, "%s\n", s->id);
    } else if (form == LIST_JSON) {
        if (!first)
            buf_append(b, ",", 1);
        oci_state_json(s, status, false, b);
    } else {
        struct stat st = { 0 };

        if (fstat(s->dir_fd, &st) < 0)
            return;
        buf_printf(b, "%-20s %-8d %-10s %-30s %-32s #%u\n", s->id, status == OCI_STOPPED ? 0 : (int)s->pid,
                   oci_status_name(status), s->bundle, s->created, st.st_uid);
    }
}

static int list_all(int root_fd, enum list_form form, struct buf *b, struct err *e)
{
    int fd = openat(root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *d;

    if (!dir) {
        if (fd >= 0)
            close(fd);
        return err_set(e, errno, "the state directory: %m");
    }
    while ((d = readdir(dir))) {
        if (oci_state_check_id(d->d_name, NULL) == 0)
            list_one(root_fd, d->d_name, form, b->len <= 1, b);
    }
    closedir(dir);
    return 0;
}

int oci_verb_list(const struct oci_args *a, struct err *e)
{
    const char *format = a->value[OCI_OPT_FORMAT];
    enum list_form form = oci_flag(a, OCI_OPT_QUIET) ? LIST_QUIET : LIST_TABLE;
    AUTO_FD int root = -1;
    struct buf b;
    int r = 0;

    if (format && strcmp(format, "json") == 0 && form == LIST_TABLE)
        form = LIST_JSON;
    else if (format && strcmp(format, "table") != 0 && strcmp(format, "json") != 0)
        return err_set(e, EINVAL, "--format %s: must be table or json", format);
    root = oci_state_root(a, false, e);
    if (root < 0 && root != -ENOENT)
        return root;
    buf_init(&b, 64u << 20);
    if (form == LIST_JSON)
        buf_append(&b, "[", 1);
    else if (form == LIST_TABLE)
        buf_printf(&b, "%-20s %-8s %-10s %-30s %-32s %s\n", "ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER");
    if (root >= 0)
        r = list_all(root, form, &b, e);
    if (form == LIST_JSON)
        buf_append(&b, "]\n", 2);
    if (r == 0)
        r = oci_print(&b, e);
    buf_done(&b);
    return r;
}
