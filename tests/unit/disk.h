/* A disk for tests of what stands in front of it: node opened, front put on it. */
#ifndef TESTS_UNIT_DISK_H
#define TESTS_UNIT_DISK_H

#include "block/image.h"
#include "block/open.h"

static inline int disk_open(const struct blk_open_config *open, const struct blk_image_config *config,
                            struct loop *loop, struct blk_image **ret_img)
{
    struct blk_node *node = NULL;
    int res = blk_open(open, &node, NULL);

    if (res < 0)
        return res;
    res = blk_image_new(node, config, loop, ret_img);
    if (res < 0)
        blk_node_close(node);
    return res;
}

#endif
