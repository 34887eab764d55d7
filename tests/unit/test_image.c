/* Names of images, changes of configurations, rows in the database; and the whole way of an image in and out with each
 * allocation failing in turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fast_dir.h"
#include "fault.h"
#include "image/commit.h"
#include "image/export.h"
#include "image/image_priv.h"
#include "image/import.h"
#include "store/image.h"

static char dir[64];

static int setup(void **state)
{
    (void)state;
    if (!fast_dir_make(dir, "image"))
        return -1;
    return setenv("CAISSON_STATE_DIR", dir, 1);
}

static int teardown(void **state)
{
    (void)state;
    return image_tree_remove(AT_FDCWD, dir);
}

static struct store *open_store(void)
{
    struct store *s = NULL;
    struct err e = { 0 };

    if (store_open(STORE_WRITE, &s, &e) < 0)
        fail_msg("%s", e.text);
    return s;
}

static void test_names(void **state)
{
    static const char *const good[][3] = {
        { "debian", "docker.io/library/debian:latest", "localhost/debian:latest" },
        { "debian:12", "docker.io/library/debian:12", "localhost/debian:12" },
        { "team/app", "docker.io/team/app:latest", "localhost/team/app:latest" },
        { "docker.io/debian", "docker.io/library/debian:latest", "docker.io/library/debian:latest" },
        { "docker.io/a/b", "docker.io/a/b:latest", "docker.io/a/b:latest" },
        { "localhost/x:1", "localhost/x:1", "localhost/x:1" },
        { "reg:5000/x", "reg:5000/x:latest", "reg:5000/x:latest" },
        { "ghcr.io/a/b-c/d_e__f.g:V1.0-x", "ghcr.io/a/b-c/d_e__f.g:V1.0-x", "ghcr.io/a/b-c/d_e__f.g:V1.0-x" },
        { "[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest" },
        { "index.docker.io/x", "docker.io/library/x:latest", "docker.io/library/x:latest" }, /* as pull calls it */
        { "a--b", "docker.io/library/a--b:latest", "localhost/a--b:latest" },
        { "x@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
          "docker.io/library/x@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
          "localhost/x@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef" },
    };
    static const char *const bad[] = {
        "",     ":",     "a:",   "/a",   "a/",  "A",     "a b",     "a//b",   "-a",   "a-", "a___b",     "a..b",
        "a._b", "a:b:c", "a:.b", "a:-b", "a@x", "-.x/a", "a.b/C/d", "a/../b", "a/.b", "..", "a.b:x y/c", "docker://a"
    };
    char name[IMAGE_NAME_MAX], text[600];
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        assert_int_equal(image_name_normalize(good[i][0], name, NULL), 0);
        assert_string_equal(name, good[i][1]);
        assert_int_equal(image_name_normalize(name, text, NULL), 0); /* a full name stays */
        assert_string_equal(name, text);
        assert_int_equal(image_name_local(good[i][0], name, NULL), 0);
        assert_string_equal(name, good[i][2]);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        e.code = 0;
        if (image_name_normalize(bad[i], name, &e) != -EINVAL || e.code != EINVAL)
            fail_msg("'%s' is accepted as %s", bad[i], name);
    }
    memset(text, 'a', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    assert_int_equal(image_name_normalize(text, name, NULL), -EINVAL);
    text[505] = '\0'; /* short enough, but not with ":latest" behind it */
    text[1] = '.';
    text[254] = '/';
    assert_int_equal(image_name_normalize(text, name, NULL), -EINVAL);
    text[500] = '\0';
    assert_int_equal(image_name_normalize(text, name, NULL), 0);
}

