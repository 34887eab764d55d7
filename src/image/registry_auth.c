#include "image/registry_auth.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/fdio.h"
#include "base/text.h"
#include "image/registry_ref.h"
#include "proto/json.h"
#include "sys/dirs.h"

#define AUTH_FILE_MAX (1U << 20)
#define AUTH_TEXT_MAX 65536
#define AUTH_HUB "index.docker.io/v1" /* as Docker names its own registry */

static void auth_wipe(char *text)
{
    if (text)
        explicit_bzero(text, strlen(text));
    free(text);
}

void registry_credentials_done(struct registry_credentials *c)
{
    auth_wipe(c->user);
    auth_wipe(c->password);
    auth_wipe(c->identity_token);
    *c = (struct registry_credentials){ 0 };
}

/* ---- base64 ---- */

static char *auth_encode(const char *text, size_t len)
{
    char *out = malloc(4 * ((len + 2) / 3) + 1);

    if (out)
        EVP_EncodeBlock((unsigned char *)out, (const unsigned char *)text, (int)len);
    return out;
}

/* "user:password" of an entry's "auth". -EINVAL: not that. */
static int auth_decode(const char *text, struct registry_credentials *c)
{
    size_t len = strlen(text);
    AUTO_FREE char *plain = NULL;
    const char *colon;
    int n;

    if (len == 0 || len > AUTH_TEXT_MAX)
        return -EINVAL;
    plain = calloc(1, len + 1);
    if (!plain)
        return -ENOMEM;
    n = EVP_DecodeBlock((unsigned char *)plain, (const unsigned char *)text, (int)len);
    if (n < 0)
        return -EINVAL;
    plain[n] = '\0'; /* padding was decoded as zeroes */
    colon = strchr(plain, ':');
    if (!colon)
        return -EINVAL;
    c->user = text_copy(plain, (size_t)(colon - plain));
    c->password = text_copy(colon + 1, strlen(colon + 1));
    explicit_bzero(plain, len);
    return c->user && c->password ? 0 : -ENOMEM;
}

char *registry_auth_basic(const struct registry_credentials *c)
{
    size_t len = strlen(c->user) + 1 + strlen(c->password);
    AUTO_FREE char *plain = malloc(len + 1), *code = NULL;
    char *out = NULL;

    if (!plain)
        return NULL;
    snprintf(plain, len + 1, "%s:%s", c->user, c->password);
    code = auth_encode(plain, len);
    explicit_bzero(plain, len);
    if (code && asprintf(&out, "Basic %s", code) < 0)
        out = NULL;
    return out;
}

/* ---- documents ---- */

static const char *auth_member(json_object *o, const char *key)
{
    json_object *v;

    if (!json_object_object_get_ex(o, key, &v) || !json_object_is_type(v, json_type_string))
        return NULL;
    return json_object_get_string_len(v) == (int)strlen(json_object_get_string(v)) ? json_object_get_string(v) : NULL;
}

static int auth_entry(json_object *entry, const char *key, struct registry_credentials *ret, struct err *e)
{
    struct registry_credentials c = { 0 };
    const char *auth = auth_member(entry, "auth"), *user = auth_member(entry, "username"),
               *password = auth_member(entry, "password"), *token = auth_member(entry, "identitytoken");
    int r = 0;

    if (auth && auth[0]) {
        r = auth_decode(auth, &c);
    } else if (user && user[0] && password) {
        c.user = strdup(user);
        c.password = strdup(password);
        r = c.user && c.password ? 0 : -ENOMEM;
    } else if (!token) {
        return 1; /* an empty entry: kept by a credential helper */
    }
    if (r == 0 && token && token[0]) {
        c.identity_token = strdup(token);
        r = c.identity_token ? 0 : -ENOMEM;
    }
    if (r == 0) {
        *ret = c;
        return 0;
    }
    registry_credentials_done(&c);
    return err_set(e, -r, r == -ENOMEM ? "out of memory" : "the entry for %s cannot be read; log in again", key);
}

/* The key of an entry as host[/path]: old Docker files have URLs. */
static bool auth_key_fits(const char *key, const char *want)
{
    size_t len;

    if (strncmp(key, "https://", 8) == 0)
        key += 8;
    else if (strncmp(key, "http://", 7) == 0)
        key += 7;
    len = strlen(key);
    while (len > 0 && key[len - 1] == '/')
        len--;
    return len == strlen(want) && strncmp(key, want, len) == 0;
}

