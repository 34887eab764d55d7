/* Requests to supervisors: there and back, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "proto/shim_msg.h"
#include "refused.h"

static void back_and_forth(const struct shim_msg_request *r)
{
    struct shim_msg_request back;
    struct err e = { 0 };
    char *text = NULL;

    assert_int_equal(shim_msg_request_to_json(r, &text), 0);
    if (shim_msg_request_from_json(text, &back, &e) < 0)
        fail_msg("%s: %s", text, e.text);
    assert_int_equal(back.op, r->op);
    assert_int_equal(back.in, r->in);
    assert_int_equal(back.replay, r->replay);
    assert_int_equal(back.columns, r->columns);
    assert_int_equal(back.rows, r->rows);
    assert_int_equal(back.keep, r->keep);
    assert_int_equal(back.has_timeout, r->has_timeout);
    assert_int_equal(back.timeout_ns, r->timeout_ns);
    assert_int_equal(back.signal, r->signal);
    assert_true(json_object_equal(back.value, r->value));
    shim_msg_request_done(&back);
    free(text);
}

static void test_requests(void **state)
{
    struct shim_msg_request r = { .value = json_tokener_parse("{\"op\": \"info\"}") };

    (void)state;
    back_and_forth(&(struct shim_msg_request){ .op = SHIM_MSG_INFO });
    back_and_forth(&(struct shim_msg_request){ .op = SHIM_MSG_ATTACH, .in = true });
    back_and_forth(&(struct shim_msg_request){ .op = SHIM_MSG_ATTACH, .replay = true });
    back_and_forth(&(struct shim_msg_request){ .op = SHIM_MSG_EOF });
    back_and_forth(&(struct shim_msg_request){ .op = SHIM_MSG_RESIZE, .columns = 65535, .rows = 1 });
    back_and_forth(&(struct shim_msg_request){ .op = SHIM_MSG_STOP, .has_timeout = true, .timeout_ns = INT64_MAX });
    back_and_forth(&(struct shim_msg_request){ .op = SHIM_MSG_STOP, .keep = true });
    back_and_forth(&(struct shim_msg_request){ .op = SHIM_MSG_KILL, .signal = 64 });
    for (enum shim_msg_op op = SHIM_MSG_PAUSE; op <= SHIM_MSG_RESTART; op++)
        back_and_forth(&(struct shim_msg_request){ .op = op });
    r.op = SHIM_MSG_VM;
    back_and_forth(&r);
    r.op = SHIM_MSG_UPDATE;
    back_and_forth(&r);
    shim_msg_request_done(&r);
}

static int read_refused(const char *text, struct err *e)
{
    struct shim_msg_request r;
    int res = shim_msg_request_from_json(text, &r, e);

    shim_msg_request_done(&r);
    return res;
}

static void test_refused(void **state)
{
    static const struct refused rows[] = {
        { "", "JSON" },
        { "[]", "JSON" },
        { "{}", "'op' is missing" },
        { "{\"op\": 3}", "op" },
        { "{\"op\": \"fly\"}", "op" },
        { "{\"op\": \"info\"} {}", "JSON" },
        { "{\"op\": \"info\", \"in\": true}", "unknown field 'in'" },
        { "{\"op\": \"attach\", \"in\": 1}", "'in'" },
        { "{\"op\": \"resize\", \"columns\": 80}", "needs columns and rows" },
        { "{\"op\": \"resize\", \"columns\": 65536, \"rows\": 1}", "'columns'" },
        { "{\"op\": \"stop\", \"timeout_ns\": -1}", "'timeout_ns'" },
        { "{\"op\": \"stop\", \"timeout_ns\": 1e99}", "'timeout_ns'" },
        { "{\"op\": \"stop\", \"signal\": 9}", "unknown field 'signal'" },
        { "{\"op\": \"kill\"}", "needs a signal" },
        { "{\"op\": \"kill\", \"signal\": 0}", "'signal'" },
        { "{\"op\": \"kill\", \"signal\": 65}", "'signal'" },
        { "{\"op\": \"vm\"}", "needs request" },
        { "{\"op\": \"vm\", \"request\": []}", "'request'" },
        { "{\"op\": \"update\", \"request\": {}}", "unknown field 'request'" },
    };

    (void)state;
    refused_all(rows, ARRAY_SIZE(rows), read_refused);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests),
        cmocka_unit_test(test_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
