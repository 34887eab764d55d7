/* caisson-agent at a Unix socket, and its client's API, in one program so that sanitizers see both: what an exec
 * carries in both directions, its end, errors, archives, clients that vanish or talk nonsense. What needs a guest is in
 * tests/boot/agent.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/main.h"
#include "base/bits.h"
#include "proto/agent_client.h"

struct fixture {
    char dir[64], path[80];
    pid_t agent;
};

static int dial(const struct fixture *f)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", f->path);
    for (unsigned i = 0; connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0; i++) {
        assert_true(i < 3000);
        usleep(10000);
    }
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    return fd;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    snprintf(f->dir, sizeof(f->dir), "/tmp/test_agent.XXXXXX");
    if (!mkdtemp(f->dir))
        return -1;
    snprintf(f->path, sizeof(f->path), "%s/agent", f->dir);
    f->agent = fork();
    if (f->agent == 0)
        _exit(agent_main(3, (char *[]){ (char[]){ "caisson-agent" }, (char[]){ "--unix" }, f->path, NULL }));
    *state = f;
    return f->agent < 0 ? -1 : 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    int status;

    kill(f->agent, SIGTERM);
    if (waitpid(f->agent, &status, 0) != f->agent || status != 0)
        return -1;
    unlink(f->path);
    if (rmdir(f->dir) < 0)
        return -1;
    free(f);
    return 0;
}

/* Output of a program, as far as it fits. */
struct said {
    size_t n[2];
    uint8_t bytes[2][1 << 16];
    uint64_t sum; /* of all of its standard output */
};

static int keep(void *opaque, bool is_err, const void *data, size_t len)
{
    struct said *s = opaque;
    size_t part = MIN(len, sizeof(s->bytes[0]) - s->n[is_err]);

    memcpy(s->bytes[is_err] + s->n[is_err], data, part);
    s->n[is_err] += part;
    for (size_t i = 0; i < len && !is_err; i++)
        s->sum += ((const uint8_t *)data)[i];
    return 0;
}

/* Run a program; in: its input, -1: none. Returns its status or the error. */
static int run(struct fixture *f, struct agent_request *q, int in, int timeout_ms, struct said *s, struct err *e)
{
    const struct agent_io io = {
        .in = in, .out = -1, .err = -1, .signals = -1, .terminal = -1, .output = keep, .opaque = s
    };
    int fd = dial(f), status = -1, r;

    *s = (struct said){ 0 };
    q->op = AGENT_EXEC;
    q->stdin_open = in >= 0;
    r = agent_exec(fd, q, &io, timeout_ms, &status, e);
    close(fd);
    return r < 0 ? r : status;
}

static int shell(struct fixture *f, const char *script, struct said *s)
{
    char *argv[] = { (char[]){ "sh" }, (char[]){ "-c" }, (char *)(uintptr_t)script, NULL };
    struct agent_request q = { .argv = argv };
    struct err e;

    return run(f, &q, -1, -1, s, &e);
}

static void test_exec(void **state)
{
    static struct said s;
    char *argv[] = { (char[]){ "sh" }, (char[]){ "-c" }, (char[]){ "echo $A; pwd; tty" }, NULL };
    char *env[] = { (char[]){ "A=of the environment" }, NULL }, *nothing[] = { (char[]){ "/not/there" }, NULL };
    struct agent_request q = { .argv = argv, .env = env, .cwd = (char[]){ "/usr" } };
    struct err e;

    assert_int_equal(shell(*state, "echo out; echo err >&2; exit 7", &s), 7);
    assert_memory_equal(s.bytes[0], "out\n", 4);
    assert_memory_equal(s.bytes[1], "err\n", 4);
    assert_int_equal(shell(*state, "kill -TERM $$", &s), 128 + SIGTERM);
    assert_int_equal(run(*state, &q, -1, -1, &s, &e), 1);
    assert_memory_equal(s.bytes[0], "of the environment\n/usr\n", 24);
    q.tty = true;
    q.rows = 10;
    assert_int_equal(run(*state, &q, -1, -1, &s, &e), 0);
    assert_memory_equal(s.bytes[0], "of the environment\r\n/usr\r\n/dev/pts/", 35);
    q.cwd = (char[]){ "/not/there" };
    assert_int_equal(run(*state, &q, -1, -1, &s, &e), -ENOENT);
    q = (struct agent_request){ .argv = nothing };
    assert_int_equal(run(*state, &q, -1, -1, &s, &e), -ENOENT);
    assert_string_equal(e.text, "/not/there: there is no such program in the guest");
    q = (struct agent_request){ .argv = argv, .user = (char[]){ "nobody-of-that-name" } };
    assert_int_equal(run(*state, &q, -1, -1, &s, &e), -ENOENT);
    /* What it leaves running does not keep the caller. */
    assert_int_equal(shell(*state, "echo started; sleep 3 & exit 5", &s), 5);
    assert_memory_equal(s.bytes[0], "started\n", 8);
}

