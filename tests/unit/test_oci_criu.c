/* What is said to CRIU and what is kept for it: messages byte by byte, cut short at every length, and with failing
 * allocations; lines of mountinfo; the notes of a checkpoint. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "fault.h"
#include "oci/criu_notes.h"
#include "oci_rig.h"

/* As protoc --encode writes it (libprotoc 3.21): type: DUMP opts { images_dir_fd: 3 pid: 300 leave_running: true
 * log_level: 4 log_file: "a" root: "/r" ext_mnt { key: "k" val: "v" } inherit_fd { key: "p" fd: 1 }
 * manage_cgroups_mode: IGNORE external: "e" }, fields in our order. */
static const uint8_t dump_bytes[] = {
    0x08, 1,    0x12, 47,                             /* type, opts */
    0x08, 3,    0x10, 0xac, 0x02, 0x18, 1,            /* images_dir_fd, pid, leave_running */
    0x52, 1,    'a',  0x6a, 2,    '/',  'r',          /* log_file, root */
    0x48, 4,                                          /* log_level */
    0xba, 0x01, 6,    0x0a, 1,    'k',  0x12, 1, 'v', /* ext_mnt */
    0xda, 0x01, 5,    0x0a, 1,    'p',  0x10, 1,      /* inherit_fd */
    0x90, 0x02, 0,                                    /* manage_cgroups_mode */
    0xaa, 0x02, 1,    'e',                            /* external */
    0xb0, 0x02, 0x80, 0x80, 0x80, 0x80, 0x04,         /* empty_ns: 1 << 30 */
};

static void encode_dump(struct buf *b)
{
    static const struct oci_criu_pair mount = { "k", "v" };
    static const struct oci_criu_fd fd = { "p", 1 };
    static const char *const external[] = { "e" };
    const struct oci_criu_opts o = { .images_dir_fd = 3,
                                     .work_dir_fd = -1,
                                     .pid = 300,
                                     .leave_running = true,
                                     .log_level = 4,
                                     .log_file = "a",
                                     .root = "/r",
                                     .ext_mounts = &mount,
                                     .n_ext_mounts = 1,
                                     .inherit = &fd,
                                     .n_inherit = 1,
                                     .external = external,
                                     .n_external = 1,
                                     .empty_ns = 1u << 30 };

    oci_criu_encode_request(OCI_CRIU_DUMP, &o, b);
}

static void encode(void **state)
{
    struct buf b;

    buf_init(&b, OCI_CRIU_MESSAGE_MAX);
    encode_dump(&b);
    assert_int_equal(buf_error(&b), 0);
    assert_int_equal(b.len, sizeof(dump_bytes));
    assert_memory_equal(b.data, dump_bytes, sizeof(dump_bytes));
    buf_done(&b);
    buf_init(&b, 16);
    oci_criu_encode_notified(false, &b);
    assert_int_equal(b.len, 4);
    assert_memory_equal(b.data, "\x08\x06\x18\x00", 4);
    buf_done(&b);
    /* Too large is an error, not less of a message. */
    buf_init(&b, 20);
    encode_dump(&b);
    assert_int_equal(buf_error(&b), -E2BIG);
    buf_done(&b);
}

static void encode_without_memory(void **state)
{
    struct buf b;
    int r;

    for (unsigned n = 1; fault_begin(n), buf_init(&b, OCI_CRIU_MESSAGE_MAX), encode_dump(&b), fault_end(); n++) {
        assert_int_equal(buf_error(&b), -ENOMEM);
        buf_done(&b);
    }
    r = buf_error(&b);
    assert_true(r == 0 && b.len == sizeof(dump_bytes));
    buf_done(&b);
}

static void decode(void **state)
{
    /* type 2, success, restore { pid: 300 }, cr_errno 22, an unknown field of each wire type, message "no" */
    static const uint8_t restored[] = { 0x08, 2,    0x10, 1, 0x22, 3, 0x08, 0xac, 0x02, 0x38, 22, 0xf8, 0x01,
                                        1,    0xf9, 1,    1, 2,    3, 4,    5,    6,    7,    8,  0xfd, 1,
                                        1,    2,    3,    4, 0xfa, 1, 2,    'x',  'y',  0x4a, 2,  'n',  'o' };
    /* type NOTIFY, notify { script: "post-dump" pid: 7 }; version { 4, 2, sublevel 1 } */
    static const uint8_t notify[] = { 0x08, 6,   0x2a, 13, 0x0a, 9, 'p', 'o', 's', 't', '-', 'd', 'u',
                                      'm',  'p', 0x10, 7,  0x52, 6, 8,   4,   16,  2,   32,  1 };
    struct oci_criu_response m;

    assert_int_equal(oci_criu_decode(restored, sizeof(restored), &m), 0);
    assert_true(m.type == OCI_CRIU_RESTORE && m.success && m.pid == 300 && m.cr_errno == 22);
    assert_string_equal(m.message, "no");
    assert_int_equal(oci_criu_decode(notify, sizeof(notify), &m), 0);
    assert_true(m.type == OCI_CRIU_NOTIFY && !m.success && m.pid == 7 && m.version == 40201);
    assert_string_equal(m.script, "post-dump");
    assert_int_equal(oci_criu_decode("", 0, &m), -EBADMSG);
    for (size_t len = 0; len < sizeof(restored); len++) {
        uint8_t *cut = malloc(len + 1); /* its end is watched */

        assert_non_null(cut);
        memcpy(cut, restored, len);
        if (oci_criu_decode(cut, len, &m) == 0)
            assert_int_equal(m.type, OCI_CRIU_RESTORE);
        free(cut);
    }
}

