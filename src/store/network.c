#include "store/network.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "store/store_priv.h"

#define NETWORK_PICK_FIRST (10U << 24 | 188U << 16)
#define NETWORK_PICK_COUNT 512

static void network_object(const char *name, char ret_text[PROTO_NAME_MAX + 16])
{
    snprintf(ret_text, PROTO_NAME_MAX + 16, "network %.*s", PROTO_NAME_MAX, name);
}

/* The row that a statement stands on: name, spec, created_ns. */
static int network_read(struct store *s, sqlite3_stmt *stmt, struct store_network *ret_network, struct err *e)
{
    const char *name = (const char *)sqlite3_column_text(stmt, 0), *text = (const char *)sqlite3_column_text(stmt, 1);
    int r;

    if (!name || !text)
        return store_fail(s, NULL, e);
    r = net_spec_from_json(text, &ret_network->spec, e);
    if (r < 0) {
        err_wrap(e, "state database %s, network %.*s", s->path, PROTO_NAME_MAX, name);
        if (e)
            e->code = EIO; /* nobody typed it wrong: it was stored */
        return -EIO;
    }
    if (strcmp(ret_network->spec.name, name) != 0)
        return err_set(e, EIO,
                       "state database %s: network %.*s is described under another name; remove and create it again",
                       s->path, PROTO_NAME_MAX, name);
    ret_network->created_ns = sqlite3_column_int64(stmt, 2);
    return 0;
}

/* ---- finding ---- */

/* Like store_network_get, but 1 instead of -ENOENT, and without the built-in one. */
static int network_find(struct store *s, const char *name, struct store_network *ret_network, struct err *e)
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    int r = store_prepare(s, "SELECT name, spec, created_ns FROM networks WHERE name = ?", &stmt, e);

    if (r < 0)
        return r;
    sqlite3_bind_text(stmt, 1, name, -1, SQLITE_STATIC);
    r = store_next(s, stmt, e);
    return r < 0 ? r : r > 0 ? network_read(s, stmt, ret_network, e) : 1;
}

static int network_missing(struct store *s, const char *name, struct err *e)
{
    return store_missing(s, "SELECT name FROM networks UNION SELECT '" NET_SPEC_DEFAULT "'", "network",
                         "caisson network ls", name, e);
}

int store_network_get(struct store *s, const char *name, struct store_network *ret_network, struct err *e)
{
    int r = network_find(s, name, ret_network, e);

    if (r <= 0)
        return r;
    if (strcmp(name, NET_SPEC_DEFAULT) != 0)
        return network_missing(s, name, e);
    net_spec_init_default(&ret_network->spec);
    ret_network->created_ns = 0;
    return 0;
}

/* ---- walking ---- */

static int network_call_builtin(struct store_network *n, int (*fn)(void *opaque, const struct store_network *network),
                                void *opaque)
{
    net_spec_init_default(&n->spec);
    n->created_ns = 0;
    return fn(opaque, n);
}

int store_network_each(struct store *s, int (*fn)(void *opaque, const struct store_network *network), void *opaque,
                       struct err *e)
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    AUTO_FREE struct store_network *n = malloc(sizeof(*n));
    bool builtin_done = false;
    int r;

    if (!n)
        return err_set(e, ENOMEM, "out of memory");
    r = store_prepare(s, "SELECT name, spec, created_ns FROM networks ORDER BY name", &stmt, e);
    if (r < 0)
        return r;
    while ((r = store_next(s, stmt, e)) > 0) {
        const char *name = (const char *)sqlite3_column_text(stmt, 0);
        int order = name ? strcmp(name, NET_SPEC_DEFAULT) : 0;

        r = order > 0 && !builtin_done ? network_call_builtin(n, fn, opaque) : 0;
        builtin_done = builtin_done || order >= 0;
        if (r == 0)
            r = network_read(s, stmt, n, e);
        if (r == 0)
            r = fn(opaque, n);
        if (r != 0)
            return r;
    }
    return r < 0 || builtin_done ? r : network_call_builtin(n, fn, opaque);
}

/* ---- changing ---- */

struct network_overlap {
    const struct net_spec *spec;
    struct err *e;
};