static int auth_find_key(json_object *auths, const char *want, struct registry_credentials *ret, struct err *e)
{
    json_object_object_foreach(auths, key, entry)
    {
        if (auth_key_fits(key, want) && json_object_is_type(entry, json_type_object)) {
            int r = auth_entry(entry, key, ret, e);

            if (r <= 0)
                return r;
        }
    }
    return 1;
}

int registry_auth_lookup(json_object *document, const char *host, const char *repository,
                         struct registry_credentials *ret_credentials, struct err *e)
{
    char want[REGISTRY_HOST_MAX + REGISTRY_REPOSITORY_MAX];
    json_object *auths = NULL;
    int r;

    *ret_credentials = (struct registry_credentials){ 0 };
    if (!json_object_object_get_ex(document, "auths", &auths))
        return 1;
    if (!json_object_is_type(auths, json_type_object))
        return err_set(e, EINVAL, "'auths' is no object; log in again");
    snprintf(want, sizeof(want), "%s%s%s", host, repository[0] ? "/" : "", repository);
    for (;;) {
        char *slash = strrchr(want, '/');

        r = auth_find_key(auths, want, ret_credentials, e);
        if (r <= 0 || !slash)
            break;
        *slash = '\0';
    }
    if (r == 1 && strcmp(host, REGISTRY_DEFAULT_HOST) == 0)
        r = auth_find_key(auths, AUTH_HUB, ret_credentials, e);
    return r;
}

/* ---- files ---- */

struct auth_files {
    char at[3][SYS_DIR_MAX];
    size_t n;
};

static void auth_file_add(struct auth_files *f, const char *dir, const char *name)
{
    if (dir && dir[0] && snprintf(f->at[f->n], SYS_DIR_MAX, "%s/%s", dir, name) < SYS_DIR_MAX)
        f->n++;
}

static void auth_files_list(struct auth_files *f)
{
    const char *only = getenv("REGISTRY_AUTH_FILE"), *runtime = getenv("XDG_RUNTIME_DIR"), *home = getenv("HOME");
    char dir[64];

    *f = (struct auth_files){ 0 };
    if (only && only[0]) {
        if (strlen(only) < SYS_DIR_MAX)
            snprintf(f->at[f->n++], SYS_DIR_MAX, "%s", only);
        return;
    }
    snprintf(dir, sizeof(dir), "/run/containers/%u", (unsigned)getuid());
    if (runtime && runtime[0])
        auth_file_add(f, runtime, "containers/auth.json");
    else
        auth_file_add(f, dir, "auth.json");
    auth_file_add(f, home, ".config/containers/auth.json");
    auth_file_add(f, home, ".docker/config.json");
}

/* Whether the folder of path is closed to this user: another one's, as /run/containers may be. */
static bool auth_is_hidden(const char *path)
{
    char dir[SYS_DIR_MAX];
    char *slash;

    snprintf(dir, sizeof(dir), "%s", path);
    slash = strrchr(dir, '/');
    if (!slash)
        return false;
    slash[slash == dir] = '\0';
    return access(dir, X_OK) < 0;
}

/* 1: there is no such file. own: it is ours, so that one which cannot be seen is an error. */
static int auth_read(const char *path, bool own, json_object **ret_document, struct err *e)
{
    AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    struct buf b;
    int r;

    if (fd < 0 && errno == EACCES && !own && auth_is_hidden(path))
        return 1;
    if (fd < 0 && errno == EACCES)
        return err_set(e, EACCES, "cannot read credentials from %s: no permission; see who owns it", path);
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        return 1;
    if (fd < 0)
        return err_set(e, errno, "cannot read credentials from %s: %s", path, strerror(errno));
    buf_init(&b, AUTH_FILE_MAX);
    r = fd_read_text(fd, &b);
    if (r < 0)
        err_set(e, -r, "cannot read credentials from %s: %s", path, strerror(-r));
    else if (b.len == 1)
        r = 1; /* an empty file: `login` was interrupted, or somebody made it by hand */
    else if (proto_json_object((char *)b.data, "credentials file", ret_document, e) < 0)
        r = err_set(e, EINVAL, "%s is damaged; remove it and log in again", path);
    if (b.data)
        explicit_bzero(b.data, b.len);
    buf_done(&b);
    return r;
}

int registry_auth_find(const char *host, const char *repository, struct registry_credentials *ret_credentials,
                       struct err *e)
{
    struct auth_files files;

    *ret_credentials = (struct registry_credentials){ 0 };
    auth_files_list(&files);
    for (size_t i = 0; i < files.n; i++) {
        json_object *document = NULL;
        int r = auth_read(files.at[i], false, &document, e);

        if (r == 0) {
            r = registry_auth_lookup(document, host, repository, ret_credentials, e);
            if (r < 0)
                err_wrap(e, "%s", files.at[i]);
        }
        json_object_put(document);
        if (r <= 0)
            return r;
    }
    return 0;
}

