/* First process of the guest of vmm_crash.py, under a stock kernel: writes records to random places of every virtio
 * disk, without end, and says on the console what has been flushed. Which places follows from the run, the disk, the
 * worker and the sequence number alone, so that the host can work out what must be on the disks at any moment.
 *
 * Each disk has two workers, in stripes of their own: 0 goes through the page cache (whole pages, written back by the
 * fsync with a deep queue), 1 around it (O_DIRECT, any sectors). Statically linked: the initrd has no libc. crash RUN
 * as `rdinit=/crash ... -- RUN` on the kernel's command line */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SECTOR 512u
#define STRIPE 256u /* sectors */
#define WORKERS 2u
#define MOST 128u /* sectors of one operation */

struct worker {
    uint64_t state; /* of the random numbers */
    uint64_t run, disk, number;
    uint64_t n_stripes;
    int fd, console;
};

static void say(int console, const char *format, ...)
{
    char line[200];
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    if (n > 0 && write(console, line, (size_t)n) != n) /* one call: lines of several processes do not mix */
        _exit(2);
}

static void give_up(int console, const char *what)
{
    say(console, "CRASH-ERROR %s: %s\n", what, strerror(errno));
    for (;;)
        pause();
}

/* xorshift64*; vmm_crash.py has the same. */
static uint64_t next_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1dull >> 16;
}

static void fill(uint64_t *words, uint64_t tag, uint64_t sector)
{
    words[0] = tag;
    words[1] = sector;
    for (unsigned i = 2; i < SECTOR / 8; i++)
        words[i] = tag * 0x9e3779b97f4a7c15ull ^ sector;
}

/* One operation: 3 of 32 are flushes, one is a discard, one zeroes, else data. A discard drops what the page cache has
 * not written yet, after which older data may come back: so only the worker without page cache discards. */
static void step(struct worker *w, uint64_t seq, uint64_t *data)
{
    const uint64_t kind = next_random(&w->state) % 32, grain = w->number == 0 ? 8 : 1;
    const uint64_t stripe = next_random(&w->state) % (w->n_stripes / WORKERS) * WORKERS + w->number;
    const uint64_t at = next_random(&w->state) % (STRIPE / grain) * grain,
                   most = STRIPE - at < MOST ? STRIPE - at : MOST;
    const uint64_t count = (next_random(&w->state) % (most / grain) + 1) * grain, first = stripe * STRIPE + at;
    uint64_t range[2] = { first * SECTOR, count * SECTOR };

    if (kind < 3) {
        if (fsync(w->fd) < 0)
            give_up(w->console, "fsync");
        say(w->console, "ACK %u %u %u\n", (unsigned)w->disk, (unsigned)w->number, (unsigned)seq);
    } else if (kind < 5) {
        const bool discard = kind == 3 && w->number == 1;

        if (ioctl(w->fd, discard ? BLKDISCARD : BLKZEROOUT, range) < 0)
            give_up(w->console, discard ? "discard" : "zeroes");
    } else {
        for (uint64_t i = 0; i < count; i++)
            fill(data + i * (SECTOR / 8), w->run << 48 | w->disk << 40 | w->number << 32 | seq, first + i);
        if (pwrite(w->fd, data, range[1], (off_t)range[0]) != (ssize_t)range[1])
            give_up(w->console, "write");
    }
}

static void work(const char *path, uint64_t run, uint64_t disk, uint64_t number, int console)
{
    struct worker w = { .run = run, .disk = disk, .number = number, .console = console };
    uint64_t size = 0;
    void *data = NULL;

    w.state = (run << 16 | disk << 8 | number) * 0x9e3779b97f4a7c15ull + 1;
    w.fd = open(path, O_RDWR | (number == 1 ? O_DIRECT : 0));
    if (w.fd < 0 || ioctl(w.fd, BLKGETSIZE64, &size) < 0 || posix_memalign(&data, 4096, (size_t)MOST * SECTOR) != 0)
        give_up(console, path);
    w.n_stripes = size / SECTOR / STRIPE;
    for (uint64_t seq = 1;; seq++)
        step(&w, seq, data);
}

/* The initrd's list is in loading order; what is not for disks is left out to save time. */
static void load_modules(void)
{
    FILE *list = fopen("/modules", "re");
    char path[200];

    while (list && fgets(path, sizeof(path), list)) {
        int fd;

        path[strcspn(path, "\n")] = '\0';
        fd = strstr(path, "virtio") ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        if (fd >= 0) {
            (void)syscall(SYS_finit_module, fd, "", 0); /* some are built in, some lack what was left out */
            close(fd);
        }
    }
    if (list)
        (void)fclose(list);
}

int main(int argc, char **argv)
{
    const uint64_t run = argc > 1 ? strtoull(argv[argc - 1], NULL, 10) : 0;
    char path[] = "/dev/vda";
    int console;

    (void)mount("dev", "/dev", "devtmpfs", 0, NULL); /* the kernel may have done it */
    console = open("/dev/ttyS0", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (console < 0)
        return 1;
    load_modules();
    for (unsigned disk = 0; disk < 8; disk++) {
        path[sizeof(path) - 2] = (char)('a' + disk);
        for (unsigned tries = 0; tries < 50 && disk == 0 && access(path, F_OK) < 0; tries++)
            usleep(20000); /* the first may come a moment after its driver, the others are there with it */
        if (access(path, F_OK) < 0)
            break;
        for (unsigned number = 0; number < WORKERS; number++)
            if (fork() == 0)
                work(path, run, disk, number, console);
    }
    say(console, "CRASH-READY\n");
    for (;;)
        pause();
}
