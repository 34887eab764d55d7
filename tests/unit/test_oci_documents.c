/* `features` and `spec`: against our own parser, and against runc's where it is installed. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "oci/documents.h"
#include "oci_rig.h"

static char dir[40];

static int setup(void **state)
{
    strcpy(dir, "/tmp/oci-documents-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static void remove_config(void)
{
    char path[64];

    snprintf(path, sizeof(path), "%s/config.json", dir);
    unlink(path);
}

static int teardown(void **state)
{
    remove_config();
    return rmdir(dir);
}

static struct json_object *read_config(void)
{
    char path[64];
    struct json_object *o;

    snprintf(path, sizeof(path), "%s/config.json", dir);
    o = json_object_from_file(path);
    assert_non_null(o);
    return o;
}

/* What a command prints, as JSON; NULL: it cannot be run, or prints none. */
static struct json_object *json_of(const char *command)
{
    static char text[1 << 17];
    FILE *f = popen(command, "re");
    size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;

    if (!f || pclose(f) != 0 || n == 0)
        return NULL;
    text[n] = '\0';
    return json_tokener_parse(text);
}

static struct json_object *at(struct json_object *o, const char *path)
{
    struct json_object *found = NULL;

    return json_pointer_get(o, path, &found) == 0 ? found : NULL;
}

/* ---- spec ---- */

static void test_spec_parses(void **state)
{
    for (unsigned rootless = 0; rootless < 2; rootless++) {
        struct oci_spec *s = NULL;
        struct oci_why why = { 0 };
        struct buf b;

        buf_init(&b, 1 << 20);
        assert_int_equal(oci_spec_template(rootless, &b), 0);
        if (oci_spec_parse((const char *)b.data, b.len, &s, &why) < 0)
            fail_msg("%s %s", why.where, why.what);
        assert_string_equal(s->process.args.v[0], "sh");
        assert_int_equal(s->ns[OCI_NS_USER].wanted, rootless);
        assert_int_equal(s->ns[OCI_NS_NET].wanted, !rootless);
        assert_int_equal(s->uid_mappings.n, rootless);
        if (rootless)
            assert_int_equal(s->uid_mappings.v[0].host, geteuid());
        assert_true(s->process.no_new_privileges);
        oci_spec_free(s);
        buf_done(&b);
    }
}

static void test_spec_file(void **state)
{
    struct err e = { 0 };
    struct stat st;
    char path[64];

    snprintf(path, sizeof(path), "%s/config.json", dir);
    assert_int_equal(oci_spec_write(dir, false, &e), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_size > 1000);
    assert_int_equal(oci_spec_write(dir, true, &e), -EEXIST);
    assert_non_null(strstr(e.text, "remove it first"));
    remove_config();
    /* no link is followed to somewhere else */
    assert_int_equal(symlink("elsewhere", path), 0);
    assert_int_equal(oci_spec_write(dir, false, &e), -EEXIST);
    remove_config();
    assert_int_equal(oci_spec_write("/no/such/bundle", false, &e), -ENOENT);
    assert_non_null(strstr(e.text, "/no/such/bundle"));
}

/* Take out of both what differs between runc's versions, or is a name. */
static void neutral(struct json_object *o)
{
    static const char powercap[] = "/sys/devices/virtual/powercap";
    struct json_object *masked = at(o, "/linux/maskedPaths");

    json_object_object_del(o, "ociVersion");
    json_object_object_del(o, "hostname");
    json_object_object_del(at(o, "/process/capabilities"), "ambient");
    for (size_t i = json_object_array_length(masked); i-- > 0;) {
        const char *path = json_object_get_string(json_object_array_get_idx(masked, i));

        if (strcmp(path, powercap) == 0 || strncmp(path, "/sys/devices/system/cpu/", 24) == 0)
            json_object_array_del_idx(masked, i, 1);
    }
}

static void test_spec_like_runc(void **state)
{
    static const char *const options[] = { "", " --rootless" };

    if (system("runc --version >/dev/null 2>&1") != 0) {
        print_message("no runc\n");
        skip();
    }
    for (unsigned rootless = 0; rootless < 2; rootless++) {
        char command[128];
        struct err e = { 0 };
        struct json_object *theirs, *ours;

        snprintf(command, sizeof(command), "runc spec --bundle %s%s", dir, options[rootless]);
        assert_int_equal(system(command), 0);
        theirs = read_config();
        remove_config();
        assert_int_equal(oci_spec_write(dir, rootless, &e), 0);
        ours = read_config();
        remove_config();
        neutral(theirs);
        neutral(ours);
        if (!json_object_equal(theirs, ours))
            fail_msg("runc:\n%s\nours:\n%s", json_object_to_json_string(theirs), json_object_to_json_string(ours));
        json_object_put(theirs);
        json_object_put(ours);
    }
}

