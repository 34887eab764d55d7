/* What cloud-init is told: the documents, the image as others read it, what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "instance/seed.h"
#include "proto/vm_spec.h"

#define KEY "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0 me@host"
#define HASH "$6$abc$def"

struct rig {
    char dir[64], path[96];
    struct vm_spec vm;
    struct inst_seed seed;
};

static int setup(void **state)
{
    struct rig *r = calloc(1, sizeof(*r));

    assert_non_null(r);
    snprintf(r->dir, sizeof(r->dir), "/tmp/caisson-seed-XXXXXX");
    assert_non_null(mkdtemp(r->dir));
    snprintf(r->path, sizeof(r->path), "%s/seed.iso", r->dir);
    vm_spec_init(&r->vm);
    r->vm.n_nets = 2;
    r->vm.nets[1] = r->vm.nets[0];
    for (unsigned i = 0; i < 2; i++) {
        snprintf(r->vm.nets[i].name, sizeof(r->vm.nets[i].name), "net%u", i);
        memcpy(r->vm.nets[i].mac, (const uint8_t[]){ 0x52, 0x54, 0, 0, 0, (uint8_t)i }, 6);
    }
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;

    unlink(r->path);
    assert_int_equal(rmdir(r->dir), 0); /* nothing half made is left */
    vm_spec_done(&r->vm);
    inst_strings_done(&r->seed.ssh_keys);
    free(r);
    return 0;
}

/* A file of the image, malloc'd; NULL: there is none. */
static char *read_back(const char *path, const char *name)
{
    struct archive *a = archive_read_new();
    struct archive_entry *entry;
    char *text = NULL;

    assert_int_equal(archive_read_support_format_iso9660(a), ARCHIVE_OK);
    assert_int_equal(archive_read_open_filename(a, path, 4096), ARCHIVE_OK);
    while (!text && archive_read_next_header(a, &entry) == ARCHIVE_OK) {
        if (strcmp(archive_entry_pathname(entry), name) != 0)
            continue;
        text = calloc(1, (size_t)archive_entry_size(entry) + 1);
        assert_non_null(text);
        assert_int_equal(archive_read_data(a, text, (size_t)archive_entry_size(entry)), archive_entry_size(entry));
    }
    archive_read_free(a);
    return text;
}

static const char *member(json_object *o, const char *path)
{
    char copy[128], *rest = copy, *word;

    snprintf(copy, sizeof(copy), "%s", path);
    while ((word = strsep(&rest, "/"))) {
        if (json_object_is_type(o, json_type_array))
            o = json_object_array_get_idx(o, (size_t)atoi(word));
        else
            assert_true(json_object_object_get_ex(o, word, &o));
    }
    return json_object_get_string(o);
}

static void test_image(void **state)
{
    struct rig *r = *state;
    struct err e = { 0 };
    char *text;
    json_object *o;
    unsigned char head[7] = { 0 };
    FILE *f;

    assert_int_equal(inst_strings_add(&r->seed.ssh_keys, KEY), 0);
    r->seed.user = "anna";
    r->seed.password_hash = HASH;
    assert_int_equal(inst_seed_check(&r->seed, &e), 0);
    assert_int_equal(inst_seed_write(&r->seed, "id-1", "web", &r->vm, r->path, &e), 0);
    f = fopen(r->path, "r"); /* the label, where blkid looks for it; cloud-init knows both cases */
    assert_non_null(f);
    assert_int_equal(fseek(f, 0x8028, SEEK_SET), 0);
    assert_int_equal(fread(head, 1, 6, f), 6);
    fclose(f);
    assert_int_equal(strcasecmp((char *)head, "cidata"), 0);

    text = read_back(r->path, "meta-data");
    o = json_tokener_parse(text);
    assert_string_equal(member(o, "instance-id"), "id-1");
    assert_string_equal(member(o, "local-hostname"), "web");
    assert_string_equal(member(o, "public-keys/0"), KEY);
    json_object_put(o);
    free(text);
    text = read_back(r->path, "user-data");
    assert_memory_equal(text, "#cloud-config\n", 14);
    o = json_tokener_parse(text + 14);
    assert_string_equal(member(o, "users/0/name"), "anna");
    assert_string_equal(member(o, "users/0/hashed_passwd"), HASH);
    assert_string_equal(member(o, "users/0/ssh_authorized_keys/0"), KEY);
    json_object_put(o);
    free(text);
    text = read_back(r->path, "network-config");
    o = json_tokener_parse(text);
    assert_string_equal(member(o, "version"), "2");
    assert_string_equal(member(o, "ethernets/net1/match/macaddress"), "52:54:00:00:00:01");
    assert_string_equal(member(o, "ethernets/net0/dhcp4"), "true");
    assert_string_equal(member(o, "ethernets/net0/optional"), "false"); /* else the guest waits for any of them */
    assert_string_equal(member(o, "ethernets/net1/optional"), "true");
    json_object_put(o);
    free(text);
}

