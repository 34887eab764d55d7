/* The documents of images: what is read, and each way to get them wrong. */
#include <errno.h>
#include <json-c/json.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/attr.h"
#include "wire/oci_image.h"

#define HEX "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define DIGEST "sha256:" HEX

typedef int parse_fn(const char *text, size_t len, struct oci_image *ret, struct oci_why *why);

static struct oci_image parsed(parse_fn *parse, const char *text)
{
    struct oci_image i = { 0 };
    struct oci_why why = { 0 };

    if (parse(text, strlen(text), &i, &why) < 0)
        fail_msg("%s: %s %s", text, why.where, why.what);
    return i;
}

static void refused(parse_fn *parse, const char *text, const char *where, const char *what)
{
    struct oci_image i = { 0 };
    struct oci_why why = { 0 };

    assert_int_equal(parse(text, strlen(text), &i, &why), -EINVAL);
    assert_null(i.memory);
    assert_string_equal(why.where, where);
    assert_non_null(strstr(why.what, what));
    assert_int_equal(parse(text, strlen(text), &i, NULL), -EINVAL);
}

static void test_index(void **state)
{
    struct oci_image i = parsed(
        oci_index_parse,
        "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"unknown\":{},\"manifests\":["
        "{\"mediaType\":\"application/vnd.docker.distribution.manifest.v2+json\",\"digest\":\"" DIGEST
        "\",\"size\":4398046511104,\"platform\":{\"os\":\"linux\",\"architecture\":\"arm\",\"variant\":\"v7\"},"
        "\"annotations\":{\"org.opencontainers.image.ref.name\":\"x\"}},"
        "{\"mediaType\":\"text/plain\",\"digest\":\"" DIGEST "\",\"size\":0,\"annotations\":"
        "{\"org.opencontainers.image.ref.name\":\"x\",\"io.containerd.image.name\":\"a/b:c\"}}]}");

    (void)state;
    assert_int_equal(i.n_manifests, 2);
    assert_int_equal(i.manifests[0].media, OCI_MEDIA_MANIFEST);
    assert_string_equal(i.manifests[0].digest, DIGEST);
    assert_true(i.manifests[0].size == OCI_BLOB_MAX);
    assert_string_equal(i.manifests[0].variant, "v7");
    assert_string_equal(i.manifests[0].ref_name, "x");
    assert_int_equal(i.manifests[1].media, OCI_MEDIA_OTHER);
    assert_null(i.manifests[1].os);
    assert_string_equal(i.manifests[1].ref_name, "a/b:c");
    oci_image_done(&i);
    oci_image_done(&i);
    refused(oci_index_parse, "", "", "not valid JSON");
    refused(oci_index_parse, "[]", "", "JSON object");
    refused(oci_index_parse, "{}", "manifests", "missing");
    refused(oci_index_parse, "{\"schemaVersion\":1,\"manifests\":[]}", "schemaVersion", "must be 2");
    refused(oci_index_parse, "{\"manifests\":[1]}", "manifests[0]", "object");
    refused(oci_index_parse, "{\"manifests\":[{\"size\":1}]}", "manifests[0].digest", "missing");
    refused(oci_index_parse, "{\"manifests\":[{\"digest\":\"" DIGEST "\"}]}", "manifests[0].size", "missing");
    refused(oci_index_parse, "{\"manifests\":[{\"digest\":\"" DIGEST "\",\"size\":4398046511105}]}",
            "manifests[0].size", "range");
}

static void test_manifest(void **state)
{
    static const char *const digests[] = {
        "sha512:" HEX, "sha256:", "sha256:" HEX "0",
        "sha256:ABC",  HEX,       "sha256:../../../../../../../../../../../../../../../../../../../../../x"
    };
    struct oci_image i = parsed(oci_manifest_parse,
                                "{\"schemaVersion\":2,\"config\":{\"mediaType\":\"application/vnd.caisson.vm.v1+json\","
                                "\"digest\":\"" DIGEST "\",\"size\":5},\"layers\":[{\"mediaType\":\"application/"
                                "vnd.oci.image.layer.v1.tar+zstd\",\"digest\":\"" DIGEST "\",\"size\":6}]}");
    char text[512];

    (void)state;
    assert_int_equal(i.config.media, OCI_MEDIA_VM_CONFIG);
    assert_int_equal(i.n_layers, 1);
    assert_int_equal(i.layers[0].media, OCI_MEDIA_LAYER);
    assert_int_equal(i.layers[0].size, 6);
    oci_image_done(&i);
    for (size_t n = 0; n < ARRAY_SIZE(digests); n++) {
        assert_false(oci_digest_ok(digests[n]));
        snprintf(text, sizeof(text), "{\"config\":{\"digest\":\"%s\",\"size\":5},\"layers\":[]}", digests[n]);
        refused(oci_manifest_parse, text, "config.digest", "64 digits");
    }
    assert_true(oci_digest_ok(DIGEST));
    refused(oci_manifest_parse, "{\"layers\":[]}", "config", "missing");
    refused(oci_manifest_parse, "{\"schemaVersion\":1,\"config\":{\"digest\":\"" DIGEST "\",\"size\":5},\"layers\":[]}",
            "schemaVersion", "first format");
    assert_string_equal(oci_media_name(OCI_MEDIA_LAYER), "application/vnd.oci.image.layer.v1.tar");
    assert_string_equal(oci_media_name(OCI_MEDIA_OTHER), "application/octet-stream");
}

