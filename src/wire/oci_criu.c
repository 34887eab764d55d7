#include "wire/oci_criu.h"

#include <errno.h>
#include <string.h>

/* Wire types of protocol buffers. */
enum { PB_VARINT = 0, PB_FIXED64 = 1, PB_BYTES = 2, PB_FIXED32 = 5 };

/* ---- writing ---- */

static void pb_varint(struct buf *b, uint64_t v)
{
    uint8_t bytes[10];
    size_t n = 0;

    for (; v >= 0x80; v >>= 7)
        bytes[n++] = (uint8_t)(v | 0x80);
    bytes[n++] = (uint8_t)v;
    buf_append(b, bytes, n);
}

/* Negative numbers take all 64 bits, as proto2 has it. */
static void pb_int(struct buf *b, unsigned field, int64_t v)
{
    pb_varint(b, field << 3 | PB_VARINT);
    pb_varint(b, (uint64_t)v);
}

static void pb_flag(struct buf *b, unsigned field, bool v)
{
    if (v)
        pb_int(b, field, 1);
}

static void pb_bytes(struct buf *b, unsigned field, const void *data, size_t len)
{
    pb_varint(b, field << 3 | PB_BYTES);
    pb_varint(b, len);
    buf_append(b, data, len);
}

static void pb_string(struct buf *b, unsigned field, const char *text)
{
    if (text)
        pb_bytes(b, field, text, strlen(text));
}

/* A message within a message: its length stands in front of it. */
static void pb_message(struct buf *b, unsigned field, struct buf *inner)
{
    if (buf_error(inner) < 0)
        b->error = inner->error;
    else
        pb_bytes(b, field, inner->data, inner->len);
    buf_done(inner);
}

static void pb_pairs(struct buf *b, unsigned field, const struct oci_criu_pair *pairs, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct buf inner;

        buf_init(&inner, OCI_CRIU_MESSAGE_MAX);
        pb_string(&inner, 1, pairs[i].key);
        pb_string(&inner, 2, pairs[i].value);
        pb_message(b, field, &inner);
    }
}

static void pb_inherit(struct buf *b, const struct oci_criu_fd *fds, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct buf inner;

        buf_init(&inner, OCI_CRIU_MESSAGE_MAX);
        pb_string(&inner, 1, fds[i].key);
        pb_int(&inner, 2, fds[i].fd);
        pb_message(b, 27, &inner);
    }
}

static void pb_page_server(struct buf *b, const struct oci_criu_opts *o)
{
    struct buf inner;

    if (!o->page_server_address)
        return;
    buf_init(&inner, OCI_CRIU_MESSAGE_MAX);
    pb_string(&inner, 1, o->page_server_address);
    pb_int(&inner, 2, o->page_server_port);
    pb_message(b, 11, &inner);
}

static void criu_opts(struct buf *b, const struct oci_criu_opts *o)
{
    const struct {
        unsigned field;
        bool value;
    } flags[] = {
        { 3, o->leave_running },      { 4, o->ext_unix_sk },  { 5, o->tcp_established },
        { 7, o->shell_job },          { 8, o->file_locks },   { 12, o->notify_scripts },
        { 15, o->track_mem },         { 16, o->auto_dedup },  { 18, o->link_remap },
        { 24, o->manage_cgroups },    { 26, o->rst_sibling }, { 46, o->tcp_skip_in_flight },
        { 50, o->orphan_pts_master },
    };
    const struct {
        unsigned field;
        const char *value;
    } strings[] = {
        { 10, o->log_file },      { 13, o->root },        { 14, o->parent_img },
        { 44, o->freeze_cgroup }, { 53, o->lsm_profile }, { 63, o->lsm_mount_context },
    };

    pb_int(b, 1, o->images_dir_fd);
    if (o->pid)
        pb_int(b, 2, o->pid);
    for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
        pb_flag(b, flags[i].field, flags[i].value);
    for (size_t i = 0; i < ARRAY_SIZE(strings); i++)
        pb_string(b, strings[i].field, strings[i].value);
    pb_int(b, 9, o->log_level);
    pb_page_server(b, o);
    if (o->work_dir_fd >= 0)
        pb_int(b, 17, o->work_dir_fd);
    pb_pairs(b, 23, o->ext_mounts, o->n_ext_mounts);
    pb_pairs(b, 25, o->cg_roots, o->n_cg_roots);
    pb_inherit(b, o->inherit, o->n_inherit);
    pb_int(b, 34, o->cgroups_mode);
    for (size_t i = 0; i < o->n_external; i++)
        pb_string(b, 37, o->external[i]);
    if (o->empty_ns)
        pb_int(b, 38, o->empty_ns);
}

