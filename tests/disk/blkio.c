/* Executes a script of node calls on an image, for the tests beside this file.
 *
 * blkio [-f FORMAT] [-r] [-n] [-c CACHE] [-s SECRETFILE] [-t THREADS] IMAGE < script
 *   -r read-only, -n without the backing chain, -c writeback|none|unsafe, -t: line i of the script is executed by
 * thread i % THREADS, in order within each thread Lines: "w OFF LEN BYTE" write, "p OFF LEN BYTE" write compressed, "z
 * OFF LEN" write zeroes, "u OFF LEN" likewise and unmap, "d OFF LEN" discard, "f" flush, "r OFF LEN BYTE" read and
 * compare, "s SIZE" resize. Each line i is answered by "begin i" and "done i", each by one write(2), so that the order
 * of the answers of all threads is that of the events. Ends with 1 and a line on stderr at the first failure. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/num.h"
#include "block/open.h"

#define BLKIO_LEN_MAX (64u << 20)
#define BLKIO_THREADS_MAX 16

struct blkio_line {
    char op;
    uint64_t n[3];
};

struct blkio {
    struct blk_node *node;
    struct blkio_line *lines;
    size_t n_lines;
    unsigned threads;
    atomic_bool failed;
};

struct blkio_thread {
    struct blkio *io;
    unsigned index;
    pthread_t thread;
};

static void blkio_say(const char *what, size_t i)
{
    char text[64];
    int len = snprintf(text, sizeof(text), "%s %zu\n", what, i);

    if (write(STDOUT_FILENO, text, (size_t)len) != len)
        _exit(1); /* nobody listens any more */
}

static int blkio_read(struct blkio *io, const struct blkio_line *l)
{
    AUTO_FREE uint8_t *data = malloc(l->n[1]);
    int res = data ? blk_pread(io->node, l->n[0], data, l->n[1]) : -ENOMEM;

    for (uint64_t i = 0; res == 0 && i < l->n[1]; i++) {
        if (data[i] != (uint8_t)l->n[2]) {
            fprintf(stderr, "blkio: byte %llu is %u instead of %u\n", (unsigned long long)(l->n[0] + i), data[i],
                    (unsigned)l->n[2]);
            return -EILSEQ;
        }
    }
    return res;
}

static int blkio_write(struct blkio *io, const struct blkio_line *l)
{
    AUTO_FREE uint8_t *data = malloc(l->n[1]);

    if (!data)
        return -ENOMEM;
    memset(data, (int)l->n[2], l->n[1]);
    if (l->op == 'w')
        return blk_pwrite(io->node, l->n[0], data, l->n[1]);
    return io->node->ops->pwrite_compressed ? io->node->ops->pwrite_compressed(io->node, l->n[0], data, l->n[1])
                                            : -ENOTSUP;
}

static int blkio_do(struct blkio *io, const struct blkio_line *l)
{
    struct blk_why why = { 0 };
    int res;

    switch (l->op) {
    case 'w':
    case 'p':
        return blkio_write(io, l);
    case 'z':
        return blk_write_zeroes(io->node, l->n[0], l->n[1], 0);
    case 'u':
        return blk_write_zeroes(io->node, l->n[0], l->n[1], BLK_ZERO_UNMAP);
    case 'd':
        return blk_discard(io->node, l->n[0], l->n[1]);
    case 'f':
        return blk_flush(io->node);
    case 'r':
        return blkio_read(io, l);
    case 'h':
        return pause() < 0 ? -errno : 0;
    case 's':
        res = blk_resize(io->node, l->n[0], BLK_PREALLOC_OFF, &why);
        if (res < 0 && why.text)
            fprintf(stderr, "blkio: %s\n", why.text);
        return res;
    default:
        return -EINVAL;
    }
}

static void *blkio_run(void *opaque)
{
    struct blkio_thread *t = opaque;
    struct blkio *io = t->io;

    for (size_t i = t->index; i < io->n_lines && !io->failed; i += io->threads) {
        const struct blkio_line *l = &io->lines[i];
        int res;

        blkio_say("begin", i);
        res = blkio_do(io, l);
        if (res < 0) {
            fprintf(stderr, "blkio: line %zu: %c %llu %llu %llu: %s\n", i, l->op, (unsigned long long)l->n[0],
                    (unsigned long long)l->n[1], (unsigned long long)l->n[2], strerror(-res));
            io->failed = true;
            return NULL;
        }
        blkio_say("done", i);
    }
    return NULL;
}