static void test_config(void **state)
{
    struct oci_image i = parsed(
        oci_config_parse,
        "{\"os\":\"linux\",\"architecture\":\"amd64\",\"created\":\"2020-01-01T00:00:01.5Z\",\"rootfs\":{\"type\":"
        "\"layers\",\"diff_ids\":[\"" DIGEST
        "\"]},\"history\":[{\"created\":\"0001-01-01T00:00:00Z\",\"created_by\":\"x\"},"
        "{\"empty_layer\":true}]}");

    (void)state;
    assert_true(i.created_ns == 1577836801500000000LL);
    assert_int_equal(i.n_diff_ids, 1);
    assert_string_equal(i.diff_ids[0], DIGEST);
    assert_int_equal(i.n_history, 2);
    assert_true(i.history[0].created_ns == 0);
    assert_true(i.history[1].empty_layer);
    oci_image_done(&i);
    i = parsed(oci_config_parse, "{}");
    assert_int_equal(i.n_diff_ids, 0);
    oci_image_done(&i);
    refused(oci_config_parse, "{\"rootfs\":{\"diff_ids\":[\"x\"]}}", "rootfs.diff_ids", "64 digits");
    refused(oci_config_parse, "{\"rootfs\":{\"diff_ids\":[1]}}", "rootfs.diff_ids[0]", "string");
    refused(oci_config_parse, "{\"os\":1}", "os", "string");
    refused(oci_config_parse, "{\"history\":[1]}", "history[0]", "object");
}

static void test_docker(void **state)
{
    struct oci_image i =
        parsed(oci_docker_parse, "[{\"Config\":\"c.json\",\"RepoTags\":null,\"Layers\":[\"a\",\"b\"]}]");

    (void)state;
    assert_int_equal(i.n_docker, 1);
    assert_string_equal(i.docker[0].config, "c.json");
    assert_int_equal(i.docker[0].names.n, 0);
    assert_int_equal(i.docker[0].layers.n, 2);
    oci_image_done(&i);
    refused(oci_docker_parse, "{}", "", "JSON array");
    refused(oci_docker_parse, "[{}]", "[0].Config", "missing");
}

static void test_time(void **state)
{
    static const struct {
        const char *text;
        int64_t ns;
    } good[] = {
        { "1970-01-01T00:00:00Z", 0 },
        { "1969-12-31T23:59:59Z", -1000000000 },
        { "2020-01-01T00:00:00.000000001Z", 1577836800000000001 },
        { "2020-01-01T01:30:00+01:30", 1577836800000000000 },
        { "2019-12-31T19:00:00.25-05:00", 1577836800250000000 },
        { "2020-01-01T00:00:00.1234567899Z", 1577836800123456789 },
    };
    static const char *const bad[] = { "",
                                       "2020-01-01",
                                       "2020-01-01T00:00:00",
                                       "2020-01-01T00:00:00.Z",
                                       "2020-01-01T00:00:00+1:30",
                                       "2020-01-01T00:00:00+25:00",
                                       "2020-01-01T00:00:00Zx",
                                       "9999-01-01T00:00:00Z",
                                       "0001-01-01T00:00:00Z",
                                       "2020-13-01T00:00:00Z" };
    int64_t ns;

    (void)state;
    for (size_t n = 0; n < ARRAY_SIZE(good); n++) {
        assert_int_equal(oci_time_parse(good[n].text, &ns), 0);
        assert_true(ns == good[n].ns);
    }
    for (size_t n = 0; n < ARRAY_SIZE(bad); n++)
        assert_int_equal(oci_time_parse(bad[n], &ns), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_index),  cmocka_unit_test(test_manifest), cmocka_unit_test(test_config),
        cmocka_unit_test(test_docker), cmocka_unit_test(test_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