/* ---- features ---- */

static struct json_object *features(void)
{
    struct json_object *o;
    struct buf b;

    buf_init(&b, 1 << 20);
    oci_features_json(&b);
    buf_append(&b, "", 1);
    assert_int_equal(buf_error(&b), 0);
    o = json_tokener_parse((const char *)b.data);
    assert_non_null(o);
    buf_done(&b);
    return o;
}

static bool has(struct json_object *array, const char *word)
{
    for (size_t i = 0; i < json_object_array_length(array); i++) {
        if (strcmp(json_object_get_string(json_object_array_get_idx(array, i)), word) == 0)
            return true;
    }
    return false;
}

/* All that runc names we name, but for what is no option of ours: "acl" is the file system's. */
static void compare_arrays(struct json_object *theirs, struct json_object *ours, const char *path)
{
    struct json_object *t = at(theirs, path), *o = at(ours, path);

    assert_non_null(o);
    for (size_t i = 0; t && i < json_object_array_length(t); i++) {
        const char *word = json_object_get_string(json_object_array_get_idx(t, i));

        if (!has(o, word) && !strstr(word, "acl"))
            fail_msg("%s: runc has %s", path, word);
    }
}

static void test_features_like_runc(void **state)
{
    static const char *const paths[] = { "/hooks",
                                         "/mountOptions",
                                         "/linux/namespaces",
                                         "/linux/capabilities",
                                         "/linux/seccomp/actions",
                                         "/linux/seccomp/operators",
                                         "/linux/seccomp/archs",
                                         "/linux/seccomp/knownFlags",
                                         "/linux/seccomp/supportedFlags" };
    struct json_object *theirs = json_of("runc features 2>/dev/null"), *ours;

    if (!theirs) {
        print_message("no runc that has features\n");
        skip();
    }
    ours = features();
    for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
        compare_arrays(theirs, ours, paths[i]);
    json_object_put(theirs);
    json_object_put(ours);
}

/* Everything that we say we know, our parser takes and the compiler compiles. */
static void test_features_are_true(void **state)
{
    struct json_object *o = features(), *words = at(o, "/mountOptions");
    struct oci_why why = { 0 };
    struct buf b;

    for (size_t i = 0; i < json_object_array_length(words); i++) {
        const char *word = json_object_get_string(json_object_array_get_idx(words, i));
        struct oci_spec *s = NULL;

        buf_init(&b, 1 << 16);
        buf_printf(&b,
                   "{\"ociVersion\":\"1.0.2\",\"process\":{\"cwd\":\"/\",\"args\":[\"x\"]},\"root\":{\"path\":\"r\"},"
                   "\"mounts\":[{\"destination\":\"/x\",\"type\":\"tmpfs\",\"source\":\"x\",\"options\":[\"%s\"]}]}",
                   word);
        /* some contradict the rest of this mount; none is data for the file system */
        if (oci_spec_parse((const char *)b.data, b.len, &s, &why) == 0 && s->mounts[0].data)
            fail_msg("%s is not known to the parser", word);
        oci_spec_free(s);
        buf_done(&b);
    }
    words = at(o, "/linux/seccomp/archs");
    for (size_t i = 0; i < json_object_array_length(words); i++) {
        char name[32];
        const char *word = json_object_get_string(json_object_array_get_idx(words, i)) + 10;

        for (size_t k = 0; k <= strlen(word); k++)
            name[k] = word[k] >= 'A' && word[k] <= 'Z' ? (char)(word[k] | 0x20) : word[k];
        if (seccomp_arch_resolve_name(name) == 0)
            fail_msg("libseccomp has no %s", name);
    }
    assert_string_equal(json_object_get_string(at(o, "/ociVersionMax")), OCI_VERSION);
    assert_true(json_object_get_boolean(at(o, "/linux/seccomp/enabled")));
    json_object_put(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spec_parses),       cmocka_unit_test(test_spec_file),
        cmocka_unit_test(test_spec_like_runc),    cmocka_unit_test(test_features_like_runc),
        cmocka_unit_test(test_features_are_true),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