static void test_change(void **state)
{
    static const char *const good[] = { "CMD [\"a\", \"b\"]", "cmd x y",         "ENTRYPOINT=[\"e\"]",  "ENV A=1",
                                        "ENV A=2 B='x y'",    "EXPOSE 80",       "LABEL k=v q=\"r s\"", "USER  u:g",
                                        "WORKDIR /w",         "VOLUME [\"/v\"]", "STOPSIGNAL INT",      "ONBUILD RUN x",
                                        "ENTRYPOINT" };
    static const char *const bad[] = { "", "FROM x", "ENV", "ENV x", "ENV =x", "LABEL x", "USER", "CMDX x" };
    json_object *o = json_object_new_object();

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(good); i++)
        assert_int_equal(image_config_change(o, good[i], NULL), 0);
    assert_string_equal(
        json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE),
        "{\"config\":{\"Cmd\":[\"/bin/sh\",\"-c\",\"x y\"],\"Entrypoint\":null,\"Env\":[\"A=2\",\"B=x "
        "y\"],\"ExposedPorts\":{\"80/tcp\":{}},\"Labels\":{\"k\":\"v\",\"q\":\"r s\"},\"User\":\"u:g\","
        "\"WorkingDir\":\"/w\",\"Volumes\":{\"/v\":{}},\"StopSignal\":\"INT\",\"OnBuild\":[\"RUN x\"]}}");
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(image_config_change(o, bad[i], NULL), -EINVAL);
    json_object_put(o);
}

/* What looks like a list and is none is taken as words, or for the shell; it is not cut off. */
static void test_change_lists(void **state)
{
    static const char *const changes[] = { "VOLUME [/v]", "EXPOSE [\"80\", \"53/udp\"]", "CMD [\"a\"] b",
                                           "ENTRYPOINT [\"e\"] " };
    json_object *o = json_object_new_object();

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(changes); i++)
        assert_int_equal(image_config_change(o, changes[i], NULL), 0);
    assert_string_equal(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE),
                        "{\"config\":{\"Volumes\":{\"[/v]\":{}},\"ExposedPorts\":{\"80/tcp\":{},\"53/udp\":{}},"
                        "\"Cmd\":[\"/bin/sh\",\"-c\",\"[\\\"a\\\"] b\"],\"Entrypoint\":[\"e\"]}}");
    json_object_put(o);
}

static int append(void *opaque, const char *text)
{
    size_t len = strlen(opaque);

    snprintf((char *)opaque + len, 256 - len, "%s ", text);
    return 0;
}

static int append_name(void *opaque, const char *name, const char *id)
{
    (void)id;
    return append(opaque, name);
}

static void test_rows(void **state)
{
    struct store *s = open_store();
    struct store_image a = { .id = "sha256:a", .manifest = "m", .size = 5 }, b = { .id = "sha256:b", .manifest = "n" },
                       got;
    const char *const parts_a[] = { "x", "y", "x" }, *const parts_b[] = { "y", "z" };
    char text[256] = "";

    (void)state;
    assert_int_equal(store_image_put(s, &a, parts_a, 3, NULL), 0);
    assert_int_equal(store_image_put(s, &b, parts_b, 2, NULL), 0);
    assert_int_equal(store_image_name_set(s, "one", "sha256:a", NULL), 0);
    assert_int_equal(store_image_name_set(s, "two", "sha256:a", NULL), 0);
    assert_int_equal(store_image_named(s, "two", &got, NULL), 0);
    assert_string_equal(got.id, "sha256:a");
    assert_int_equal(got.size, 5);
    assert_int_equal(store_image_name_set(s, "two", "sha256:b", NULL), 0);
    assert_int_equal(store_image_named(s, "two", &got, NULL), 0);
    assert_string_equal(got.id, "sha256:b");
    assert_int_equal(store_image_named(s, "tw", &got, NULL), 1);
    assert_true(store_image_name_set(s, "three", "sha256:none", NULL) < 0);
    a.size = 6;
    assert_int_equal(store_image_put(s, &a, parts_a, 1, NULL), 0); /* names stay */
    assert_int_equal(store_image_find(s, "sha256:a", &got, NULL), 0);
    assert_int_equal(got.size, 6);
    assert_int_equal(store_image_name_each(s, NULL, append_name, text, NULL), 0);
    assert_string_equal(text, "one two ");
    text[0] = '\0';
    assert_int_equal(store_image_part_each(s, NULL, append, text, NULL), 0);
    assert_string_equal(text, "x y z ");
    assert_int_equal(store_image_remove(s, "sha256:b", NULL), 0);
    assert_int_equal(store_image_remove(s, "sha256:b", NULL), 1);
    text[0] = '\0';
    assert_int_equal(store_image_part_each(s, NULL, append, text, NULL), 0);
    assert_string_equal(text, "x ");
    assert_int_equal(store_image_named(s, "two", &got, NULL), 1);
    assert_int_equal(store_image_name_remove(s, "one", NULL), 0);
    assert_int_equal(store_image_name_remove(s, "one", NULL), 1);
    assert_int_equal(store_image_remove(s, "sha256:a", NULL), 0);
    store_close(s);
}