static void decode_nonsense(void **state)
{
    static const struct {
        size_t len;
        const char *bytes;
    } bad[] = {
        { 11, "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff" },     /* a number without an end */
        { 4, "\x08\x01\x4a\x7f" },                                  /* longer than there is */
        { 12, "\x08\x01\x4a\xff\xff\xff\xff\xff\xff\xff\xff\x01" }, /* much longer */
        { 2, "\x00\x01" },                                          /* field 0 */
        { 4, "\x08\x01\x0b\x01" },                                  /* a group */
        { 2, "\x10\x01" },                                          /* no type */
        { 5, "\x08\x06\x2a\x01\x0a" },                              /* a script without its length */
    };
    struct oci_criu_response m = { .pid = 5 };

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(oci_criu_decode(bad[i].bytes, bad[i].len, &m), -EBADMSG);
    assert_int_equal(m.pid, 5);
}

static void mount_lines(void **state)
{
    static const struct {
        const char *line, *point; /* NULL: not to be told of */
        unsigned attr;
        bool external;
    } lines[] = {
        { "1 2 8:1 /r / rw - ext4 x rw", NULL, 0, false },
        { "1 2 0:5 / /proc rw,relatime - proc proc rw", "/proc", 0, false },
        { "1 2 0:6 /null /proc/keys ro,nosuid,noexec - devtmpfs d rw", "/proc/keys",
          MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, true },
        { "1 2 0:7 / /sys/fs/cgroup/cpu ro shared:1 master:2 - cgroup c rw", "/sys/fs/cgroup/cpu", MOUNT_ATTR_RDONLY,
          true },
        { "1 2 0:8 / /dev/shm nosuid,nodev - tmpfs - - rw", "/dev/shm", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, false },
        { "1 2 0:8 / /data rw - tmpfs t rw", "/data", 0, true },
        { "1 2 0:8 / /data/below rw - tmpfs t rw", "/data/below", 0, true },
        { "1 2 0:8 / /database rw - tmpfs t rw", "/database", 0, false },
        { "1 2 8:1 /x /a\\040b\\134 rw - xfs t rw", "/a b\\", 0, true },
        { "1 2 8:1 /x /y rw", NULL, 0, false },
        { "1 2 8:1", NULL, 0, false },
        { "", NULL, 0, false },
    };
    const struct oci_mount mount = { .destination = "/data", .source = "/host", .bind = true };
    struct oci_spec spec = { .mounts = (struct oci_mount *)&mount, .n_mounts = 1 };

    for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
        AUTO_FREE char *line = strdup(lines[i].line);
        struct oci_criu_mount m;
        int r = oci_criu_mount_line(&spec, line, &m);

        assert_int_equal(r, lines[i].point != NULL);
        if (r == 0)
            continue;
        assert_string_equal(m.point, lines[i].point);
        assert_int_equal(m.attr, lines[i].attr);
        assert_int_equal(m.external, lines[i].external);
    }
}

/* Ourselves as the container: what is taken is what comes back, and the sources follow from config.json. */
static void notes(void **state)
{
    static const char *const bad[] = { "/a/..b/.c", "/../etc", "/a/..", "/a/./b", "/a//b", "/a/", "/", "a" };
    char dir[] = "/tmp/oci-criu-XXXXXX";
    AUTO(oci_criu_notes) struct oci_criu_notes *n = oci_criu_notes_new(), *back = oci_criu_notes_new();
    AUTO(oci_spec) struct oci_spec *spec = rig_spec("", "");
    AUTO_FD int fd = -1;
    struct err e = { 0 };

    assert_true(n && back && mkdtemp(dir));
    fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(oci_criu_notes_take(spec, getpid(), n, &e), 0);
    assert_true(n->n_mounts > 0);
    assert_int_equal(oci_criu_notes_save(n, fd, &e), 0);
    assert_int_equal(oci_criu_notes_load(fd, back, &e), 0);
    assert_int_equal(back->n_mounts, n->n_mounts);
    for (size_t i = 0; i < n->n_mounts; i++) {
        assert_string_equal(back->mounts[i].point, n->mounts[i].point);
        assert_true(back->mounts[i].attr == n->mounts[i].attr && back->mounts[i].external == n->mounts[i].external);
    }
    for (size_t i = 0; i < 3; i++)
        assert_string_equal(back->stdio[i], n->stdio[i]);
    /* Mount points that lead out of the container, in a checkpoint of somebody else's. */
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        AUTO(oci_criu_notes) struct oci_criu_notes *none = oci_criu_notes_new();
        char text[128];
        int len =
            snprintf(text, sizeof(text),
                     "{\"mounts\":[{\"at\":\"%s\",\"attr\":0,\"external\":true}],\"stdio\":[\"\",\"\",\"\"]}", bad[i]);
        AUTO_FD int file = openat(fd, "caisson.json", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        assert_int_equal(write(file, text, (size_t)len), len);
        assert_true((oci_criu_notes_load(fd, none, &e) < 0) == (strcmp(bad[i], "/a/..b/.c") != 0));
    }
    unlinkat(fd, "caisson.json", 0);
    assert_int_equal(oci_criu_notes_load(fd, back, &e), -ENOENT);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(encode),          cmocka_unit_test(encode_without_memory), cmocka_unit_test(decode),
        cmocka_unit_test(decode_nonsense), cmocka_unit_test(mount_lines),           cmocka_unit_test(notes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
