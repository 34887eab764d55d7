#include "image/user.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/fdio.h"
#include "base/num.h"
#include "sys/inroot.h"

#define USER_FILE_MAX (4U << 20)
#define USER_GROUPS_MAX 1024
#define USER_FIELDS 7

/* Cut a line at its colons. Returns the number of fields. */
static size_t user_split(char *line, char *ret_field[USER_FIELDS])
{
    size_t n = 0;

    for (char *at = line; at && n < USER_FIELDS; n++) {
        ret_field[n] = at;
        at = strchr(at, ':');
        if (at)
            *at++ = '\0';
    }
    return n;
}

/* The text of a file, ending with a zero; empty where there is none. */
static int user_read(int root_fd, const char *path, struct buf *b)
{
    AUTO_FD int fd = sys_inroot_open(root_fd, path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
    int r = fd == -ENOENT || fd == -ENOTDIR ? 0 : fd < 0 ? fd : fd_read_all(fd, b);

    buf_append(b, "", 1);
    return r < 0 ? r : buf_error(b);
}

struct user_search {
    const char *name; /* or a number */
    bool number;
    uint64_t id;
    bool found;
    struct image_user *user;
};

static void user_passwd_line(struct user_search *s, char *line)
{
    char *f[USER_FIELDS];
    uint64_t uid, gid;

    if (s->found || user_split(line, f) < 6 || num_parse_u64(f[2], 0, UINT32_MAX - 1, &uid) < 0 ||
        num_parse_u64(f[3], 0, UINT32_MAX - 1, &gid) < 0)
        return;
    if (strcmp(f[0], s->name) != 0 && !(s->number && uid == s->id))
        return;
    s->found = true;
    s->name = NULL;
    s->user->uid = (uint32_t)uid;
    s->user->gid = (uint32_t)gid;
    snprintf(s->user->home, sizeof(s->user->home), "%.255s", f[5][0] == '/' ? f[5] : "/");
}

static int user_passwd(int root_fd, const char *name, struct image_user *u, char *ret_name, size_t size, struct err *e)
{
    struct user_search s = { .name = name, .user = u };
    char *save = NULL;
    struct buf b;
    int r;

    s.number = num_parse_u64(name, 0, UINT32_MAX - 1, &s.id) == 0;
    buf_init(&b, USER_FILE_MAX);
    r = user_read(root_fd, "/etc/passwd", &b);
    for (char *line = r == 0 ? strtok_r((char *)b.data, "\n", &save) : NULL; line && !s.found;
         line = strtok_r(NULL, "\n", &save)) {
        user_passwd_line(&s, line);
        if (s.found)
            snprintf(ret_name, size, "%s", line);
    }
    buf_done(&b);
    if (r < 0)
        return err_set(e, -r, "/etc/passwd of the image cannot be read: %s", strerror(-r));
    if (!s.found && !s.number)
        return err_set(e, ENOENT,
                       "user %s: the image's /etc/passwd has none of that name; make it first, or use its number",
                       name);
    if (!s.found)
        u->uid = (uint32_t)s.id;
    return 0;
}

/* Whether a comma-separated list has the word. */
static bool user_in_list(char *list, const char *word)
{
    char *save = NULL;

    for (char *at = strtok_r(list, ",", &save); at; at = strtok_r(NULL, ",", &save)) {
        if (strcmp(at, word) == 0)
            return true;
    }
    return false;
}

/* group: the one that was asked for, NULL: none; member: the user's name, "" : no other groups. */
static bool user_has_group(const struct image_user *u, uint32_t gid)
{
    for (size_t i = 0; i < u->n_groups; i++) {
        if (u->groups[i] == gid)
            return true;
    }
    return false;
}

static int user_groups(int root_fd, const char *group, const char *member, struct image_user *u, struct err *e)
{
    char *save = NULL, *f[USER_FIELDS];
    bool found = false;
    uint64_t gid, wanted = 0;
    struct buf b;
    int r;

    if (group && num_parse_u64(group, 0, UINT32_MAX - 1, &wanted) == 0) {
        u->gid = (uint32_t)wanted;
        found = true;
    }
    buf_init(&b, USER_FILE_MAX);
    r = user_read(root_fd, "/etc/group", &b);
    for (char *line = r == 0 ? strtok_r((char *)b.data, "\n", &save) : NULL; line; line = strtok_r(NULL, "\n", &save)) {
        size_t n = user_split(line, f);

        if (n < 3 || num_parse_u64(f[2], 0, UINT32_MAX - 1, &gid) < 0)
            continue;
        if (group && !found && strcmp(f[0], group) == 0) {
            u->gid = (uint32_t)gid;
            found = true;
        }
        if (!group && member[0] && n > 3 && u->n_groups < USER_GROUPS_MAX && user_in_list(f[3], member) &&
            !user_has_group(u, (uint32_t)gid))
            u->groups[u->n_groups++] = (uint32_t)gid;
    }
    buf_done(&b);
    if (r < 0)
        return err_set(e, -r, "/etc/group of the image cannot be read: %s", strerror(-r));
    if (group && !found)
        return err_set(e, ENOENT,
                       "group %s: the image's /etc/group has none of that name; make it first, or use its number",
                       group);
    return 0;
}

int image_user_find(int root_fd, const char *user, struct image_user *ret_user, struct err *e)
{
    struct image_user u = { .home = "/" };
    AUTO_FREE char *name = strdup(user && user[0] ? user : "0");
    AUTO_FREE uint32_t *groups = calloc(USER_GROUPS_MAX, sizeof(*groups));
    char member[256] = "", *group;
    int r;

    if (!name || !groups)
        return err_set(e, ENOMEM, "out of memory");
    u.groups = groups;
    group = strchr(name, ':');
    if (group)
        *group++ = '\0';
    r = user_passwd(root_fd, name[0] ? name : "0", &u, member, sizeof(member), e);
    u.n_groups = u.uid ? 1 : 0; /* as Podman: another user's first group is among the others, too */
    u.groups[0] = u.gid;
    if (r == 0)
        r = user_groups(root_fd, group && group[0] ? group : NULL, member, &u, e);
    if (r < 0)
        return r;
    if (u.uid)
        u.groups[0] = u.gid;
    groups = NULL;
    *ret_user = u;
    return 0;
}
