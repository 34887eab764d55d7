/* Requests to VMs and manifests of backups: there and back, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "proto/vm_msg.h"
#include "refused.h"

static void test_requests(void **state)
{
    struct vm_msg_request r = { .op = VM_MSG_BACKUP_START }, back;
    char *text = NULL;

    (void)state;
    snprintf(r.backup.dir, sizeof(r.backup.dir), "/some where/\"else\"");
    snprintf(r.backup.chain, sizeof(r.backup.chain), "daily");
    snprintf(r.backup.disks[0], sizeof(r.backup.disks[0]), "serial");
    snprintf(r.backup.disks[1], sizeof(r.backup.disks[1]), "1");
    r.backup.n_disks = 2;
    r.backup.mode = VM_BACKUP_INCREMENTAL;
    r.backup.compress = true;
    r.backup.bandwidth = 12345;
    assert_int_equal(vm_msg_request_to_json(&r, &text), 0);
    assert_int_equal(vm_msg_request_from_json(text, &back, NULL), 0);
    assert_memory_equal(&r, &back, sizeof(r));
    free(text);
    r = (struct vm_msg_request){ .op = VM_MSG_SAVE, .save = { .path = "/a/\"b\"", .snapshot = "s-1", .stop = true } };
    assert_int_equal(vm_msg_request_to_json(&r, &text), 0);
    assert_int_equal(vm_msg_request_from_json(text, &back, NULL), 0);
    assert_memory_equal(&r, &back, sizeof(r));
    free(text);
    for (enum vm_msg_op op = VM_MSG_INFO; op <= VM_MSG_QUIT; op++) {
        if (op == VM_MSG_BACKUP_START)
            continue;
        r = (struct vm_msg_request){ .op = op };
        assert_int_equal(vm_msg_request_to_json(&r, &text), 0);
        assert_int_equal(vm_msg_request_from_json(text, &back, NULL), 0);
        assert_memory_equal(&r, &back, sizeof(r));
        free(text);
    }
}

#define START "{\"op\": \"backup-start\", \"dir\": \"/d\", \"chain\": \"c\""

static int read_refused(const char *text, struct err *e)
{
    struct vm_msg_request r;

    return vm_msg_request_from_json(text, &r, e);
}

static void test_requests_refused(void **state)
{
    static const struct refused rows[] = {
        { "", "JSON" },
        { "[]", "JSON" },
        { "{}", "'op' is missing" },
        { "{\"op\": 1}", "op" },
        { "{\"op\": \"fly\"}", "op" },
        { "{\"op\": \"info\", \"dir\": \"/d\"}", "dir" },
        { "{\"op\": \"quit\"} x", "JSON" },
        { "{\"op\": \"save\", \"path\": \"x\"}", "absolute path" },
        { "{\"op\": \"save\", \"path\": \"/x\", \"snapshot\": \"a b\"}", "snapshot 'a b'" },
        { "{\"op\": \"save\", \"path\": \"/x\", \"stop\": 1}", "stop" },
        { "{\"op\": \"save\", \"dir\": \"/x\"}", "dir" },
        { "{\"op\": \"save\", \"disks_only\": true}", "needs a snapshot" },
        { "{\"op\": \"save\", \"path\": \"/x\", \"snapshot\": \"s\", \"disks_only\": true}", "no path" },
        { "{\"op\": \"save-status\", \"path\": \"/x\"}", "path" },
        { "{\"op\": \"backup-start\"}", "absolute dir" },
        { "{\"op\": \"backup-start\", \"dir\": \"d\", \"chain\": \"c\"}", "absolute dir" },
        { "{\"op\": \"backup-start\", \"dir\": \"/d\"}", "chain '' is not allowed" },
        { "{\"op\": \"backup-start\", \"dir\": \"/d\", \"chain\": \"a:b\"}", "chain 'a:b' is not allowed" },
        { START ", \"mode\": \"most\"}", "mode" },
        { START ", \"bandwidth\": -1}", "bandwidth" },
        { START ", \"bandwidth\": 9007199254740993}", "bandwidth" },
        { START ", \"compress\": 1}", "compress" },
        { START ", \"disks\": \"a\"}", "disks" },
        { START ", \"disks\": [1]}", "disks" },
        { START ", \"disks\": [\"123456789012345678901\"]}", "disks" },
        { START ", \"disks\": [\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\"]}",
          "disks" },
        { START ", \"more\": 1}", "more" },
    };

    (void)state;
    refused_all(rows, ARRAY_SIZE(rows), read_refused);
}

static struct backup_disk disk(const char *name, uint32_t base, uint32_t number)
{
    struct backup_disk d = { .index = 1, .full = base == 0, .base = base, .size = 1 << 20, .copied = 77 };

    snprintf(d.name, sizeof(d.name), "%s", name);
    snprintf(d.file, sizeof(d.file), "%s-%u.qcow2", name, number);
    return d;
}

/* Points 1 (a full, b full), 2 (a on 1), 5 (a on 2, b on 1), 6 (b full). */
static void fill(struct backup_manifest *m)
{
    static const uint32_t numbers[] = { 1, 2, 5, 6 }, a[] = { 0, 1, 2, UINT32_MAX }, b[] = { 0, UINT32_MAX, 1, 0 };

    snprintf(m->vm, sizeof(m->vm), "web");
    snprintf(m->chain, sizeof(m->chain), "c");
    for (unsigned i = 0; i < 4; i++) {
        struct backup_point p = { .number = numbers[i] };

        snprintf(p.id, sizeof(p.id), "abcd%u", numbers[i]);
        snprintf(p.time, sizeof(p.time), "2026-01-31T12:00:0%uZ", i);
        if (a[i] != UINT32_MAX)
            p.disks[p.n_disks++] = disk("a", a[i], numbers[i]);
        if (b[i] != UINT32_MAX)
            p.disks[p.n_disks++] = disk("b", b[i], numbers[i]);
        assert_int_equal(backup_manifest_add(m, &p), 0);
    }
}

