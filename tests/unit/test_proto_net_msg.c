/* Messages to the switch's process: requests there and back, long texts, descriptors, and peers that send something
 * else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/net_msg.h"

struct pair {
    int a, b;
};

static void begin(struct pair *p)
{
    int s[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s), 0);
    *p = (struct pair){ s[0], s[1] };
}

static void end(struct pair *p)
{
    close(p->a);
    close(p->b);
}

static void test_requests(void **state)
{
    struct net_msg_request r = {
        .op = NET_MSG_ATTACH,
        .attach = { .vm = "web",
                    .nic = 3,
                    .mac = { 2, 0, 0, 0, 0, 1 },
                    .host = "h",
                    .vlan = 4094,
                    .trunk = { 1, 4094 },
                    .n_trunk = 2,
                    .isolated = true,
                    .no_filter = true,
                    .rate_in = 1ULL << 40,
                    .rate_out = 2,
                    .burst = 3 },
    };
    struct net_msg_request got;
    struct err e = { 0 };
    char *text = NULL;

    assert_int_equal(net_msg_request_to_json(&r, &text), 0);
    assert_int_equal(net_msg_request_from_json(text, &got, &e), 0);
    assert_memory_equal(&got, &r, sizeof(r));
    free(text);
    r = (struct net_msg_request){
        .op = NET_MSG_FORWARD_ADD,
        .forward = { .udp = true, .host_addr = "::1", .host_port = 1, .guest_port = 65535, .guest = "g" }
    };
    assert_int_equal(net_msg_request_to_json(&r, &text), 0);
    assert_int_equal(net_msg_request_from_json(text, &got, &e), 0);
    assert_memory_equal(&got, &r, sizeof(r));
    free(text);
    r = (struct net_msg_request){ .op = NET_MSG_CAPTURE, .port = "web.3", .max_bytes = 7 };
    assert_int_equal(net_msg_request_to_json(&r, &text), 0);
    assert_int_equal(net_msg_request_from_json(text, &got, &e), 0);
    assert_memory_equal(&got, &r, sizeof(r));
    free(text);
    assert_int_equal(net_msg_request_from_json("{\"op\":\"fly\"}", &got, &e), -EINVAL);
    assert_non_null(strstr(e.text, "attach"));
}

/* Texts of all lengths, with and without descriptors; what goes beyond a packet travels in a memfd. */
static void test_lengths(void **state)
{
    static const size_t lengths[] = { 1, 2, 100, (32 << 10) - 1, 32 << 10, (32 << 10) + 1, 3 << 20 };
    struct pair p;
    int fds[NET_MSG_FDS_MAX], zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    unsigned n;

    begin(&p);
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        for (unsigned with = 0; with <= NET_MSG_FDS_MAX; with++) {
            char *text = malloc(lengths[i] + 1), *got = NULL;
            int sent[NET_MSG_FDS_MAX] = { zero, zero, zero, zero };

            assert_non_null(text);
            memset(text, 'x', lengths[i]);
            text[lengths[i]] = '\0';
            assert_int_equal(net_msg_send(p.a, text, sent, with), 0);
            n = 99;
            assert_int_equal(net_msg_receive(p.b, &got, fds, &n), 0);
            assert_string_equal(got, text);
            assert_int_equal(n, with);
            for (unsigned k = 0; k < n; k++) {
                assert_int_equal(fcntl(fds[k], F_GETFD), FD_CLOEXEC);
                close(fds[k]);
            }
            free(text);
            free(got);
        }
    }
    assert_int_equal(net_msg_send(p.a, "", NULL, 0), -EINVAL);
    assert_int_equal(net_msg_send(p.a, "x", fds, NET_MSG_FDS_MAX + 1), -EINVAL);
    close(zero);
    end(&p);
}

/* Send raw bytes with n copies of a descriptor. */
static void send_raw(int sock, const void *data, size_t len, int fd, unsigned n)
{
    char control[CMSG_SPACE(sizeof(int) * 16)] = { 0 };
    struct iovec iov = { (void *)(uintptr_t)data, len };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

    if (n > 0) {
        struct cmsghdr *c;

        msg.msg_control = control;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * n);
        c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * n);
        for (unsigned i = 0; i < n; i++)
            memcpy(CMSG_DATA(c) + i * sizeof(int), &fd, sizeof(int));
    }
    assert_int_equal(sendmsg(sock, &msg, 0), len);
}

static void test_nonsense(void **state)
{
    static char big[(32 << 10) + 100];
    struct pair p;
    char *text = NULL;
    int fds[NET_MSG_FDS_MAX], null = open("/dev/null", O_RDWR | O_CLOEXEC), before, after;
    unsigned n = 99;

    begin(&p);
    before = dup(null);
    close(before);
    for (unsigned i = 1; i <= 16;
         i++) { /* with a good text and too many of them, a long text that is none, a short one */
        send_raw(p.a, "x", 1, null, i);
        assert_int_equal(net_msg_receive(p.b, &text, fds, &n), i <= NET_MSG_FDS_MAX ? 0 : -EBADMSG);
        if (i <= NET_MSG_FDS_MAX) {
            assert_int_equal(n, i);
            for (unsigned k = 0; k < n; k++)
                close(fds[k]);
            free(text);
        }
        send_raw(p.a, "", 1, null, i);
        assert_int_equal(net_msg_receive(p.b, &text, fds, &n), -EBADMSG);
        send_raw(p.a, "x\0y", 3, null, i);
        assert_int_equal(net_msg_receive(p.b, &text, fds, &n), -EBADMSG);
    }
    memset(big, 'x', sizeof(big));
    send_raw(p.a, big, sizeof(big), -1, 0);
    assert_int_equal(net_msg_receive(p.b, &text, fds, &n), -EBADMSG);
    send_raw(p.a, "", 1, -1, 0);
    assert_int_equal(net_msg_receive(p.b, &text, fds, &n), -EBADMSG);
    assert_int_equal(fcntl(p.b, F_SETFL, O_NONBLOCK), 0);
    assert_int_equal(net_msg_receive(p.b, &text, fds, &n), -EAGAIN);
    close(p.a);
    assert_int_equal(net_msg_receive(p.b, &text, fds, &n), -ECONNRESET);
    assert_int_equal(net_msg_send(p.b, "x", NULL, 0), -EPIPE); /* and no signal */
    p.a = dup(null);
    after = dup(null);
    assert_true(after <= before + 1); /* no descriptor is left */
    close(after);
    close(null);
    end(&p);
}

