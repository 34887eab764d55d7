/* caisson network rm: end the switch, forget the network. */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/command.h"
#include "cli/network.h"
#include "instance/switch_client.h"
#include "proto/exit_code.h"
#include "store/instance.h"
#include "sys/dirs.h"

/* The instance of a port: NAME.NIC of a VM, the short id of a container in the place of its name. */
static void rm_port_owner(struct store *store, const char *port, char ret_name[PROTO_NAME_MAX + 1])
{
    AUTO_FREE struct store_instance *i = malloc(sizeof(*i));
    struct err ignored = { 0 };

    snprintf(ret_name, PROTO_NAME_MAX + 1, "%.*s", (int)strcspn(port, "."), port);
    if (i && strlen(ret_name) == INST_ID_SHORT && strspn(ret_name, "0123456789abcdef") == INST_ID_SHORT &&
        store_instance_get(store, ret_name, i, &ignored) == 0) {
        snprintf(ret_name, PROTO_NAME_MAX + 1, "%s", i->name);
        store_instance_done(i);
    }
}

/* Whose ports are attached, in the words of a message. Returns how many ports there are. */
static unsigned rm_describe_ports(struct store *store, json_object *info, char *text, size_t size)
{
    json_object *ports = NULL;
    char owner[PROTO_NAME_MAX + 1], last[PROTO_NAME_MAX + 1] = "";
    const char *name;
    unsigned n = 0;
    size_t used = 0;

    text[0] = '\0';
    if (!json_object_object_get_ex(info, "ports", &ports) || !json_object_is_type(ports, json_type_array))
        return 0;
    for (size_t i = 0; i < json_object_array_length(ports); i++) {
        if (!cli_network_is_vm_port(json_object_array_get_idx(ports, i), &name))
            continue;
        n++;
        rm_port_owner(store, name, owner);
        if (used < size && strcmp(owner, last) != 0) /* one with several cards is said once */
            used += (size_t)snprintf(text + used, size - used, "%s%s", used ? ", " : "", owner);
        memcpy(last, owner, sizeof(last));
    }
    return n;
}

/* End the switch of a network, unless instances are attached and force is not given. The caller holds its lock. */
static int rm_stop_switch(struct store *store, const char *name, bool force, struct err *e)
{
    const struct net_msg_request stop = { .op = NET_MSG_STOP };
    json_object *info = NULL, *reply = NULL;
    AUTO_FD int sock = -1;
    char users[160];
    unsigned n;
    int r = inst_switch_info(name, &info, e);

    if (r < 0)
        return force ? inst_switch_kill(name, e) : r;
    if (!info)
        return 0;
    n = rm_describe_ports(store, info, users, sizeof(users));
    json_object_put(info);
    if (n > 0 && !force)
        return err_set(e, EBUSY, "network %s is in use by %s (%u port%s); stop what is on it, or give --force", name,
                       users, n, n == 1 ? "" : "s");
    r = inst_switch_connect(name, &sock, e);
    if (r < 0 || sock < 0)
        return r;
    r = inst_switch_call(sock, name, &stop, &reply, e);
    json_object_put(reply);
    return r == -ECONNRESET ? 0 : r;
}

/* What the switch kept goes with the network; another one of the same name begins anew. */
static void rm_forget_leases(const char *name)
{
    char dir[SYS_DIR_MAX], path[SYS_DIR_MAX + PROTO_NAME_MAX + 24];

    if (sys_dirs_state(dir) == 0 && net_spec_lease_path(dir, name, path, sizeof(path)) == 0)
        unlink(path);
}

static int rm_one(struct store *store, const char *name, bool force, struct err *e)
{
    AUTO_FREE struct store_network *network = malloc(sizeof(*network));
    AUTO_FD int lock = -1;
    int r;

    if (!network)
        return err_set(e, ENOMEM, "out of memory");
    r = store_network_get(store, name, network, e); /* before anything is made or ended for a name that is none */
    if (r == 0 && network->created_ns == 0)
        return store_network_remove(store, name, e); /* says that it is built in */
    if (r == 0)
        r = lock = inst_switch_lock(name, e);
    if (r >= 0)
        r = rm_stop_switch(store, name, force, e);
    if (r >= 0)
        r = store_network_remove(store, name, e);
    if (r == 0)
        rm_forget_leases(name);
    return r;
}

int cli_cmd_network_rm(const struct cli_args *args)
{
    AUTO(store) struct store *store = NULL;
    json_object *removed = json_object_new_array();
    struct err e = { 0 };
    int r = 0, code = EXIT_CODE_OK;

    if (args->n_operands == 0)
        r = err_set(&e, EINVAL, "no network named; give the name of one, see 'caisson network ls'");
    if (r == 0)
        r = store_open(STORE_WRITE, &store, &e);
    if (r < 0)
        code = cli_fail(&e);
    for (int i = 0; r == 0 && i < args->n_operands; i++) {
        if (rm_one(store, args->operands[i], cli_value(args, "force") != NULL, &e) < 0) {
            int failed = cli_fail(&e);

            code = code == EXIT_CODE_OK ? failed : code; /* the others are removed all the same */
            continue;
        }
        if (!cli_value(args, "json"))
            printf("%s\n", args->operands[i]);
        json_object_array_add(removed, json_object_new_string(args->operands[i]));
    }
    if (r == 0 && cli_value(args, "json") && cli_json_print(removed, stdout, &e) < 0)
        code = cli_fail(&e);
    json_object_put(removed);
    return code;
}
