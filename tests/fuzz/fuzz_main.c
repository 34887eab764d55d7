/* Runs a fuzz target without libFuzzer: every file of the corpus folder (argv[1]), then mutations of them. argv[2]: how
 * many (default 20000), argv[3]: seed. Deterministic, so that a failure in make check can be repeated. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FUZZ_INPUT_MAX 65536
#define FUZZ_FILES_MAX 1024

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct fuzz_input {
    uint8_t *data;
    size_t len;
};

static uint64_t fuzz_next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ULL; /* splitmix64 */

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

static size_t fuzz_load(const char *folder, struct fuzz_input *inputs)
{
    DIR *dir = opendir(folder);
    struct dirent *entry;
    size_t n = 0;

    while (dir && (entry = readdir(dir)) && n < FUZZ_FILES_MAX) {
        char path[4096];
        FILE *f;

        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        f = fopen(path, "rb");
        if (!f)
            continue;
        inputs[n].data = malloc(FUZZ_INPUT_MAX);
        if (inputs[n].data) {
            inputs[n].len = fread(inputs[n].data, 1, FUZZ_INPUT_MAX, f);
            n++;
        }
        fclose(f);
    }
    if (dir)
        closedir(dir);
    return n;
}

/* Flip, insert, delete, repeat or splice a few times. */
static size_t fuzz_mutate(uint8_t *data, size_t len, const struct fuzz_input *other, uint64_t *state)
{
    static const uint8_t special[] = { 0, 1, 0x7f, 0x80, 0xff, '"', '{', '\\', ',', '-' };
    unsigned rounds = 1 + (unsigned)(fuzz_next(state) % 8);

    while (rounds--) {
        uint64_t r = fuzz_next(state);
        size_t at = len ? (r >> 8) % len : 0, n = 1 + (r >> 40) % 16;

        switch (r % 6) {
        case 0:
            if (len)
                data[at] ^= (uint8_t)(1U << ((r >> 32) & 7));
            break;
        case 1:
            if (len)
                data[at] = special[(r >> 32) % sizeof(special)];
            break;
        case 2:
            if (len)
                data[at] = (uint8_t)(r >> 32);
            break;
        case 3: /* delete */
            n = n > len - at ? len - at : n;
            memmove(data + at, data + at + n, len - at - n);
            len -= n;
            break;
        case 4: /* repeat */
            n = n > len - at ? len - at : n;
            if (len + n <= FUZZ_INPUT_MAX) {
                memmove(data + at + n, data + at, len - at);
                len += n;
            }
            break;
        default: /* the tail of another input */
            if (other->len) {
                size_t from = (r >> 20) % other->len;

                n = other->len - from < FUZZ_INPUT_MAX - at ? other->len - from : FUZZ_INPUT_MAX - at;
                memcpy(data + at, other->data + from, n);
                len = at + n;
            }
            break;
        }
    }
    return len;
}

int main(int argc, char **argv)
{
    static struct fuzz_input inputs[FUZZ_FILES_MAX + 1];
    size_t n = argc > 1 ? fuzz_load(argv[1], inputs) : 0;
    unsigned long count = argc > 2 ? strtoul(argv[2], NULL, 0) : 20000;
    uint64_t seed = argc > 3 ? strtoull(argv[3], NULL, 0) : 1, state = seed;
    uint8_t *work = malloc(FUZZ_INPUT_MAX);

    if (!work)
        return 1;
    for (size_t i = 0; i < n; i++)
        LLVMFuzzerTestOneInput(inputs[i].data, inputs[i].len);
    for (unsigned long i = 0; i < count; i++) {
        const struct fuzz_input *from = &inputs[n ? fuzz_next(&state) % n : 0];
        size_t len = fuzz_mutate(work, (memcpy(work, from->data ? from->data : work, from->len), from->len),
                                 &inputs[n ? fuzz_next(&state) % n : 0], &state);
        uint8_t *exact = malloc(len ? len : 1); /* so that ASan sees one byte too far */

        if (!exact)
            return 1;
        memcpy(exact, work, len);
        LLVMFuzzerTestOneInput(exact, len);
        free(exact);
    }
    printf("%zu files and %lu mutations, seed %llu\n", n, count, (unsigned long long)seed);
    for (size_t i = 0; i < n; i++)
        free(inputs[i].data);
    free(work);
    return 0;
}
