/* A disk under random requests, with a buffer beside it that says what it must hold; used by the tests of qcow2. */
#ifndef TESTS_UNIT_QCOW2_RIG_H
#define TESTS_UNIT_QCOW2_RIG_H

#include <stdbool.h>
#include <stdint.h>

#include "block/open.h"

struct rig {
    const char *path;
    struct blk_node *n;
    uint8_t *shadow; /* n->size bytes */
    uint64_t size, seed;
    uint32_t cluster;
    bool no_compressed;
};

uint64_t rig_random(uint64_t *seed);
/* Make an image; must succeed. */
void rig_create(const struct blk_create_config *config);
/* Open for writing; must succeed. */
struct blk_node *rig_open(const char *path, bool read_only);
/* Open and fill the shadow from it. */
void rig_begin(struct rig *r, const char *path, uint64_t seed);
/* n random requests; each must succeed. */
void rig_requests(struct rig *r, unsigned n);
/* The whole disk against the shadow, by our own reading. */
void rig_verify(struct rig *r);
/* Close, have qemu-img check it and compare it with the shadow, open again and verify. */
void rig_judge(struct rig *r);
void rig_end(struct rig *r);
/* The shadow against a raw file. */
void rig_same(struct rig *r, const char *raw);
/* qemu-img compare of an image with a buffer. */
void rig_compare(const char *path, const uint8_t *want, uint64_t size);
/* A raw file with random content, some of it zeroes. */
void rig_raw(const char *path, uint64_t size, uint64_t seed);

#endif
