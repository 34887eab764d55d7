/* A state and a runtime directory for one test, removed with all that is in them. */
#ifndef TESTS_UNIT_STATE_DIR_H
#define TESTS_UNIT_STATE_DIR_H

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "fast_dir.h"
#include "store/store.h"
#include "sys/tree.h"

static char state_dir[64];

/* For cmocka_unit_test_setup_teardown. */
static inline int state_dir_setup(void **state)
{
    char path[96];

    (void)state;
    if (!fast_dir_make(state_dir, "state"))
        return -1;
    snprintf(path, sizeof(path), "%s/run", state_dir);
    return setenv("CAISSON_STATE_DIR", state_dir, 1) || setenv("CAISSON_RUNTIME_DIR", path, 1);
}

static inline int state_dir_teardown(void **state)
{
    (void)state;
    return sys_tree_remove(state_dir);
}

/* Back to nothing, in the middle of a test. */
static inline int state_dir_empty(void)
{
    return sys_tree_remove(state_dir) < 0 ? -1 : mkdir(state_dir, 0700);
}

#define open_store(access)                            \
    ({                                                \
        struct store *store_ = NULL;                  \
        struct err err_ = { 0 };                      \
        if (store_open((access), &store_, &err_) < 0) \
            fail_msg("store_open: %s", err_.text);    \
        store_;                                       \
    })

#endif