int registry_auth_path(char *ret, size_t size, struct err *e)
{
    struct auth_files files;

    auth_files_list(&files);
    if (files.n == 0)
        return err_set(e, ENOENT, "no place for credentials: set REGISTRY_AUTH_FILE, XDG_RUNTIME_DIR or HOME");
    if (snprintf(ret, size, "%s", files.at[0]) >= (int)size)
        return err_set(e, ENAMETOOLONG, "the path of the credentials file is too long; set REGISTRY_AUTH_FILE");
    return 0;
}

/* Replace path by a file with the document, whole or not at all. */
static int auth_write(const char *path, json_object *document, struct err *e)
{
    const char *text =
        json_object_to_json_string_ext(document, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE);
    char temp[SYS_DIR_MAX + 16], dir[SYS_DIR_MAX];
    AUTO_FD int fd = -1;
    char *slash;
    int r = 0;

    snprintf(dir, sizeof(dir), "%s", path);
    slash = strrchr(dir, '/');
    if (slash && slash != dir) {
        *slash = '\0';
        if (access(dir, F_OK) != 0)
            r = sys_dirs_make(dir);
    }
    snprintf(temp, sizeof(temp), "%s.XXXXXX", path);
    if (r == 0) {
        fd = mkostemp(temp, O_CLOEXEC); /* 0600 */
        r = fd < 0 ? -errno : fd_write_all(fd, text, strlen(text));
    }
    if (r == 0 && (fsync(fd) < 0 || rename(temp, path) < 0))
        r = -errno;
    if (r < 0 && fd >= 0)
        unlink(temp);
    return r < 0 ? err_set(e, -r, "cannot write credentials to %s: %s", path, strerror(-r)) : 0;
}

static int auth_open(char path[SYS_DIR_MAX], json_object **ret_document, json_object **ret_auths, struct err *e)
{
    json_object *document = NULL, *auths = NULL;
    int r = registry_auth_path(path, SYS_DIR_MAX, e);

    if (r == 0)
        r = auth_read(path, true, &document, e);
    if (r < 0)
        return r;
    if (!document)
        document = json_object_new_object();
    if (document && !json_object_object_get_ex(document, "auths", &auths)) {
        auths = json_object_new_object();
        json_object_object_add(document, "auths", auths);
    }
    if (!auths || !json_object_is_type(auths, json_type_object)) {
        json_object_put(document);
        return err_set(e, EINVAL, "%s is damaged; remove it and log in again", path);
    }
    *ret_document = document;
    *ret_auths = auths;
    return 0;
}

/* Forget a host, in whichever way its entry is written. Returns whether there was one. */
static bool auth_forget(json_object *auths, const char *host)
{
    const char *hub = strcmp(host, REGISTRY_DEFAULT_HOST) == 0 ? AUTH_HUB : host;
    bool had = false;

    for (bool found = true; found;) {
        found = false;
        json_object_object_foreach(auths, key, entry)
        {
            (void)entry;
            if (auth_key_fits(key, host) || auth_key_fits(key, hub)) {
                json_object_object_del(auths, key);
                had = found = true;
                break;
            }
        }
    }
    return had;
}

int registry_auth_save(const char *host, const char *user, const char *password, struct err *e)
{
    size_t len = strlen(user) + 1 + strlen(password);
    AUTO_FREE char *plain = malloc(len + 1), *code = NULL;
    json_object *document = NULL, *auths = NULL, *entry;
    char path[SYS_DIR_MAX];
    int r = auth_open(path, &document, &auths, e);

    if (r < 0)
        return r;
    if (plain) {
        snprintf(plain, len + 1, "%s:%s", user, password);
        code = auth_encode(plain, len);
        explicit_bzero(plain, len);
    }
    entry = json_object_new_object();
    if (!code || !entry) {
        json_object_put(entry);
        json_object_put(document);
        return err_set(e, ENOMEM, "out of memory");
    }
    (void)auth_forget(auths, host);
    json_object_object_add(entry, "auth", json_object_new_string(code));
    json_object_object_add(auths, host, entry);
    r = auth_write(path, document, e);
    json_object_put(document);
    return r;
}

int registry_auth_remove(const char *host, struct err *e)
{
    json_object *document = NULL, *auths = NULL;
    char path[SYS_DIR_MAX];
    int r = auth_open(path, &document, &auths, e);

    if (r < 0)
        return r;
    r = auth_forget(auths, host) ? auth_write(path, document, e) : 1;
    json_object_put(document);
    return r;
}
