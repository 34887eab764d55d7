#include "oci_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "base/buf.h"

struct oci_spec *rig_spec(const char *process, const char *linux_members)
{
    struct oci_spec *s = NULL;
    struct oci_why why = { 0 };
    struct buf b;
    int r;

    buf_init(&b, 1 << 20);
    buf_printf(
        &b,
        "{\"ociVersion\":\"1.0.2\",\"root\":{\"path\":\"rootfs\"},\"process\":{%s\"cwd\":\"/\",\"args\":[\"sh\"]},"
        "\"linux\":{%s\"namespaces\":[]}}",
        process, linux_members);
    assert_int_equal(buf_error(&b), 0);
    r = oci_spec_parse((const char *)b.data, b.len, &s, &why);
    if (r < 0)
        print_message("%s %s: %.*s\n", why.where, why.what, (int)b.len, (const char *)b.data);
    assert_int_equal(r, 0);
    buf_done(&b);
    return s;
}

int rig_compile(const char *seccomp, struct oci_bpf *ret, struct err *e)
{
    struct buf b;
    struct oci_spec *s;
    int r;

    buf_init(&b, 1 << 20);
    buf_printf(&b, "\"seccomp\":%s,", seccomp);
    buf_append(&b, "", 1);
    s = rig_spec("", (const char *)b.data);
    buf_done(&b);
    r = oci_seccomp_compile(&s->seccomp, ret, e);
    oci_spec_free(s);
    return r;
}

int rig_child(int (*fn)(void *arg), void *arg)
{
    int status;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0)
        _exit(fn(arg));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

void rig_child_ok(int (*fn)(void *arg), void *arg)
{
    assert_int_equal(rig_child(fn, arg), 0);
}

unsigned long long rig_status_hex(const char *name)
{
    char line[256];
    unsigned long long n = ~0ULL;
    FILE *f = fopen("/proc/thread-self/status", "re");

    while (f && fgets(line, sizeof(line), f)) {
        if (strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ':')
            n = strtoull(line + strlen(name) + 1, NULL, 16);
    }
    if (f)
        fclose(f);
    return n;
}