static int network_check_overlap(void *opaque, const struct store_network *other)
{
    struct network_overlap *o = opaque;
    const struct net_spec *a = o->spec, *b = &other->spec;
    char mine[ADDR_SUBNET_TEXT], theirs[ADDR_SUBNET_TEXT];

    if (strcmp(a->name, b->name) == 0)
        return 0; /* only the built-in one that is being replaced */
    if (addr_subnet4_overlaps(&a->subnet, &b->subnet)) {
        addr_subnet4_format(&a->subnet, mine);
        addr_subnet4_format(&b->subnet, theirs);
        return err_set(o->e, EADDRINUSE,
                       "network %s: subnet %s overlaps %s of network %s; give another --subnet, or none", a->name, mine,
                       theirs, b->name);
    }
    if (addr_subnet6_overlaps(&a->subnet6, &b->subnet6)) {
        addr_subnet6_format(&a->subnet6, mine);
        addr_subnet6_format(&b->subnet6, theirs);
        return err_set(o->e, EADDRINUSE,
                       "network %s: subnet %s overlaps %s of network %s; give another --subnet6, or none", a->name,
                       mine, theirs, b->name);
    }
    return 0;
}

static int network_insert(struct store *s, const struct net_spec *spec, struct err *e)
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    AUTO_FREE char *text = NULL;
    char object[PROTO_NAME_MAX + 16];
    int r = store_prepare(s, "INSERT INTO networks (name, spec, created_ns) VALUES (?, ?, ?)", &stmt, e);

    if (r < 0)
        return r;
    if (net_spec_to_json(spec, &text) < 0)
        return err_set(e, ENOMEM, "out of memory");
    sqlite3_bind_text(stmt, 1, spec->name, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 2, text, -1, SQLITE_STATIC);
    sqlite3_bind_int64(stmt, 3, store_now_ns());
    network_object(spec->name, object);
    return sqlite3_step(stmt) == SQLITE_DONE ? 0 : store_fail(s, object, e);
}

static int network_add(struct store *s, const void *arg, struct err *e)
{
    const struct net_spec *spec = arg;
    AUTO_FREE struct store_network *old = malloc(sizeof(*old));
    struct network_overlap overlap = { .spec = spec, .e = e };
    int r;

    if (!old)
        return err_set(e, ENOMEM, "out of memory");
    r = network_find(s, spec->name, old, e);
    if (r == 0)
        return err_set(e, EEXIST,
                       "network %s exists already; use another name, or remove it with 'caisson network rm %s'",
                       spec->name, spec->name);
    if (r > 0)
        r = store_network_each(s, network_check_overlap, &overlap, e);
    return r < 0 ? r : network_insert(s, spec, e);
}

int store_network_add(struct store *s, const struct net_spec *spec, struct err *e)
{
    return store_change(s, network_add, spec, e);
}

static int network_delete(struct store *s, const void *arg, struct err *e)
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    const char *name = arg;
    char object[PROTO_NAME_MAX + 16];
    int r = store_prepare(s, "DELETE FROM networks WHERE name = ?", &stmt, e);

    if (r < 0)
        return r;
    sqlite3_bind_text(stmt, 1, name, -1, SQLITE_STATIC);
    network_object(name, object);
    if (sqlite3_step(stmt) != SQLITE_DONE)
        return store_fail(s, object, e);
    if (sqlite3_changes(s->db) > 0)
        return 0;
    if (strcmp(name, NET_SPEC_DEFAULT) == 0)
        return err_set(e, EBUSY,
                       "network default is built in and cannot be removed; 'caisson network create default ...' "
                       "puts another one in its place");
    return network_missing(s, name, e);
}

int store_network_remove(struct store *s, const char *name, struct err *e)
{
    return store_change(s, network_delete, name, e);
}

/* ---- choosing a subnet ---- */

struct network_taken {
    bool taken[NETWORK_PICK_COUNT];
};

static struct addr_subnet4 network_candidate(unsigned i)
{
    return (struct addr_subnet4){ .addr = NETWORK_PICK_FIRST + (i << 8), .prefix = 24 };
}

static void network_take(struct network_taken *t, const struct addr_subnet4 *subnet)
{
    for (unsigned i = 0; i < NETWORK_PICK_COUNT; i++) {
        struct addr_subnet4 candidate = network_candidate(i);

        t->taken[i] = t->taken[i] || addr_subnet4_overlaps(&candidate, subnet);
    }
}

static int network_take_stored(void *opaque, const struct store_network *network)
{
    network_take(opaque, &network->spec.subnet);
    return 0;
}

int store_network_pick_subnet(struct store *s, const struct addr_subnet4 *taken, size_t n,
                              struct addr_subnet4 *ret_subnet, struct err *e)
{
    struct network_taken t = { 0 };
    int r = store_network_each(s, network_take_stored, &t, e);

    if (r < 0)
        return r;
    for (size_t i = 0; i < n; i++)
        network_take(&t, &taken[i]);
    for (unsigned i = 0; i < NETWORK_PICK_COUNT; i++) {
        if (!t.taken[i]) {
            *ret_subnet = network_candidate(i);
            return 0;
        }
    }
    return err_set(e, EADDRINUSE, "no /24 is free in 10.188.0.0/16 and 10.189.0.0/16; give --subnet");
}