void oci_criu_encode_request(enum oci_criu_type type, const struct oci_criu_opts *opts, struct buf *b)
{
    struct buf inner;

    pb_int(b, 1, type);
    if (!opts)
        return;
    buf_init(&inner, OCI_CRIU_MESSAGE_MAX);
    criu_opts(&inner, opts);
    pb_message(b, 2, &inner);
}

void oci_criu_encode_notified(bool success, struct buf *b)
{
    pb_int(b, 1, OCI_CRIU_NOTIFY);
    pb_int(b, 3, success);
}

/* ---- reading ---- */

struct pb_reader {
    const uint8_t *at, *end;
};

struct pb_field {
    unsigned number, type;
    uint64_t value;          /* PB_VARINT */
    struct pb_reader inside; /* PB_BYTES */
};

static int pb_read_varint(struct pb_reader *r, uint64_t *ret)
{
    uint64_t v = 0;

    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (r->at == r->end)
            return -EBADMSG;
        v |= (uint64_t)(*r->at & 0x7f) << shift;
        if (!(*r->at++ & 0x80)) {
            *ret = v;
            return 0;
        }
    }
    return -EBADMSG;
}

/* 1: a field, 0: the end. */
static int pb_next(struct pb_reader *r, struct pb_field *f)
{
    uint64_t tag, len = 0;
    int res;

    if (r->at == r->end)
        return 0;
    res = pb_read_varint(r, &tag);
    if (res < 0 || tag > UINT32_MAX || tag >> 3 == 0)
        return -EBADMSG;
    *f = (struct pb_field){ .number = (unsigned)(tag >> 3), .type = tag & 7 };
    switch (f->type) {
    case PB_VARINT:
        return pb_read_varint(r, &f->value) < 0 ? -EBADMSG : 1;
    case PB_FIXED64:
        len = 8;
        break;
    case PB_FIXED32:
        len = 4;
        break;
    case PB_BYTES:
        if (pb_read_varint(r, &len) < 0)
            return -EBADMSG;
        break;
    default:
        return -EBADMSG;
    }
    if (len > (size_t)(r->end - r->at))
        return -EBADMSG;
    f->inside = (struct pb_reader){ r->at, r->at + len };
    r->at += len;
    return 1;
}

static void pb_text(const struct pb_field *f, char *text, size_t size)
{
    const size_t len = MIN((size_t)(f->inside.end - f->inside.at), size - 1);

    memcpy(text, f->inside.at, len);
    text[len] = '\0';
}

/* criu_restore_resp: { pid = 1 }; criu_notify: { script = 1, pid = 2 }. */
static int criu_inner(struct pb_reader inside, unsigned pid_field, struct oci_criu_response *ret)
{
    struct pb_field f;
    int r;

    while ((r = pb_next(&inside, &f)) > 0) {
        if (f.number == pid_field && f.type == PB_VARINT)
            ret->pid = (int)f.value;
        else if (f.number == 1 && f.type == PB_BYTES)
            pb_text(&f, ret->script, sizeof(ret->script));
    }
    return r;
}

static int criu_version(struct pb_reader inside, struct oci_criu_response *ret)
{
    unsigned parts[3] = { 0 };
    struct pb_field f;
    int r;

    while ((r = pb_next(&inside, &f)) > 0) {
        const unsigned part = f.number == 4 ? 2 : f.number - 1;

        if (f.type == PB_VARINT && f.number != 3 && part < ARRAY_SIZE(parts))
            parts[part] = (unsigned)MIN(f.value, 99);
    }
    ret->version = (int)(10000 * parts[0] + 100 * parts[1] + parts[2]);
    return r;
}

int oci_criu_decode(const void *data, size_t len, struct oci_criu_response *ret)
{
    struct pb_reader in = { data, (const uint8_t *)data + len };
    struct oci_criu_response out = { 0 };
    bool typed = false;
    struct pb_field f;
    int r;

    while ((r = pb_next(&in, &f)) > 0) {
        if (f.number == 1 && f.type == PB_VARINT) {
            out.type = (enum oci_criu_type)MIN(f.value, INT32_MAX);
            typed = true;
        } else if (f.number == 2 && f.type == PB_VARINT) {
            out.success = f.value != 0;
        } else if (f.number == 7 && f.type == PB_VARINT) {
            out.cr_errno = (int)f.value;
        } else if (f.number == 9 && f.type == PB_BYTES) {
            pb_text(&f, out.message, sizeof(out.message));
        } else if (f.type == PB_BYTES && (f.number == 4 || f.number == 5)) {
            r = criu_inner(f.inside, f.number == 4 ? 1 : 2, &out);
        } else if (f.type == PB_BYTES && f.number == 10) {
            r = criu_version(f.inside, &out);
        }
        if (r < 0)
            return r;
    }
    if (r < 0 || !typed)
        return -EBADMSG;
    *ret = out;
    return 0;
}
