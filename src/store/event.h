/* What happened to objects: one row for each change, written in the transaction that makes it, kept for some time (the
 * last STORE_EVENTS_MAX). `caisson events` shows them and waits for more. */
#ifndef STORE_EVENT_H
#define STORE_EVENT_H

#include <stdint.h>

#include "store/store.h"

struct json_object;

#define STORE_EVENTS_MAX 10000

struct store_event {
    int64_t serial;         /* grows by one or more; unique for ever */
    int64_t time_ns;        /* since 1970, UTC */
    const char *object;     /* "container", "vm", "image", "volume", "network", "snapshot" */
    const char *id, *name;  /* of the object */
    const char *action;     /* "create", "start", "die", "pull", ... */
    const char *attributes; /* a JSON object as text; NULL: none */
};

/* In the caller's transaction, or one of its own. serial and time_ns are chosen. */
int store_event_add(struct store *s, const struct store_event *event, struct err *e) MUST_USE;
/* All with a serial above after, in order. fn borrows the event. */
int store_event_each(struct store *s, int64_t after, int (*fn)(void *opaque, const struct store_event *event),
                     void *opaque, struct err *e) MUST_USE;

#endif
