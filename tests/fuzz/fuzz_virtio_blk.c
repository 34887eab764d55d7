/* Fuzz target: guest memory as the queues of a virtio-blk device on a small disk. */
#include <stdio.h>
#include <sys/mman.h>

#include "../unit/disk.h"
#include "fuzz_virtio.h"
#include "virtio/blk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fuzz_machine f;
    static struct virtio_blk_config config = { .n_queues = 2, .slot = 1 };
    static struct virtio_blk *blk;

    if (!blk) {
        char path[32];
        int fd = memfd_create("disk", MFD_CLOEXEC);

        fuzz_machine_init(&f);
        CHECK(fd >= 0 && ftruncate(fd, 1 << 20) == 0);
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        CHECK(disk_open(&(struct blk_open_config){ .path = path }, &(struct blk_image_config){ .guard = true }, f.loop,
                        &config.image) == 0);
        CHECK(virtio_blk_new(&f.env, &config, &blk) == 0);
    }
    if (size > 1)
        fuzz_queues(&f, 2, data, size);
    return 0;
}
