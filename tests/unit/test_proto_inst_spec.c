/* Documents of instances: there and back, what is refused, and what happens without memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fault.h"
#include "proto/inst_spec.h"
#include "proto/vm_spec.h"
#include "refused.h"

/* Every field has a value that is not its default. */
static const char container[] =
    "{\"kind\":\"container\",\"image\":{\"id\":\"sha256:1\",\"name\":\"docker.io/library/debian:12\"},"
    "\"restart\":{\"policy\":\"on-failure\",\"max\":7},\"stop\":{\"signal\":2,\"timeout_ns\":5},"
    "\"logs\":{\"max_size\":4096,\"files\":9},\"health\":{\"command\":[\"a\",\"b\"],\"interval_ns\":100000000,"
    "\"timeout_ns\":200000000,\"start_period_ns\":3,\"retries\":100},\"labels\":{\"k\":\"v=w\",\"e\":\"\"},"
    "\"remove\":false,\"container\":{\"args\":[\"sh\",\"-c\",\"\"],\"env\":[\"A=B=C\",\"D=\"],\"cwd\":\"/w\","
    "\"user\":\"0:0\",\"hostname\":\"h\",\"terminal\":true,\"stdin_open\":true,\"read_only\":true,"
    "\"privileged\":true,\"init\":true,\"network\":\"none\",\"cap_add\":[\"A\"],\"cap_drop\":[\"B\"],"
    "\"security\":[\"C\"],\"devices\":[\"D\"],\"sysctls\":[\"e=f\"],\"ulimits\":[\"F\"],\"dns\":[\"G\"],"
    "\"hosts\":[\"H\"],\"memory\":1,\"memory_swap\":2,\"cpus\":0.25,\"cpu_shares\":3,\"pids\":4,\"cpuset\":\"0\","
    "\"shm_size\":5,\"ports\":[{\"protocol\":\"udp\",\"host_addr\":\"::1\",\"host_port\":6,\"port\":7}],"
    "\"mounts\":[{\"source\":\"/a\",\"target\":\"/b\",\"options\":\"ro\",\"kind\":\"bind\"},"
    "{\"source\":null,\"target\":\"/t\",\"options\":null,\"kind\":\"tmpfs\"}]}}";

static void test_back_and_forth(void **state)
{
    json_object *before = json_tokener_parse(container), *after;
    struct inst_spec s;
    struct err e = { 0 };

    (void)state;
    assert_non_null(before);
    if (inst_spec_from_object(before, &s, &e) < 0)
        fail_msg("%s", e.text);
    assert_int_equal(s.container.ports[0].port, 7);
    assert_true(s.container.ports[0].udp);
    assert_string_equal(s.labels.at[0], "k=v=w");
    assert_string_equal(s.labels.at[1], "e=");
    assert_int_equal(s.container.mounts[1].kind, INST_MOUNT_TMPFS);
    after = inst_spec_to_object(&s);
    if (!json_object_equal(before, after))
        fail_msg("%s", json_object_to_json_string(after));
    inst_spec_done(&s);
    json_object_put(before);
    json_object_put(after);
}

static void test_defaults(void **state)
{
    struct inst_spec s;
    struct err e = { 0 };

    (void)state;
    assert_int_equal(inst_spec_from_json("{\"kind\":\"container\",\"container\":{\"args\":[\"a\"]}}", &s, &e), 0);
    assert_int_equal(s.restart, INST_RESTART_NO);
    assert_int_equal(s.stop_signal, 15);
    assert_int_equal(s.stop_timeout_ns, 10000000000ULL);
    assert_int_equal(s.log_files, 3);
    assert_int_equal(s.health.command.n, 0);
    assert_null(s.container.cwd);
    inst_spec_done(&s);
    assert_int_equal(inst_spec_from_json("{\"kind\":\"vm\",\"vm\":{\"kernel\":\"/k\"}}", &s, &e), 0);
    assert_int_equal(s.vm->memory, VM_MEMORY_DEFAULT);
    inst_spec_done(&s);
    inst_spec_done(&s); /* twice is harmless */
}

static void test_restart(void **state)
{
    enum inst_restart restart = INST_RESTART_NO;
    unsigned max = 9;

    (void)state;
    assert_int_equal(inst_restart_parse("on-failure:5", &restart, &max), 0);
    assert_int_equal(restart, INST_RESTART_ON_FAILURE);
    assert_int_equal(max, 5);
    assert_int_equal(inst_restart_parse("unless-stopped", &restart, &max), 0);
    assert_int_equal(max, 0);
    assert_string_equal(inst_restart_name(restart), "unless-stopped");
    for (const char *const *bad = (const char *const[]){ "", "on", "always:3", "on-failure:", "on-failure:0",
                                                         "on-failure:-1", "on-failure:1000001", "no ", NULL };
         *bad; bad++)
        assert_int_equal(inst_restart_parse(*bad, &restart, &max), -EINVAL);
    assert_int_equal(restart, INST_RESTART_UNLESS_STOPPED);
}

static int read_refused(const char *text, struct err *e)
{
    struct inst_spec s;
    int r = inst_spec_from_json(text, &s, e);

    inst_spec_done(&s);
    return r;
}

#define C(fields) "{\"kind\":\"container\",\"container\":{\"args\":[\"a\"]," fields "}}"
#define I(fields) "{\"kind\":\"container\",\"container\":{\"args\":[\"a\"]}," fields "}"
#define V(fields) "{\"kind\":\"vm\",\"vm\":{\"kernel\":\"/k\"," fields "}}"

