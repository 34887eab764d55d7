/* Parts of containers without a container: users of a hostile passwd, paths below a root, copies of trees,
 * capabilities, and config.json, which is read back by the runtime's own parser. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "image/user.h"
#include "instance/container_priv.h"
#include "instance/container_tar.h"
#include "sys/inroot.h"
#include "sys/tree.h"
#include "sys/tree_copy.h"
#include "wire/oci_spec.h"

static char base[64];
static int base_fd;

static int setup(void **state)
{
    (void)state;
    strcpy(base, "/tmp/caisson-ctr-XXXXXX");
    if (!mkdtemp(base))
        return -1;
    base_fd = open(base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return base_fd < 0 || mkdirat(base_fd, "root", 0755) < 0 || mkdirat(base_fd, "root/etc", 0755) < 0;
}

static int teardown(void **state)
{
    (void)state;
    close(base_fd);
    return sys_tree_remove(base);
}

static void put(const char *name, const char *text)
{
    AUTO_FD int fd = openat(base_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
}

static int root(void)
{
    return openat(base_fd, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
}

/* "uid:gid:n_groups:home", or "-errno". */
static const char *find(const char *user, char text[512])
{
    struct image_user u = { 0 };
    AUTO_FD int fd = root();
    struct err e = { 0 };
    int r = image_user_find(fd, user, &u, &e);

    if (r < 0)
        snprintf(text, 512, "%d", r);
    else
        snprintf(text, 512, "%u:%u:%zu:%s", u.uid, u.gid, u.n_groups, u.home);
    free(u.groups);
    return text;
}

static void users(void **state)
{
    char text[512];

    (void)state;
    assert_string_equal(find(NULL, text), "0:0:0:/"); /* no files at all */
    assert_string_equal(find("5", text), "5:0:1:/");
    put("root/etc/passwd", "bad\n:x:::\nneg:x:-1:0::/:/\nbig:x:99999999999:0::/:/\n\n"
                           "root:x:0:0::/root:/bin/sh\nweb:x:1000:1001::/home/web:/bin/sh\nlast:x:7:8::/last");
    put("root/etc/group", "root:x:0:\na:x:50:web\nb:x:51:other,web\nc:x:x:web\nd:x:50:web\nlong");
    assert_string_equal(find("", text), "0:0:0:/root");
    assert_string_equal(find("web", text), "1000:1001:3:/home/web");
    assert_string_equal(find("1000", text), "1000:1001:3:/home/web");
    assert_string_equal(find("web:a", text), "1000:50:1:/home/web");
    assert_string_equal(find("web:77", text), "1000:77:1:/home/web");
    assert_string_equal(find("last", text), "7:8:1:/last");
    assert_string_equal(find("neg", text), "-2");
    assert_string_equal(find("nobody", text), "-2");
    assert_string_equal(find("web:none", text), "-2");
    /* A link to the host's file finds nothing. */
    assert_int_equal(unlinkat(base_fd, "root/etc/passwd", 0), 0);
    put("outside", "evil:x:66:66::/:/\n");
    assert_int_equal(symlinkat("../../outside", base_fd, "root/etc/passwd"), 0);
    assert_string_equal(find("evil", text), "-2");
}

static void paths(void **state)
{
    AUTO_FD int fd = root();
    char name[256];
    int at;

    (void)state;
    put("outside", "x");
    put("root/inside", "x");
    assert_int_equal(symlinkat("/inside", base_fd, "root/abs"), 0);
    assert_int_equal(symlinkat("../../../outside", base_fd, "root/up"), 0);
    assert_int_equal(symlinkat("loop", base_fd, "root/loop"), 0);
    assert_int_equal(sys_inroot_open(fd, "../outside", O_RDONLY, 0), -ENOENT);
    assert_int_equal(sys_inroot_open(fd, "up", O_RDONLY, 0), -ENOENT);
    assert_int_equal(sys_inroot_open(fd, "loop", O_RDONLY, 0), -ELOOP);
    at = sys_inroot_open(fd, "/../../abs", O_RDONLY, 0);
    assert_true(at >= 0);
    close(at);
    at = sys_inroot_parent(fd, "/etc/new//", name, sizeof(name));
    assert_true(at >= 0);
    close(at);
    assert_string_equal(name, "new");
    assert_int_equal(sys_inroot_parent(fd, "/", name, sizeof(name)), -EINVAL);
    assert_int_equal(sys_inroot_parent(fd, "etc/..", name, sizeof(name)), -EINVAL);
    assert_int_equal(sys_inroot_parent(fd, "none/x", name, sizeof(name)), -ENOENT);
    assert_int_equal(sys_inroot_parent(fd, "etc/toolong", name, 4), -ENAMETOOLONG);
}