static int blkio_parse(char *text, struct blkio_line *l)
{
    char *p = text + 1;

    text[strcspn(text, "\n")] = '\0';
    *l = (struct blkio_line){ .op = text[0] };
    for (unsigned i = 0; i < 3 && *p == ' '; i++) {
        size_t len = strcspn(++p, " ");
        bool last = p[len] == '\0';

        p[len] = '\0';
        if (num_parse_u64(p, 0, INT64_MAX, &l->n[i]) < 0)
            return -EINVAL;
        p += len;
        if (!last)
            *p = ' ';
    }
    return l->n[1] > BLKIO_LEN_MAX ? -EINVAL : 0;
}

static int blkio_load(struct blkio *io)
{
    char text[256];
    size_t room = 0;

    while (fgets(text, sizeof(text), stdin)) {
        if (io->n_lines == room) {
            struct blkio_line *more = realloc(io->lines, (room = room * 2 + 64) * sizeof(*more));

            if (!more)
                return -ENOMEM;
            io->lines = more;
        }
        if (blkio_parse(text, &io->lines[io->n_lines++]) < 0) {
            fprintf(stderr, "blkio: line %zu makes no sense\n", io->n_lines - 1);
            return -EINVAL;
        }
    }
    return 0;
}

static int blkio_cache(const char *name, enum blk_cache *ret)
{
    static const char *const names[] = { [BLK_CACHE_WRITEBACK] = "writeback",
                                         [BLK_CACHE_NONE] = "none",
                                         [BLK_CACHE_WRITETHROUGH] = "writethrough",
                                         [BLK_CACHE_UNSAFE] = "unsafe" };

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (strcmp(names[i], name) == 0) {
            *ret = (enum blk_cache)i;
            return 0;
        }
    }
    return -EINVAL;
}

static int blkio_options(int argc, char **argv, struct blk_open_config *config, struct blkio *io, uint8_t secret[256])
{
    AUTO_FD int fd = -1;
    uint64_t n = 1;
    ssize_t got;
    int c;

    while ((c = getopt(argc, argv, "f:rnc:s:t:")) != -1) {
        if (c == 'f') {
            config->format = optarg;
        } else if (c == 'r') {
            config->read_only = true;
        } else if (c == 'n') {
            config->backing = BLK_BACKING_NONE;
        } else if (c == 's') {
            fd = open(optarg, O_RDONLY | O_CLOEXEC);
            got = fd < 0 ? -1 : read(fd, secret, 256);
            config->secret_len = got < 0 ? 0 : (size_t)got;
            config->secret = secret;
        } else if ((c == 'c' && blkio_cache(optarg, &config->cache) < 0) ||
                   (c == 't' && num_parse_u64(optarg, 1, BLKIO_THREADS_MAX, &n) < 0) || c == '?') {
            return -EINVAL;
        }
    }
    io->threads = (unsigned)n;
    config->path = argv[optind];
    return optind + 1 == argc ? 0 : -EINVAL;
}

int main(int argc, char **argv)
{
    struct blk_open_config config = { 0 };
    struct blkio io = { 0 };
    struct blkio_thread threads[BLKIO_THREADS_MAX];
    struct blk_why why = { 0 };
    uint8_t secret[256];
    int res;

    if (blkio_options(argc, argv, &config, &io, secret) < 0) {
        fprintf(stderr, "usage: blkio [-f FORMAT] [-r] [-n] [-c CACHE] [-s SECRETFILE] [-t THREADS] IMAGE < script\n");
        return 2;
    }
    if (blkio_load(&io) < 0)
        return 2;
    res = blk_open(&config, &io.node, &why);
    if (res < 0) {
        fprintf(stderr, "blkio: %s: %s\n", why.path, why.text ? why.text : strerror(-res));
        free(io.lines);
        return 1;
    }
    for (unsigned i = 0; i < io.threads; i++) {
        threads[i] = (struct blkio_thread){ .io = &io, .index = i };
        if (pthread_create(&threads[i].thread, NULL, blkio_run, &threads[i]) != 0)
            return 1;
    }
    for (unsigned i = 0; i < io.threads; i++)
        pthread_join(threads[i].thread, NULL);
    res = blk_flush(io.node);
    if (res < 0)
        fprintf(stderr, "blkio: the last flush: %s\n", strerror(-res));
    blk_node_close(io.node);
    free(io.lines);
    return io.failed || res < 0;
}
