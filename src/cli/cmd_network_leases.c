/* caisson network leases: who has which address. A running network is asked; of one that is stopped, the fixed leases
 * are known. */
#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "cli/command.h"
#include "cli/network.h"
#include "instance/switch_client.h"
#include "proto/exit_code.h"
#include "proto/json.h"
#include "sys/dirs.h"

static const struct cli_column leases_columns[] = {
    { "IP", "ip", false, false, false },
    { "MAC", "mac", false, false, false },
    { "HOST", "host", false, false, false },
    { "EXPIRES", "expires", false, false, false },
};
static const struct cli_table leases_table = {
    .columns = leases_columns,
    .n_columns = ARRAY_SIZE(leases_columns),
    .id = "ip",
};

static void leases_add(json_object *rows, const char *ip, const char *mac, const char *host, json_object *expires)
{
    json_object *row = json_object_new_object();

    json_object_object_add(row, "ip", json_object_new_string(ip));
    json_object_object_add(row, "mac", json_object_new_string(mac));
    json_object_object_add(row, "host", host[0] ? json_object_new_string(host) : NULL);
    json_object_object_add(row, "expires", expires);
    json_object_array_add(rows, row);
}

static void leases_add_fixed(json_object *rows, const struct net_spec *spec)
{
    for (unsigned i = 0; i < spec->n_hosts; i++) {
        char mac[ADDR_MAC_TEXT], ip[ADDR_IP4_TEXT];

        addr_mac_format(spec->hosts[i].mac, mac);
        addr_ip4_format(spec->hosts[i].addr, ip);
        leases_add(rows, ip, mac, spec->hosts[i].name, NULL);
    }
}

/* ---- of a network that is stopped ---- */

/* A member of an entry as text, "" where it is something else. */
static const char *leases_text(json_object *entry, const char *key)
{
    json_object *v;

    return json_object_object_get_ex(entry, key, &v) && json_object_is_type(v, json_type_string)
               ? json_object_get_string(v)
               : "";
}

/* One entry of the file: {"mac", "ip", "name", "expires": seconds since 1970}. Those that have expired, and those of an
 * earlier network of the same name, count no more. */
static void leases_add_kept(json_object *rows, const struct net_spec *spec, json_object *entry)
{
    const char *mac_text = leases_text(entry, "mac"), *ip_text = leases_text(entry, "ip");
    json_object *expires;
    uint8_t mac[6];
    uint32_t ip;

    if (!json_object_is_type(entry, json_type_object) || !json_object_object_get_ex(entry, "expires", &expires) ||
        addr_mac_parse(mac_text, mac) < 0 || addr_ip4_parse(ip_text, &ip) < 0 ||
        !addr_subnet4_contains(&spec->subnet, ip) || json_object_get_int64(expires) <= time(NULL) ||
        json_object_get_int64(expires) > INT64_MAX / 1000000000)
        return;
    for (unsigned i = 0; i < spec->n_hosts; i++) {
        if (spec->hosts[i].addr == ip)
            return;
    }
    leases_add(rows, ip_text, mac_text, leases_text(entry, "name"),
               proto_json_time(json_object_get_int64(expires) * 1000000000));
}

/* The file that the switch keeps them in. One that is not there, or cannot be read, is no error: the next start of the
 * network says the same. */
static void leases_add_file(json_object *rows, const struct net_spec *spec)
{
    char dir[SYS_DIR_MAX], path[SYS_DIR_MAX + PROTO_NAME_MAX + 24];
    json_object *root, *list = NULL;

    if (sys_dirs_state(dir) < 0 || net_spec_lease_path(dir, spec->name, path, sizeof(path)) < 0)
        return;
    root = json_object_from_file(path);
    if (root && json_object_object_get_ex(root, "leases", &list) && json_object_is_type(list, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(list); i++)
            leases_add_kept(rows, spec, json_object_array_get_idx(list, i));
    }
    json_object_put(root);
}

/* ---- of one that runs ---- */

/* The leases of a reply. */
static int leases_of_reply(json_object *reply, const char *name, json_object **ret_rows, struct err *e)
{
    json_object *leases = NULL;

    if (!json_object_object_get_ex(reply, "leases", &leases) || !json_object_is_type(leases, json_type_array))
        return err_set(e, EBADMSG, "network %s: its switch answers nonsense; install all programs from one build",
                       name);
    *ret_rows = json_object_get(leases);
    return 0;
}

static int leases_collect(const struct net_spec *spec, json_object **ret_rows, struct err *e)
{
    const struct net_msg_request request = { .op = NET_MSG_LEASES };
    json_object *reply = NULL;
    AUTO_FD int sock = -1;
    int r = inst_switch_connect(spec->name, &sock, e);

    if (r < 0)
        return r;
    if (sock < 0) {
        *ret_rows = json_object_new_array();
        leases_add_fixed(*ret_rows, spec);
        leases_add_file(*ret_rows, spec);
        return 0;
    }
    r = inst_switch_call(sock, spec->name, &request, &reply, e);
    if (r == 0)
        r = leases_of_reply(reply, spec->name, ret_rows, e);
    json_object_put(reply);
    return r;
}

int cli_cmd_network_leases(const struct cli_args *args)
{
    AUTO_FREE struct store_network *network = malloc(sizeof(*network));
    json_object *rows = NULL;
    struct err e = { 0 };
    int r = network ? cli_table_check(&leases_table, args, &e) : err_set(&e, ENOMEM, "out of memory");

    if (r == 0 && args->n_operands != 1)
        r = err_set(&e, EINVAL, "no network named; give the name of one, see 'caisson network ls'");
    if (r == 0)
        r = inst_network_find(args->operands[0], network, &e);
    if (r == 0)
        r = leases_collect(&network->spec, &rows, &e);
    if (r == 0)
        r = cli_table_print(&leases_table, rows, args, stdout, &e);
    json_object_put(rows);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}
