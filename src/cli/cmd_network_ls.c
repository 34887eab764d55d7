/* caisson network ls and inspect. */
#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/command.h"
#include "cli/network.h"
#include "instance/switch_client.h"
#include "proto/exit_code.h"
#include "proto/json.h"

static const struct cli_column network_columns[] = {
    { "NAME", "name", false, false, false },
    { "MODE", "mode", false, false, false },
    { "SUBNET", "subnet", false, false, false },
    { "SUBNET6", "subnet6", false, false, false },
    { "STATE", "state", false, false, CLI_CELL_STATUS },
    { "PORTS", "n_ports", true, false, false },
    { "BACKEND", "backend", false, true, false },
    { "GATEWAY", "gateway", false, true, false },
    { "DHCP", "dhcp", false, true, false },
    { "RANGE", "dhcp_range", false, true, false },
    { "DNS", "dns", false, true, false },
    { "DOMAIN", "domain", false, true, false },
    { "MTU", "mtu", true, true, false },
    { "TAP", "tap", false, true, false },
    { "BRIDGE", "bridge", false, true, false },
    { "ISOLATED", "isolated_ports", false, true, false },
    { "FILTER", "mac_filter", false, true, false },
    { "HOSTS", "hosts", false, true, false },
    { "FORWARDS", "forwards", false, true, false },
    { "CREATED", "created", false, true, false },
};
const struct cli_table cli_network_table = {
    .columns = network_columns,
    .n_columns = ARRAY_SIZE(network_columns),
    .id = "name",
};

bool cli_network_is_vm_port(json_object *port, const char **ret_name)
{
    json_object *name;

    if (!json_object_object_get_ex(port, "name", &name) || !json_object_is_type(name, json_type_string) ||
        !strchr(json_object_get_string(name), '.'))
        return false;
    *ret_name = json_object_get_string(name);
    return true;
}

static int network_count_ports(json_object *ports)
{
    const char *name;
    int n = 0;

    for (size_t i = 0; ports && i < json_object_array_length(ports); i++)
        n += cli_network_is_vm_port(json_object_array_get_idx(ports, i), &name);
    return n;
}

json_object *cli_network_row(const struct store_network *network)
{
    json_object *o = net_spec_to_object(&network->spec), *info = NULL, *ports = NULL;
    struct err ignored = { 0 };
    int r;

    if (!o)
        return NULL;
    r = inst_switch_info(network->spec.name, &info, &ignored);
    if (info && json_object_object_get_ex(info, "ports", &ports) && json_object_is_type(ports, json_type_array))
        ports = json_object_get(ports);
    else
        ports = NULL;
    json_object_object_add(o, "created", network->created_ns ? proto_json_time(network->created_ns) : NULL);
    json_object_object_add(o, "state", json_object_new_string(r < 0 ? "unknown" : info ? "running" : "stopped"));
    json_object_object_add(o, "n_ports", json_object_new_int(network_count_ports(ports)));
    json_object_object_add(o, "ports", ports ? ports : json_object_new_array());
    json_object_put(info);
    return o;
}

static int network_add_row(void *opaque, const struct store_network *network)
{
    json_object *row = cli_network_row(network);

    return row && json_object_array_add(opaque, row) == 0 ? 0 : -ENOMEM;
}

static int network_ls(const struct cli_args *args, json_object *rows, struct err *e)
{
    AUTO(store) struct store *store = NULL;
    int r = cli_table_check(&cli_network_table, args, e);

    if (r == 0)
        r = store_open(STORE_READ, &store, e);
    if (r == 0)
        r = store_network_each(store, network_add_row, rows, e);
    if (r == -ENOMEM)
        err_set(e, ENOMEM, "out of memory");
    return r < 0 ? r : cli_table_print(&cli_network_table, rows, args, stdout, e);
}

int cli_cmd_network_ls(const struct cli_args *args)
{
    json_object *rows = json_object_new_array();
    struct err e = { 0 };
    int r = network_ls(args, rows, &e);

    json_object_put(rows);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}

static int network_inspect(const struct cli_args *args, json_object *rows, struct err *e)
{
    AUTO_FREE struct store_network *network = malloc(sizeof(*network));

    if (!network)
        return err_set(e, ENOMEM, "out of memory");
    if (args->n_operands == 0)
        return err_set(e, EINVAL, "no network named; give the name of one, see 'caisson network ls'");
    for (int i = 0; i < args->n_operands; i++) {
        int r = inst_network_find(args->operands[i], network, e);

        if (r < 0)
            return r;
        if (network_add_row(rows, network) < 0)
            return err_set(e, ENOMEM, "out of memory");
    }
    return cli_value(args, "json") ? cli_json_print(rows, stdout, e) : cli_table_print_fields(rows, stdout, e);
}

int cli_cmd_network_inspect(const struct cli_args *args)
{
    json_object *rows = json_object_new_array();
    struct err e = { 0 };
    int r = network_inspect(args, rows, &e);

    json_object_put(rows);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}