static void test_manifest(void **state)
{
    struct backup_manifest m = { 0 }, back = { 0 };
    char dir[] = "/tmp/caisson-test-XXXXXX", path[64];
    struct stat st;
    int fd;

    (void)state;
    assert_non_null(mkdtemp(dir));
    fd = open(dir, O_RDONLY | O_DIRECTORY);
    assert_int_equal(backup_manifest_load(fd, dir, &back, NULL), -ENOENT);
    fill(&m);
    assert_int_equal(backup_manifest_save(fd, dir, &m, NULL), 0);
    assert_int_equal(backup_manifest_save(fd, dir, &m, NULL), 0);
    assert_int_equal(backup_manifest_load(fd, dir, &back, NULL), 0);
    assert_string_equal(back.vm, "web");
    assert_int_equal(back.n_points, 4);
    assert_memory_equal(m.points, back.points, 4 * sizeof(*m.points));
    assert_int_equal(backup_manifest_point(&back, 0)->number, 6);
    assert_int_equal(backup_manifest_point(&back, 5)->number, 5);
    assert_null(backup_manifest_point(&back, 3));
    assert_int_equal(backup_manifest_last(&back, "a")->number, 5);
    assert_int_equal(backup_manifest_last(&back, "b")->number, 6);
    assert_null(backup_manifest_last(&back, "c"));
    assert_int_equal(backup_manifest_depth(&back, backup_manifest_point(&back, 5), "a"), 3);
    assert_int_equal(backup_manifest_depth(&back, backup_manifest_point(&back, 5), "b"), 2);
    assert_int_equal(backup_manifest_depth(&back, backup_manifest_point(&back, 6), "b"), 1);
    assert_int_equal(fstatat(fd, ".manifest.json.new", &st, 0), -1);
    backup_manifest_done(&m);
    backup_manifest_done(&back);
    snprintf(path, sizeof(path), "%s/manifest.json", dir);
    unlink(path);
    close(fd);
    rmdir(dir);
}

/* One change to a good manifest each. */
static void test_manifest_refused(void **state)
{
    static const struct {
        const char *old, *new;
    } rows[] = {
        { "\"caisson_backup\":1", "\"caisson_backup\":2" },
        { "\"vm\":\"web\"", "\"vm\":\"../web\"" },
        { "\"chain\":\"c\"", "\"chain\":7" },
        { "\"chain\":\"c\"", "\"chain\":\"c\",\"more\":1" },
        { "\"point\":2", "\"point\":1" },
        { "\"point\":2", "\"point\":0" },
        { "\"point\":2", "\"point\":7" },
        { "abcd2", "abcz2" },
        { "abcd2", "" },
        { "\"a-1.qcow2\"", "\"/etc/shadow\"" },
        { "\"a-1.qcow2\"", "\"..\"" },
        { "\"a-1.qcow2\"", "\"\"" },
        { "\"kind\":\"full\"", "\"kind\":\"half\"" },
        { "\"kind\":\"incremental\"", "\"kind\":\"full\"" },
        { "\"base\":1", "\"base\":2" },
        { "\"base\":1", "\"base\":4" },
        { "\"base\":1", "\"base\":null" },
        { "\"base\":null", "\"base\":1" },
        { "\"size\":1048576", "\"size\":0" },
        { "\"size\":1048576", "\"size\":-1" },
        { "\"copied\":77", "\"copid\":77" },
        { "\"disk\":\"b\"", "\"disk\":\"a\"" },
        { "\"disks\"", "\"discs\"" },
    };
    struct backup_manifest m = { 0 };
    char *text = NULL, *plain;
    size_t n = 0;

    (void)state;
    fill(&m);
    assert_int_equal(backup_manifest_to_json(&m, &text), 0);
    backup_manifest_done(&m);
    plain = calloc(1, strlen(text) + 1);
    for (const char *p = text; *p; p++) { /* without blanks */
        if (*p != ' ' && *p != '\n')
            plain[n++] = *p;
    }
    assert_int_equal(backup_manifest_from_json(plain, &m, NULL), 0);
    backup_manifest_done(&m);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        const char *at = strstr(plain, rows[i].old);
        struct err e = { 0 };
        char *changed = NULL;

        assert_non_null(at);
        assert_true(asprintf(&changed, "%.*s%s%s", (int)(at - plain), plain, rows[i].new, at + strlen(rows[i].old)) >
                    0);
        if (backup_manifest_from_json(changed, &m, &e) != -EINVAL || !e.text[0])
            fail_msg("%s instead of %s: %s", rows[i].new, rows[i].old, e.text);
        backup_manifest_done(&m);
        free(changed);
    }
    free(plain);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests),
        cmocka_unit_test(test_requests_refused),
        cmocka_unit_test(test_manifest),
        cmocka_unit_test(test_manifest_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
