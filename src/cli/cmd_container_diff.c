/* caisson diff and port. */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/num.h"
#include "cli/command.h"
#include "cli/instance.h"
#include "cli/table.h"
#include "instance/container_root.h"
#include "proto/exit_code.h"

/* ---- diff ---- */

static int diff_line(void *opaque, char kind, const char *path)
{
    json_object *list = opaque, *o;
    const char text[] = { kind, '\0' };

    if (!list) {
        printf("%c ", kind);
        for (const char *c = path; *c; c++) /* a name may hold anything, the terminal gets text */
            putchar((unsigned char)*c < 0x20 || *c == 0x7f ? '?' : *c);
        putchar('\n');
        return 0;
    }
    o = json_object_new_object();
    json_object_object_add(o, "kind", json_object_new_string(text));
    json_object_object_add(o, "path", json_object_new_string(path));
    json_object_array_add(list, o);
    return 0;
}

int cli_cmd_diff(const struct cli_args *args)
{
    AUTO_FREE struct store_instance *i = calloc(1, sizeof(*i));
    json_object *list = cli_value(args, "json") ? json_object_new_array() : NULL;
    AUTO(store) struct store *store = NULL;
    struct err e = { 0 };
    int r = i ? cli_inst_one(args, 0, &store, i, &e) : err_set(&e, ENOMEM, "out of memory");

    if (r == 0) {
        store_close(STEAL(store));
        r = inst_container_diff(i, diff_line, list, &e);
        store_instance_done(i);
    }
    if (r == 0 && list)
        r = cli_json_print(list, stdout, &e);
    json_object_put(list);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}

/* ---- port ---- */

/* wanted: "80" or "80/udp"; NULL: all. */
static bool port_is_wanted(const struct inst_port *p, const char *wanted)
{
    char text[32];

    if (!wanted)
        return true;
    snprintf(text, sizeof(text), "%u/%s", p->port, p->udp ? "udp" : "tcp");
    return strcmp(wanted, text) == 0 || (!strchr(wanted, '/') && strncmp(text, wanted, strlen(wanted)) == 0 &&
                                         text[strlen(wanted)] == '/' && !p->udp);
}

static void port_one(const struct inst_port *p, bool single, json_object *list)
{
    const char *addr = p->host_addr[0] ? p->host_addr : "0.0.0.0";
    json_object *o;

    if (!list) {
        if (!single)
            printf("%u/%s -> ", p->port, p->udp ? "udp" : "tcp");
        printf("%s:%u\n", addr, p->host_port);
        return;
    }
    o = json_object_new_object();
    json_object_object_add(o, "port", json_object_new_int(p->port));
    json_object_object_add(o, "proto", json_object_new_string(p->udp ? "udp" : "tcp"));
    json_object_object_add(o, "host_addr", json_object_new_string(addr));
    json_object_object_add(o, "host_port", json_object_new_int(p->host_port));
    json_object_array_add(list, o);
}

int cli_cmd_port(const struct cli_args *args)
{
    AUTO_FREE struct store_instance *i = calloc(1, sizeof(*i));
    json_object *list = cli_value(args, "json") ? json_object_new_array() : NULL;
    const char *wanted = args->n_operands > 1 ? args->operands[1] : NULL;
    AUTO(store) struct store *store = NULL;
    struct err e = { 0 };
    size_t n = 0;
    int r = i ? cli_inst_one(args, 0, &store, i, &e) : err_set(&e, ENOMEM, "out of memory");

    if (r == 0) {
        for (size_t p = 0; p < i->spec.container.n_ports; p++) {
            if (port_is_wanted(&i->spec.container.ports[p], wanted)) {
                port_one(&i->spec.container.ports[p], wanted != NULL, list);
                n++;
            }
        }
        if (wanted && n == 0)
            r = err_set(&e, ENOENT, "%s publishes no port %s", i->name, wanted);
        store_instance_done(i);
    }
    if (r == 0 && list)
        r = cli_json_print(list, stdout, &e);
    json_object_put(list);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}
