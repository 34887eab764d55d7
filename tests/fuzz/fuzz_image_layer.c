/* Unpacking a layer over another one, in memory: whatever it is, nothing outlives it and nothing is outside. */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "image/image_priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[] = "/dev/shm/caisson-fuzz-XXXXXX";
    int fd = memfd_create("layer", MFD_CLOEXEC), dir = mkdtemp(path) ? open(path, O_RDONLY | O_DIRECTORY) : -1;
    struct image_stream *s = NULL;
    struct err e = { 0 };

    if (fd < 0 || dir < 0 || write(fd, data, size) != (ssize_t)size || mkdirat(dir, "below", 0700) < 0 ||
        mkdirat(dir, "diff", 0700) < 0 || mkdirat(dir, "below/a", 0700) < 0 || symlinkat("a", dir, "below/l") < 0)
        abort();
    for (int i = 0; i < 2 && lseek(fd, 0, SEEK_SET) == 0 && image_stream_open(fd, &s) == 0; i++) {
        int root = openat(dir, "diff", O_RDONLY | O_DIRECTORY), lower = openat(dir, "below", O_RDONLY | O_DIRECTORY);
        struct image_unpack u = {
            .what = "l", .root = root, .ids = IMAGE_IDS_FLAT, .userxattr = true, .lower = &lower, .n_lower = 1
        };

        (void)!image_unpack(&u, s, &e);
        image_stream_free(s);
        close(root);
        close(lower);
    }
    close(fd);
    close(dir);
    return image_tree_remove(AT_FDCWD, path) < 0 ? abort(), 0 : 0;
}