/* 3 MiB there and back, while neither side is ready for all of it. */
static void test_streams(void **state)
{
    static struct said s;
    struct fixture *f = *state;
    char *argv[] = { (char[]){ "cat" }, NULL }, *deaf[] = { (char[]){ "true" }, NULL };
    struct agent_request q = { .argv = argv };
    FILE *file = tmpfile();
    uint64_t sum = 0;
    struct err e;

    for (unsigned i = 0; i < 3 << 20; i++) {
        uint8_t byte = (uint8_t)(i * 31 + i / 1000);

        sum += byte;
        assert_int_equal(fputc(byte, file), byte);
    }
    assert_int_equal(fflush(file), 0);
    assert_int_equal(lseek(fileno(file), 0, SEEK_SET), 0);
    assert_int_equal(run(f, &q, fileno(file), -1, &s, &e), 0);
    assert_true(s.sum == sum);
    q.argv = deaf;
    assert_int_equal(lseek(fileno(file), 0, SEEK_SET), 0);
    assert_int_equal(run(f, &q, fileno(file), -1, &s, &e), 0);
    fclose(file);
    assert_int_equal(shell(f, "head -c 3000000 /dev/zero | tr '\\0' '\\1'", &s), 0);
    assert_true(s.sum == 3000000);
}

static int give_up(void *opaque, bool is_err, const void *data, size_t len)
{
    return -ECANCELED;
}

/* Wait until a file is there, and remove it. */
static void appears(const char *path)
{
    struct stat st;

    for (unsigned i = 0; stat(path, &st) < 0; i++) {
        assert_true(i < 3000);
        usleep(10000);
    }
    unlink(path);
}

static void test_lost(void **state)
{
    static struct said s;
    const struct agent_io io = { .in = -1, .out = -1, .err = -1, .signals = -1, .terminal = -1, .output = give_up };
    struct fixture *f = *state;
    int fd = dial(f), status;
    char script[200], *argv[] = { (char[]){ "sh" }, (char[]){ "-c" }, script, NULL };
    struct agent_request q = { .op = AGENT_EXEC, .argv = argv };
    int zeros = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    struct err e;

    /* A client that gives up: its program gets a hang-up. */
    snprintf(script, sizeof(script),
             "exec 2>/dev/null; trap 'echo >%s/gone; exit' HUP; echo up; while :; do sleep 0.05; done", f->dir);
    assert_int_equal(agent_exec(fd, &q, &io, -1, &status, &e), -ECANCELED);
    close(fd);
    snprintf(script, sizeof(script), "%s/gone", f->dir);
    appears(script);
    snprintf(script, sizeof(script), "sleep 1000");
    assert_int_equal(run(f, &q, -1, 300, &s, &e), -ETIMEDOUT);
    /* Likewise where all that may be kept for the program waits for it. */
    snprintf(script, sizeof(script), "exec 2>/dev/null; trap 'echo >%s/gone; exit' HUP; while :; do sleep 0.05; done",
             f->dir);
    assert_int_equal(run(f, &q, zeros, 1000, &s, &e), -ETIMEDOUT);
    close(zeros);
    snprintf(script, sizeof(script), "%s/gone", f->dir);
    appears(script);
}

