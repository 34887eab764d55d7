/* What an NBD server says: the input is sent to the client whatever it asks for, over a socket in a file system of this
 * process's own folder; then the connection ends. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fuzz_block.h"

struct server {
    int listener;
    const uint8_t *data;
    size_t len;
};

/* The first two connections get the input, since the client may try again; more find nobody. What the client sends is
 * read away, so that it does not block. */
static void *serve(void *opaque)
{
    struct server *s = opaque;

    for (unsigned i = 0;; i++) {
        int fd = accept(s->listener, NULL, NULL);
        uint8_t away[4096];

        if (fd < 0)
            return NULL;
        if (i >= 2) {
            close(fd);
            continue;
        }
        (void)!send(fd, s->data, s->len, MSG_NOSIGNAL | MSG_DONTWAIT);
        shutdown(fd, SHUT_WR);
        while (recv(fd, away, sizeof(away), 0) > 0)
            ;
        close(fd);
    }
    return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    struct server s = { .listener = socket(AF_UNIX, SOCK_STREAM, 0), .data = data, .len = len };
    struct blk_node *n;
    pthread_t thread;
    char uri[160];

    signal(SIGPIPE, SIG_IGN);
    snprintf(at.sun_path, sizeof(at.sun_path), "/tmp/caisson-fuzz-nbd-%d", getpid());
    snprintf(uri, sizeof(uri), "nbd+unix:///disk?socket=%s", at.sun_path);
    unlink(at.sun_path);
    CHECK(s.listener >= 0 && bind(s.listener, (struct sockaddr *)&at, sizeof(at)) == 0 && listen(s.listener, 4) == 0);
    CHECK(pthread_create(&thread, NULL, serve, &s) == 0);
    if (blk_nbd_open(&(struct blk_open_config){ .path = uri }, &n, NULL) == 0)
        fuzz_read_all_over(n);
    shutdown(s.listener, SHUT_RDWR);
    pthread_join(thread, NULL);
    close(s.listener);
    unlink(at.sun_path);
    return 0;
}