/* The user's own document comes through byte for byte; what else was asked for stands aside. */
static void test_user_data(void **state)
{
    struct rig *r = *state;
    struct err e = { 0 };
    char *text;

    r->seed.user_data = "#!/bin/sh\necho \"\303\244\" # no JSON\n";
    r->seed.user = "anna";
    assert_int_equal(inst_seed_write(&r->seed, "id", "web", &r->vm, r->path, &e), 0);
    text = read_back(r->path, "user-data");
    assert_string_equal(text, r->seed.user_data);
    free(text);
    text = read_back(r->path, "vendor-data");
    assert_non_null(strstr(text, "anna"));
    free(text);
    r->seed.user = NULL; /* once more, over the first one */
    assert_int_equal(inst_seed_write(&r->seed, "id", "web", &r->vm, r->path, &e), 0);
    text = read_back(r->path, "vendor-data");
    assert_string_equal(text, "");
    free(text);
}

/* A clone's: documents and keys stay, identity and cards do not. */
static void test_copy(void **state)
{
    struct rig *r = *state;
    char path[112];
    struct err e = { 0 };
    json_object *o;
    char *text;

    snprintf(path, sizeof(path), "%s/copy.iso", r->dir);
    assert_int_equal(inst_strings_add(&r->seed.ssh_keys, KEY), 0);
    r->seed.user_data = "#cloud-config\npackages: [x]\n";
    assert_int_equal(inst_seed_write(&r->seed, "id-1", "web", &r->vm, r->path, &e), 0);
    r->vm.n_nets = 1;
    assert_int_equal(inst_seed_copy(r->path, "id-2", "db", &r->vm, path, &e), 0);
    text = read_back(path, "meta-data");
    o = json_tokener_parse(text);
    assert_string_equal(member(o, "instance-id"), "id-2");
    assert_string_equal(member(o, "local-hostname"), "db");
    assert_string_equal(member(o, "public-keys/0"), KEY);
    json_object_put(o);
    free(text);
    text = read_back(path, "user-data");
    assert_string_equal(text, r->seed.user_data);
    free(text);
    text = read_back(path, "network-config");
    assert_null(strstr(text, "net1"));
    free(text);
    unlink(path);
    assert_int_equal(inst_seed_copy("/dev/null", "id", "db", &r->vm, path, &e), -EINVAL);
    assert_int_equal(inst_seed_copy("/bin/true", "id", "db", &r->vm, path, &e), -EINVAL);
}

static void write_file(const char *path, const void *data, size_t len)
{
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, len, f), len);
    fclose(f);
}
#define WRITE(path, text) write_file(path, text, sizeof(text) - 1)

static void test_keys(void **state)
{
    struct rig *r = *state;
    struct inst_strings *keys = &r->seed.ssh_keys;
    struct err e = { 0 };

    WRITE(r->path, "# mine\n" KEY "\r\n\n  command=\"x\" ssh-rsa AAAA\n");
    assert_int_equal(inst_seed_read_keys(r->path, keys, &e), 0);
    assert_int_equal(keys->n, 2);
    assert_string_equal(keys->at[0], KEY);
    WRITE(r->path, "-----BEGIN OPENSSH PRIVATE KEY-----\n");
    assert_int_equal(inst_seed_read_keys(r->path, keys, &e), -EINVAL);
    assert_non_null(strstr(e.text, ".pub"));
    assert_null(strstr(e.text, "PRIVATE")); /* a secret would be in the terminal's history */
    WRITE(r->path, "");
    assert_int_equal(inst_seed_read_keys(r->path, keys, &e), -EINVAL);
    WRITE(r->path, "ssh-rsa \0AAAA\n");
    assert_int_equal(inst_seed_read_keys(r->path, keys, &e), -EINVAL);
    assert_int_equal(inst_seed_read_keys("/nonexistent", keys, &e), -ENOENT);
    assert_int_equal(inst_seed_read_keys("/dev/zero", keys, &e), -EINVAL); /* without an end */
    assert_int_equal(keys->n, 2);
}

static void test_refused(void **state)
{
    static const char *const users[] = { "", "-x", "a b", "root:x", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "\303\244" };
    static const char *const hashes[] = { "secret", "$6$a b", "$6$a:b", "$6$\n" };
    struct rig *r = *state;
    struct err e = { 0 };
    char *text = NULL;

    for (size_t i = 0; i < ARRAY_SIZE(users); i++)
        assert_int_equal(inst_seed_check(&(struct inst_seed){ .user = users[i] }, &e), -EINVAL);
    for (size_t i = 0; i < ARRAY_SIZE(hashes); i++)
        assert_int_equal(inst_seed_check(&(struct inst_seed){ .password_hash = hashes[i] }, &e), -EINVAL);
    WRITE(r->path, "hostname: x\n"); /* cloud-init would say nothing and ignore it */
    assert_int_equal(inst_seed_read_user_data(r->path, &text, &e), -EINVAL);
    assert_null(text);
    WRITE(r->path, "#cloud-config\nhostname: x\n");
    assert_int_equal(inst_seed_read_user_data(r->path, &text, &e), 0);
    free(text);
    assert_int_equal(inst_seed_write(&r->seed, "id", "web", &r->vm, "/nonexistent/seed", &e), -ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_image, setup, teardown),
        cmocka_unit_test_setup_teardown(test_user_data, setup, teardown),
        cmocka_unit_test_setup_teardown(test_copy, setup, teardown),
        cmocka_unit_test_setup_teardown(test_keys, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
