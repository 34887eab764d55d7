#include "proto/name.h"

#include <string.h>

bool proto_name_ok(const char *name)
{
    size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-");

    return len > 0 && len <= PROTO_NAME_MAX && name[len] == '\0' && name[0] != '-';
}

bool proto_host_name_ok(const char *name)
{
    size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.");

    return len > 0 && len <= PROTO_HOST_NAME_MAX && name[len] == '\0' && name[0] != '-' && name[0] != '.';
}