static void skipped(void *opaque, const char *path)
{
    snprintf(opaque, 64, "%s", path);
}

static void copies(void **state)
{
    const struct sys_tree_owner owner = { geteuid(), getegid() }, other = { geteuid() + 1, getegid() + 1 };
    char text[64] = "";
    struct sys_tree_failure failure = { .set = false };
    const struct sys_tree_how how = { .owner = &owner },
                              given_away = { .owner = &other, .device = skipped, .opaque = text, .failure = &failure };
    uint64_t bytes, entries;
    struct stat st;

    (void)state;
    put("root/file", "content");
    assert_int_equal(fchmodat(base_fd, "root/file", 04751, 0), 0);
    assert_int_equal(mkfifoat(base_fd, "root/fifo", 0600), 0);
    assert_int_equal(symlinkat("/nowhere", base_fd, "root/link"), 0);
    assert_int_equal(sys_tree_copy_entry(base_fd, "root", base_fd, "copy", &how), 0);
    assert_int_equal(fstatat(base_fd, "copy/file", &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 04751);
    assert_int_equal(st.st_size, 7);
    assert_int_equal(readlinkat(base_fd, "copy/link", text, sizeof(text)), 8);
    assert_int_equal(fstatat(base_fd, "copy/fifo", &st, 0), 0);
    assert_true(S_ISFIFO(st.st_mode));
    assert_int_equal(sys_tree_size(base_fd, "copy", &bytes, &entries), 0);
    assert_int_equal(entries, 5);
    /* Again: files are replaced; a folder in the place of a file is not. */
    assert_int_equal(sys_tree_copy_entry(base_fd, "root", base_fd, "copy", NULL), 0);
    assert_int_equal(sys_tree_copy_entry(base_fd, "root", base_fd, "copy/file", NULL), -ENOTDIR);
    /* A link in the place of a folder is not followed. */
    assert_int_equal(symlinkat("root", base_fd, "trap"), 0);
    assert_int_equal(sys_tree_copy_entry(base_fd, "copy", base_fd, "trap", NULL), -ENOTDIR);
    /* Who gets a file gets no right to become its owner, and no device. */
    text[0] = '\0';
    if (mknodat(base_fd, "root/etc/node", S_IFCHR | 0666, makedev(1, 3)) < 0)
        strcpy(text, "etc/node"); /* a user */
    assert_int_equal(sys_tree_copy_entry(base_fd, "root", base_fd, "given", &given_away), 0);
    assert_int_equal(fstatat(base_fd, "given/file", &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 0751);
    assert_string_equal(text, "etc/node");
    assert_int_equal(fstatat(base_fd, "given/etc/node", &st, AT_SYMLINK_NOFOLLOW), -1);
    /* An error says where. */
    assert_int_equal(mkdirat(base_fd, "given/etc/bad", 0755), 0);
    put("root/etc/bad", "a file");
    assert_int_equal(sys_tree_copy_entry(base_fd, "root", base_fd, "given", &given_away), -EISDIR);
    assert_string_equal(failure.path, "etc/bad");
    assert_false(failure.source);
}

/* ---- archives ---- */

struct entry {
    const char *name, *link, *text;
    char type;
    unsigned mode;
};

/* A header of 512 bytes: name, mode, owner, group, size, time, sum, type, link. */
static void tar_block(int fd, const struct entry *t)
{
    const unsigned len = t->text ? (unsigned)strlen(t->text) : 0;
    char block[512] = { 0 };
    unsigned sum = 0;

    snprintf(block, 100, "%s", t->name);
    snprintf(block + 100, 8, "%07o", t->mode);
    snprintf(block + 108, 8, "%07o", 0U);
    snprintf(block + 116, 8, "%07o", 0U);
    snprintf(block + 124, 12, "%011o", len);
    snprintf(block + 136, 12, "%011o", 0U);
    memset(block + 148, ' ', 8);
    block[156] = t->type;
    snprintf(block + 157, 100, "%s", t->link ? t->link : "");
    memcpy(block + 257,
           "ustar\0"
           "00",
           8);
    snprintf(block + 329, 8, "%07o", 1U);
    snprintf(block + 337, 8, "%07o", 3U);
    for (size_t i = 0; i < sizeof(block); i++)
        sum += (unsigned char)block[i];
    snprintf(block + 148, 8, "%06o", sum);
    assert_int_equal(write(fd, block, sizeof(block)), (ssize_t)sizeof(block));
    memset(block, 0, sizeof(block));
    if (len) {
        memcpy(block, t->text, len);
        assert_int_equal(write(fd, block, sizeof(block)), (ssize_t)sizeof(block));
    }
}

/* Unpack what a guest says is "x" into folder "in". */
static int take(const struct entry *entries, size_t n)
{
    const struct sys_tree_owner owner = { geteuid(), getegid() };
    const struct inst_tar_take how = { .owner = &owner, .only = "x", .guest = true };
    AUTO_FD int in = -1, fd = openat(base_fd, "archive", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    static const char end[1024];
    struct err e = { 0 };
    int r;

    assert_true(fd >= 0);
    for (size_t i = 0; i < n; i++)
        tar_block(fd, &entries[i]);
    assert_int_equal(write(fd, end, sizeof(end)), (ssize_t)sizeof(end));
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    assert_true(mkdirat(base_fd, "in", 0755) == 0 || errno == EEXIST);
    in = openat(base_fd, "in", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    r = inst_tar_extract(fd, in, &how, &e);
    assert_true(r == 0 || e.text[0]);
    return r;
}

/* A guest that was asked for "x" sends what it likes. */
static void guests_archives(void **state)
{
    const struct entry good[] = { { "./x/", NULL, NULL, '5', 02775 },
                                  { "./x/f", NULL, "text", '0', 04755 },
                                  { "./x/h", "./x/f", NULL, '1', 0644 },
                                  { "./x/up", "..", NULL, '2', 0777 } };
    const struct entry bad[][2] = {
        { { ".profile", NULL, "evil", '0', 0644 }, { "x", NULL, NULL, '5', 0755 } },
        { { "xx", NULL, "evil", '0', 0644 }, { "x", NULL, NULL, '5', 0755 } },
        { { "x", NULL, NULL, '5', 0755 }, { "../evil", NULL, "evil", '0', 0644 } },
        { { "x", NULL, NULL, '5', 0755 }, { "x/stolen", "mine", NULL, '1', 0644 } },
        { { "x", NULL, NULL, '5', 0755 }, { "x/node", NULL, NULL, '3', 0666 } },
        { { "x", "../in", NULL, '2', 0777 }, { "x/mine", NULL, "evil", '0', 0644 } },
    };
    const struct entry up[] = { { "x", NULL, NULL, '5', 0755 }, { "x/up/mine", NULL, "evil", '0', 0644 } };
    struct stat st;
    char text[16] = "";
    AUTO_FD int fd = -1;

    (void)state;
    assert_int_equal(take(good, ARRAY_SIZE(good)), 0);
    assert_int_equal(fstatat(base_fd, "in/x", &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 0775);
    assert_int_equal(fstatat(base_fd, "in/x/f", &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 0755);
    assert_int_equal(st.st_nlink, 2);
    put("in/mine", "mine");
    assert_int_equal(take(up, ARRAY_SIZE(up)), 0); /* ".." of x is x: this one is x/mine */
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        if (i == ARRAY_SIZE(bad) - 1)
            assert_int_equal(renameat(base_fd, "in/x", base_fd, "in/old"), 0);
        assert_true(take(bad[i], 2) < 0);
    }
    assert_int_equal(fstatat(base_fd, "in/.profile", &st, 0), -1);
    assert_int_equal(fstatat(base_fd, "in/xx", &st, 0), -1);
    assert_int_equal(fstatat(base_fd, "in/old/stolen", &st, 0), -1);
    assert_int_equal(fstatat(base_fd, "in/old/node", &st, 0), -1);
    fd = openat(base_fd, "in/mine", O_RDONLY | O_CLOEXEC);
    assert_int_equal(read(fd, text, sizeof(text) - 1), 4);
    assert_string_equal(text, "mine");
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_nlink, 1);
}

static void strings(struct inst_strings *s, const char *a, const char *b)
{
    assert_int_equal(inst_strings_add(s, a), 0);
    if (b)
        assert_int_equal(inst_strings_add(s, b), 0);
}

static uint64_t caps(const char *add, const char *drop)
{
    struct inst_container c = { 0 };
    uint64_t bits = 0;
    struct err e = { 0 };

    if (add)
        strings(&c.cap_add, add, NULL);
    if (drop)
        strings(&c.cap_drop, drop, NULL);
    if (container_caps_bits(&c, &bits, &e) < 0)
        bits = UINT64_MAX;
    inst_strings_done(&c.cap_add);
    inst_strings_done(&c.cap_drop);
    return bits;
}

static void capabilities(void **state)
{
    const uint64_t dflt = 0x800405fb, admin = BIT64(12);

    (void)state;
    assert_int_equal(caps(NULL, NULL), dflt);
    assert_int_equal(caps("net_admin", NULL), dflt | admin);
    assert_int_equal(caps("CAP_NET_ADMIN", "all"), admin);
    assert_int_equal(caps(NULL, "Cap_Chown"), dflt & ~1ULL);
    assert_int_equal(caps(NULL, "ALL"), 0);
    assert_int_equal(caps("fly", NULL), UINT64_MAX);
}

/* The document of a container with most options is one that the runtime takes. */
static void document(void **state)
{
    struct store_instance i = { .id = "0123456789abcdef", .name = "n" };
    struct inst_run run = { .instance = &i, .rundir = "/tmp" };
    struct container_run c = { .net = { .netns = -1 } };
    struct image_user user = { .uid = 5, .home = "/" };
    struct container_document d = {
        .run = &run, .state = &c, .user = &user, .root_fd = -1, .init_program = "/bin/true"
    };
    AUTO(oci_spec) struct oci_spec *spec = NULL;
    json_object *o = NULL;
    struct oci_why why = { 0 };
    struct err e = { 0 };
    const char *text;

    (void)state;
    assert_int_equal(inst_spec_init(&i.spec, INST_CONTAINER), 0);
    d.c = &i.spec.container;
    strings(&i.spec.container.args, "sh", "-c");
    strings(&i.spec.container.env, "A=B", NULL);
    strings(&i.spec.container.ulimits, "nofile=1:2", "core=-1");
    strings(&i.spec.container.devices, "/dev/null:/dev/x:r", NULL);
    strings(&i.spec.container.sysctls, "net.ipv4.ip_forward=1", NULL);
    strings(&i.spec.container.security, "no-new-privileges", NULL);
    i.spec.container.network = strdup("none");
    i.spec.container.memory = 1 << 20;
    i.spec.container.cpus = 1.5;
    i.spec.container.init = true;
    assert_int_equal(container_spec_make(&d, &o, &e), 0);
    text = json_object_to_json_string(o);
    if (oci_spec_parse(text, strlen(text), &spec, &why) < 0)
        fail_msg("%s %s", why.where, why.what);
    assert_true(spec->seccomp.present);
    assert_true(spec->process.no_new_privileges);
    json_object_put(o);
    inst_strings_done(&i.spec.container.ulimits);
    strings(&i.spec.container.ulimits, "nofile", NULL);
    assert_int_equal(container_spec_make(&d, &o, &e), -EINVAL);
    inst_spec_done(&i.spec);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(users, setup, teardown),
        cmocka_unit_test_setup_teardown(paths, setup, teardown),
        cmocka_unit_test_setup_teardown(copies, setup, teardown),
        cmocka_unit_test_setup_teardown(guests_archives, setup, teardown),
        cmocka_unit_test(capabilities),
        cmocka_unit_test(document),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