/* ---- calls ---- */

struct answer {
    int sock;
    const char *text;
    unsigned n_fds;
};

static void *answer_run(void *opaque)
{
    struct answer *a = opaque;
    int fds[NET_MSG_FDS_MAX] = { 0, 0, 0, 0 };
    char *text = NULL;
    unsigned n;

    if (net_msg_receive(a->sock, &text, fds, &n) < 0)
        return "receive";
    free(text);
    return net_msg_send(a->sock, a->text, (int[]){ 0, 0, 0, 0 }, a->n_fds) < 0 ? "send" : NULL;
}

/* Make a call that gets that answer. */
static int call(const char *text, unsigned n_fds, struct err *e)
{
    const struct net_msg_request r = { .op = NET_MSG_INFO };
    struct answer a = { .text = text, .n_fds = n_fds };
    struct json_object *reply = NULL;
    int fds[NET_MSG_FDS_MAX], res;
    unsigned n = 0;
    pthread_t thread;
    void *failed;
    struct pair p;

    begin(&p);
    a.sock = p.b;
    assert_int_equal(pthread_create(&thread, NULL, answer_run, &a), 0);
    res = net_msg_call(p.a, "net1", &r, NULL, 0, 20000, &reply, fds, &n, e);
    assert_int_equal(pthread_join(thread, &failed), 0);
    assert_null(failed);
    if (res == 0) {
        assert_int_equal(n, n_fds);
        assert_true(json_object_is_type(reply, json_type_object));
        json_object_put(reply);
    }
    for (unsigned i = 0; i < n; i++)
        close(fds[i]);
    end(&p);
    return res;
}

static void test_calls(void **state)
{
    static const char *const nonsense[] = { "x",
                                            "[]",
                                            "{}",
                                            "{\"ok\":1}",
                                            "{\"ok\":false}",
                                            "{\"ok\":false,\"code\":0,\"error\":\"x\"}",
                                            "{\"ok\":false,\"code\":5000,\"error\":\"x\"}",
                                            "{\"ok\":false,\"code\":5,\"error\":6}" };
    const struct net_msg_request r = { .op = NET_MSG_INFO };
    struct json_object *reply = NULL;
    struct err e = { 0 };
    struct pair p;

    assert_int_equal(call("{\"ok\":true}", 0, &e), 0);
    assert_int_equal(call("{\"ok\":true}", 3, &e), 0);
    assert_int_equal(call("{\"ok\":false,\"code\":17,\"error\":\"no room\"}", 2, &e), -EEXIST);
    assert_string_equal(e.text, "no room");
    for (size_t i = 0; i < sizeof(nonsense) / sizeof(nonsense[0]); i++) {
        e = (struct err){ 0 };
        assert_true(call(nonsense[i], 1, &e) < 0);
        assert_true(e.code > 0 && e.text[0]);
    }
    begin(&p);
    assert_int_equal(net_msg_call(p.a, "net1", &r, NULL, 0, 10, &reply, NULL, NULL, &e), -ETIMEDOUT);
    assert_non_null(strstr(e.text, "net1"));
    close(p.b);
    p.b = -1;
    assert_true(net_msg_call(p.a, "net1", &r, NULL, 0, 10, &reply, NULL, NULL, &e) < 0);
    close(p.a);
    assert_int_equal(net_msg_connect("/nonexistent/x.sock", &p.a), -ENOENT);
}

static void test_paths(void **state)
{
    char path[128], small[8], runtime[200];

    assert_int_equal(net_msg_socket_path("/run/x", "net1", path, sizeof(path)), 0);
    assert_string_equal(path, "/run/x/net/net1.sock");
    assert_int_equal(net_msg_socket_dir("/run/x", path, sizeof(path)), 0);
    assert_string_equal(path, "/run/x/net");
    assert_int_equal(net_msg_socket_dir("/run/x", small, sizeof(small)), -ENAMETOOLONG);
    memset(runtime, 'r', sizeof(runtime));
    runtime[97] = '\0';
    assert_int_equal(net_msg_socket_path(runtime, "n", path, sizeof(path)), -ENAMETOOLONG); /* 108 with its end */
    runtime[96] = '\0';
    assert_int_equal(net_msg_socket_path(runtime, "n", path, sizeof(path)), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests), cmocka_unit_test(test_lengths), cmocka_unit_test(test_nonsense),
        cmocka_unit_test(test_calls),    cmocka_unit_test(test_paths),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
