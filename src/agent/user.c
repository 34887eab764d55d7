#include "agent/user.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/num.h"

/* Fill in what /etc/passwd says of the name or number. */
static bool user_from_passwd(const char *name, struct agent_user *u)
{
    FILE *f = fopen("/etc/passwd", "re");
    const struct passwd *p;
    uint64_t uid;
    bool number = num_parse_u64(name, 0, UINT32_MAX - 1, &uid) == 0, found = false;

    while (f && !found && (p = fgetpwent(f))) {
        found = strcmp(p->pw_name, name) == 0 || (number && p->pw_uid == uid);
        if (!found)
            continue;
        u->uid = p->pw_uid;
        u->gid = p->pw_gid;
        snprintf(u->name, sizeof(u->name), "%s", p->pw_name);
        snprintf(u->home, sizeof(u->home), "%s", p->pw_dir);
        snprintf(u->shell, sizeof(u->shell), "%s", p->pw_shell);
    }
    if (f)
        fclose(f);
    if (found || !number)
        return found;
    u->uid = (uid_t)uid;
    u->gid = (gid_t)uid;
    return true;
}

static bool user_is_member(const struct group *g, const char *name)
{
    for (char *const *m = g->gr_mem; *m; m++) {
        if (strcmp(*m, name) == 0)
            return true;
    }
    return false;
}

/* The groups that the user belongs to, and the number of the group called wanted (where not NULL). */
static bool user_from_groups(const char *wanted, struct agent_user *u)
{
    FILE *f = fopen("/etc/group", "re");
    const struct group *g;
    uint64_t gid;
    bool found = wanted && num_parse_u64(wanted, 0, UINT32_MAX - 1, &gid) == 0;

    if (found)
        u->gid = (gid_t)gid;
    while (f && (g = fgetgrent(f))) {
        if (wanted && !found && strcmp(g->gr_name, wanted) == 0) {
            u->gid = g->gr_gid;
            found = true;
        }
        if (u->name[0] && u->n_groups < AGENT_GROUPS_MAX && user_is_member(g, u->name))
            u->groups[u->n_groups++] = g->gr_gid;
    }
    if (f)
        fclose(f);
    return found || !wanted;
}

int agent_user_find(const char *text, struct agent_user *ret, struct err *e)
{
    struct agent_user u = { .name = "root", .home = "/", .shell = "/bin/sh" };
    char name[128] = "0";
    const char *group = NULL;

    if (text) {
        char *colon;

        if (snprintf(name, sizeof(name), "%s", text) >= (int)sizeof(name))
            return err_set(e, ENOENT, "user: the name is too long");
        colon = strchr(name, ':');
        if (colon)
            *colon = '\0';
        group = colon && colon[1] ? colon + 1 : NULL;
        if (strcmp(name, "0") != 0)
            u.name[0] = '\0';
    }
    if (!user_from_passwd(name, &u))
        return err_set(e, ENOENT, "user %s: the guest has no such user", name);
    if (!user_from_groups(group, &u))
        return err_set(e, ENOENT, "group %s: the guest has no such group", group);
    *ret = u;
    return 0;
}