/* ---- failing allocations ---- */

static void write_rootfs(const char *path)
{
    struct archive *a = archive_write_new();
    struct archive_entry *e = archive_entry_new();

    archive_write_set_format_pax(a);
    assert_int_equal(archive_write_open_filename(a, path), ARCHIVE_OK);
    archive_entry_set_pathname(e, "d");
    archive_entry_set_filetype(e, AE_IFDIR);
    archive_entry_set_perm(e, 0755);
    archive_entry_set_uid(e, geteuid());
    archive_entry_set_gid(e, getegid());
    assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
    archive_entry_set_pathname(e, "d/deep/file");
    archive_entry_set_filetype(e, AE_IFREG);
    archive_entry_set_size(e, 4);
    archive_entry_xattr_add_entry(e, "user.x", "y", 1);
    assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
    assert_int_equal(archive_write_data(a, "data", 4), 4);
    archive_entry_free(e);
    archive_write_free(a);
}

static int in_and_out(const char *tar, const char *out)
{
    struct image_import import = { .path = tar, .name = "x", .rootfs = true };
    const char *const names[] = { "x" };
    struct image_export x = { .images = names, .n = 1, .path = out };
    const struct image_rm rm = { .force = true };
    struct store *s = NULL;
    struct err e = { 0 };
    int r = store_open(STORE_WRITE, &s, &e);

    if (r == 0)
        r = image_import(s, &import, NULL, NULL, &e);
    for (x.format = IMAGE_FORMAT_OCI; r == 0 && x.format <= IMAGE_FORMAT_ROOTFS; x.format++)
        r = x.format == IMAGE_FORMAT_OCI_DIR ? 0 : image_export(s, &x, &e);
    if (r == 0)
        r = image_rm(s, "x", &rm, &e);
    store_close(s);
    /* Whatever fails, an error has its text, in one line. */
    assert_true(r == 0 || (e.code > 0 && e.text[0] && !strchr(e.text, '\n')));
    return r;
}

static void test_allocations(void **state)
{
    char tar[96], out[96];
    unsigned n = 1;
    int r;

    (void)state;
    if (geteuid() != 0)
        skip(); /* a child does the work */
    snprintf(tar, sizeof(tar), "%s/rootfs.tar", dir);
    snprintf(out, sizeof(out), "%s/out.tar", dir);
    write_rootfs(tar);
    assert_int_equal(in_and_out(tar, out), 0);
    for (; fault_begin(n), r = in_and_out(tar, out), fault_end(); n++)
        assert_true(r < 0 || r == 0); /* a name that is not found because of it may be none */
    assert_int_equal(r, 0);
    assert_true(n > 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names), cmocka_unit_test(test_change),      cmocka_unit_test(test_change_lists),
        cmocka_unit_test(test_rows),  cmocka_unit_test(test_allocations),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
