/* Event loop on epoll: the thread that runs it is "the loop thread", on which device models do their work. Callbacks
 * never block. All functions except loop_post and loop_stop belong to the loop thread (or to the time before it runs).
 * It must not know guests or devices. */
#ifndef SYS_LOOP_H
#define SYS_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/cleanup.h"

struct loop;
struct loop_fd;
struct loop_timer;

int loop_new(struct loop **ret_loop) MUST_USE;
void loop_free(struct loop *l); /* NULL accepted; sources still registered are freed with it */
DEFINE_AUTO(loop, struct loop, loop_free)

/* Serve events until loop_stop. Returns the code given there, or -errno. */
int loop_run(struct loop *l) MUST_USE;
/* Serve what is ready now and return without waiting: for callers that step a loop themselves (tests, fuzzing). Returns
 * the number of events served, 0 when idle, or -errno. */
int loop_run_once(struct loop *l) MUST_USE;
/* Make loop_run return code (>= 0) after the current callback. Any thread; the first call wins. */
void loop_stop(struct loop *l, int code);

/* Watch fd (borrowed) for events (EPOLLIN, EPOLLOUT, ...; 0 = only errors). cb gets the ready events. */
int loop_fd_add(struct loop *l, int fd, uint32_t events, void (*cb)(void *opaque, uint32_t events), void *opaque,
                struct loop_fd **ret_src) MUST_USE;
int loop_fd_set(struct loop_fd *src, uint32_t events) MUST_USE;
/* Watch fd for events by *src: made where it is NULL, freed where there is nothing to wait for (events 0), because the
 * end of a peer (EPOLLHUP, EPOLLERR) would be told again and again. Errors leave it unwatched until the next call. */
void loop_fd_watch(struct loop *l, int fd, uint32_t events, void (*cb)(void *opaque, uint32_t events), void *opaque,
                   struct loop_fd **src);
/* Stop watching and free; safe inside any callback, its own too. NULL accepted. */
void loop_fd_free(struct loop_fd *src);

/* A one-shot timer on CLOCK_MONOTONIC, disarmed at first. */
int loop_timer_new(struct loop *l, void (*cb)(void *opaque), void *opaque, struct loop_timer **ret_timer) MUST_USE;
/* Fire at absolute monotonic time at_ns (past: as soon as possible); 0 disarms. */
void loop_timer_set(struct loop_timer *t, uint64_t at_ns);
void loop_timer_free(struct loop_timer *t); /* as loop_fd_free */

/* Run fn(opaque) on the loop thread, in order of posting. Any thread. -ENOMEM. */
int loop_post(struct loop *l, void (*fn)(void *opaque), void *opaque) MUST_USE;

/* CLOCK_MONOTONIC in nanoseconds. Any thread. */
uint64_t sys_now_ns(void);

#endif
