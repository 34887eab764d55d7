/* Fuzz target: a stream of frames to the agent, and each document in it as a request, which must survive being written
 * and read again. */
#include <fcntl.h>
#include <json-c/json.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "proto/agent_msg.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_document(const char *text)
{
    struct agent_request q, again;
    json_object *o;
    struct err e;

    if (agent_request_from_json(text, &q, &e) < 0)
        return;
    o = agent_request_to_json(&q);
    CHECK(o && agent_request_from_json(json_object_to_json_string(o), &again, &e) == 0 && again.op == q.op);
    json_object_put(o);
    agent_request_done(&again);
    agent_request_done(&q);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct agent_link l;
    enum agent_frame kind;
    const uint8_t *frame;
    size_t len;
    int fds[2];

    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
    len = (size_t)send(fds[0], data, size, MSG_NOSIGNAL);
    CHECK(size == 0 || len <= size);
    close(fds[0]);
    agent_link_init(&l, fds[1]);
    while (agent_link_receive(&l, &kind, &frame, &len) > 0) {
        if (kind == AGENT_JSON)
            fuzz_document((const char *)frame);
    }
    agent_link_done(&l);
    close(fds[1]);
    return 0;
}