static void test_other_requests(void **state)
{
    struct fixture *f = *state;
    struct agent_request q = { .op = AGENT_PING };
    json_object *reply, *v;
    struct err e;
    int fd = dial(f);

    assert_int_equal(agent_call(fd, &q, 30000, &reply, &e), 0);
    assert_true(json_object_object_get_ex(reply, "version", &v));
    assert_string_equal(json_object_get_string(v), CAISSON_VERSION);
    json_object_put(reply);
    close(fd);
    fd = dial(f);
    q.op = AGENT_SIGNAL; /* for nobody */
    q.signal = 9;
    assert_int_equal(agent_call(fd, &q, 30000, NULL, &e), -EINVAL);
    close(fd);
}

/* An archive made by this machine's tar. */
static void test_archives(void **state)
{
    struct fixture *f = *state;
    char script[400], path[100];
    static struct said s;
    FILE *tar = tmpfile(), *back = tmpfile();
    struct err e;
    int fd;

    snprintf(script, sizeof(script), "cd %s && mkdir a b && echo content >a/file && tar -cf - a", f->dir);
    assert_int_equal(shell(f, script, &s), 0);
    assert_int_equal(fwrite(s.bytes[0], 1, s.n[0], tar), s.n[0]);
    assert_int_equal(fflush(tar), 0);
    rewind(tar);
    snprintf(path, sizeof(path), "%s/b", f->dir);
    fd = dial(f);
    assert_int_equal(agent_put(fd, path, NULL, fileno(tar), &e), 0);
    close(fd);
    snprintf(path, sizeof(path), "%s/b/a", f->dir);
    fd = dial(f);
    assert_int_equal(agent_get(fd, path, NULL, fileno(back), &e), 0);
    close(fd);
    assert_int_equal(fseek(back, 0, SEEK_END), 0);
    assert_true(ftell(back) >= 1536);
    fd = dial(f);
    assert_int_equal(agent_get(fd, "/not/there", NULL, fileno(back), &e), -ENOENT);
    close(fd);
    fclose(tar);
    fclose(back);
    snprintf(script, sizeof(script), "cmp %s/a/file %s/b/a/file && rm -r %s/a %s/b", f->dir, f->dir, f->dir, f->dir);
    assert_int_equal(shell(f, script, &s), 0);
}

static void test_nonsense(void **state)
{
    static const char *const documents[] = { "",
                                             "x",
                                             "[]",
                                             "{}",
                                             "{\"op\":\"exec\"}",
                                             "{\"op\":\"exec\",\"argv\":[]}",
                                             "{\"op\":\"exec\",\"argv\":[1]}",
                                             "{\"op\":\"exec\",\"argv\":[\"\"]}",
                                             "{\"op\":\"exec\",\"argv\":[\"a\\u0000b\"]}",
                                             "{\"op\":\"exec\",\"argv\":[\"true\"],\"rows\":65536}",
                                             "{\"op\":\"put\",\"path\":\"relative\"}",
                                             "{\"op\":\"get\"}",
                                             "{\"op\":\"sync-time\",\"time_ns\":-1}",
                                             "{\"op\":\"ping\",\"more\":1}" };
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(documents); i++) {
        uint8_t header[8] = { 0 }, got[1000];
        int fd = dial(f);

        (void)fcntl(fd, F_SETFL, 0);
        store_le32(header, (uint32_t)strlen(documents[i]));
        assert_int_equal(write(fd, header, 8), 8);
        assert_int_equal(write(fd, documents[i], strlen(documents[i])), strlen(documents[i]));
        assert_int_equal(recv(fd, got, 8, MSG_WAITALL), 8);
        assert_true(read(fd, got, sizeof(got) - 1) > 0);
        close(fd);
    }
    for (unsigned kind = 0; kind < 8; kind++) { /* too long, or of a kind that there is not, or not a request */
        uint8_t header[8] = { 0xff, 0xff, 0xff, kind < 4 ? 0xff : 0, (uint8_t)kind }, byte;
        int fd = dial(f);

        (void)fcntl(fd, F_SETFL, 0);
        assert_int_equal(write(fd, header, 8), 8);
        assert_int_equal(shutdown(fd, SHUT_WR), 0);
        assert_true(read(fd, &byte, 1) <= 0);
        close(fd);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_exec, setup, teardown),
        cmocka_unit_test_setup_teardown(test_streams, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lost, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_requests, setup, teardown),
        cmocka_unit_test_setup_teardown(test_archives, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nonsense, setup, teardown),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