static void test_refused(void **state)
{
    static const struct refused rows[] = {
        { "", "JSON" },
        { "{}", "'kind' is missing" },
        { "{\"kind\":\"pod\"}", "vm or container" },
        { "{\"kind\":\"container\"}", "no command" },
        { "{\"kind\":\"container\",\"vm\":{}}", "unknown field 'vm'" },
        { "{\"kind\":\"vm\",\"container\":{}}", "unknown field 'container'" },
        { "{\"kind\":\"vm\"}", "no kernel" },
        { V("\"name\":\"x\""), "not for instances" },
        { V("\"nets\":[{\"kind\":\"network\",\"network\":\"n\",\"fds\":[5,6,7]}]"), "fds" },
        { I("\"colour\":1"), "unknown field 'colour'" },
        { I("\"restart\":{\"policy\":\"often\"}"), "unless-stopped" },
        { I("\"restart\":{\"policy\":\"always\",\"max\":1}"), "on-failure only" },
        { I("\"restart\":{\"policy\":\"always\"},\"remove\":true"), "exclude" },
        { I("\"restart\":[]"), "'restart'" },
        { I("\"stop\":{\"signal\":0}"), "no signal" },
        { I("\"stop\":{\"signal\":65}"), "no signal" },
        { I("\"stop\":{\"timeout_ns\":9223372036854775807}"), "too long" },
        { I("\"logs\":{\"max_size\":1}"), "at least 4K" },
        { I("\"logs\":{\"files\":0}"), "not possible" },
        { I("\"health\":{\"command\":[\"\"]}"), "no command" },
        { I("\"health\":{\"command\":[\"a\"],\"retries\":0}"), "retries" },
        { I("\"health\":{\"command\":[\"a\"],\"interval_ns\":1}"), "interval" },
        { I("\"labels\":{\"\":\"x\"}"), "--label" },
        { I("\"labels\":{\"a=b\":\"x\"}"), "'='" },
        { I("\"labels\":[]"), "'labels'" },
        { I("\"image\":{\"id\":1}"), "'id'" },
        { C("\"env\":[\"novalue\"]"), "NAME=VALUE" },
        { C("\"env\":[\"=x\"]"), "NAME=VALUE" },
        { C("\"env\":[\"a=\\u0000b\"]"), "zero byte" },
        { C("\"cwd\":\"relative\""), "absolute" },
        { C("\"network\":\"../net\""), "--network" },
        { C("\"ports\":[{\"port\":0}]"), "'port'" },
        { C("\"ports\":[{}]"), "port 0" },
        { C("\"ports\":[{\"port\":1,\"host_port\":65536}]"), "'host_port'" },
        { C("\"mounts\":[{\"target\":\"x\"}]"), "absolute" },
        { C("\"mounts\":[{\"target\":\"/x\"}]"), "source" },
        { C("\"mounts\":[{\"target\":\"/x\",\"kind\":\"volume\",\"source\":\"../x\"}]"), "not a name" },
        { C("\"mounts\":[{\"target\":\"/x\",\"kind\":\"tmpfs\",\"source\":\"/y\"}]"), "no source" },
        { C("\"mounts\":[{\"target\":\"/x\",\"kind\":\"nfs\"}]"), "'kind'" },
        { C("\"cpus\":-1"), "--cpus" },
        { C("\"cpus\":1e99"), "--cpus" },
        { C("\"cpus\":\"1\""), "'cpus'" },
        { C("\"memory\":-1"), "'memory'" },
        { C("\"memory\":5,\"memory_swap\":4"), "--memory-swap" },
        { C("\"terminal\":1"), "'terminal'" },
        { C("\"env\":{}"), "'env'" },
    };

    (void)state;
    refused_all(rows, ARRAY_SIZE(rows), read_refused);
}

/* Lists and texts without end. */
static void test_huge(void **state)
{
    size_t size = INST_SPEC_TEXT_MAX + 4096;
    char *text = malloc(size);
    struct inst_spec s;
    struct err e = { 0 };
    size_t len;

    (void)state;
    len = (size_t)snprintf(text, size, "{\"kind\":\"container\",\"container\":{\"args\":[\"a\"");
    for (int i = 0; i < INST_LIST_MAX; i++)
        len += (size_t)snprintf(text + len, size - len, ",\"\"");
    snprintf(text + len, size - len, "]}}");
    assert_int_equal(inst_spec_from_json(text, &s, &e), -EINVAL);
    assert_non_null(strstr(e.text, "more than 4096"));
    inst_spec_done(&s);
    memset(text, ' ', size - 1);
    text[size - 1] = '\0';
    assert_int_equal(inst_spec_from_json(text, &s, &e), -EINVAL);
    assert_non_null(strstr(e.text, "longer than"));
    inst_spec_done(&s);
    memset(text, '[', size - 1);
    text[1000] = '\0';
    assert_int_equal(inst_spec_from_json(text, &s, &e), -EINVAL);
    inst_spec_done(&s);
    free(text);
}

static void test_no_memory(void **state)
{
    json_object *o = json_tokener_parse(container);
    struct inst_spec s;
    struct err e = { 0 };
    int r;

    (void)state;
    for (unsigned n = 1; fault_begin(n), r = inst_spec_from_object(o, &s, &e), fault_end(); n++) {
        assert_int_equal(r, -ENOMEM);
        inst_spec_done(&s);
    }
    assert_int_equal(r, 0);
    inst_spec_done(&s);
    json_object_put(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_back_and_forth), cmocka_unit_test(test_defaults), cmocka_unit_test(test_restart),
        cmocka_unit_test(test_refused),        cmocka_unit_test(test_huge),     cmocka_unit_test(test_no_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
