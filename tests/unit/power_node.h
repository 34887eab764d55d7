/* A file node in memory whose power can fail: what was written since the last flush is then there or not, sector by
 * sector, as chance will have it. */
#ifndef TESTS_UNIT_POWER_NODE_H
#define TESTS_UNIT_POWER_NODE_H

#include "block/node.h"

/* Empty; up to room bytes long. slow: requests take some microseconds, so that those of several threads overlap. */
struct blk_node *power_node_new(uint64_t room, bool slow);
/* From now on all writes and flushes fail, and *seed decides what is left. Write that to a file. */
void power_node_cut(struct blk_node *n, uint64_t *seed, const char *path);

#endif
