#include "instance/seed.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/fdio.h"
#include "base/text.h"
#include "proto/vm_spec.h"
#include "wire/addr.h"

#define SEED_KEY_FILE_MAX (64U << 10)
#define SEED_KEYS_MAX 64
#define SEED_USER_MAX 32
#define SEED_HASH_MAX 512
#define SEED_CLOUD_CONFIG "#cloud-config\n"

/* ---- what the user gives ---- */

/* A text file of at most max bytes. */
static int seed_read_file(const char *path, const char *what, size_t max, char **ret_text, struct err *e)
{
    AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    struct buf b;
    int r;

    if (fd < 0)
        return err_set(e, errno, "%s %s: %s", what, path, strerror(errno));
    buf_init(&b, max + 1);
    r = fd_read_all(fd, &b);
    if (r == 0)
        r = buf_error(&b);
    if (r == 0 && b.len > max)
        r = -E2BIG;
    if (r == 0 && memchr(b.data ? (char *)b.data : "", '\0', b.len))
        r = -EILSEQ;
    if (r == 0)
        *ret_text = text_copy(b.data ? (char *)b.data : "", b.len);
    buf_done(&b);
    if (r == -E2BIG)
        return err_set(e, EINVAL, "%s %s: longer than %zu bytes; is it the right file?", what, path, max);
    if (r == -EILSEQ)
        return err_set(e, EINVAL, "%s %s: not a text; is it the right file?", what, path);
    if (r < 0)
        return err_set(e, -r, "%s %s: %s", what, path, strerror(-r));
    return *ret_text ? 0 : err_set(e, ENOMEM, "out of memory");
}

int inst_seed_read_user_data(const char *path, char **ret_text, struct err *e)
{
    AUTO_FREE char *text = NULL;
    int r = seed_read_file(path, "user data", INST_SEED_USER_DATA_MAX, &text, e);

    if (r < 0)
        return r;
    if (text[0] != '#' && strncmp(text, "Content-Type:", 13) != 0 && strncmp(text, "MIME-Version:", 13) != 0)
        return err_set(
            e, EINVAL,
            "user data %s: cloud-init would ignore it; its first line must be #cloud-config, #!... or another "
            "of its marks",
            path);
    *ret_text = STEAL(text);
    return 0;
}

/* A line of authorized_keys: options perhaps, a type, the key. */
static bool seed_is_key(const char *line)
{
    static const char *const types[] = { "ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-" };

    for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
        const char *at = strstr(line, types[i]);

        if (at && (at == line || at[-1] == ' ') && strchr(at, ' '))
            return true;
    }
    return false;
}

static int seed_add_keys(const char *path, char *text, struct inst_strings *keys, struct err *e)
{
    size_t before = keys->n;
    char *rest = text, *line;

    while ((line = strsep(&rest, "\n"))) {
        line[strcspn(line, "\r")] = '\0';
        line += strspn(line, " \t");
        if (!*line || *line == '#')
            continue;
        if (!seed_is_key(line))
            return err_set(e, EINVAL, "SSH key %s: not a public key; give the file that ends with .pub", path);
        if (keys->n == SEED_KEYS_MAX)
            return err_set(e, EINVAL, "SSH key %s: more than %d keys; give fewer", path, SEED_KEYS_MAX);
        if (inst_strings_add(keys, line) < 0)
            return err_set(e, ENOMEM, "out of memory");
    }
    return keys->n > before ? 0
                            : err_set(e, EINVAL,
                                      "SSH key %s: there is no key in it; give the file that ends with "
                                      ".pub",
                                      path);
}

static int seed_read_own_keys(struct inst_strings *keys, struct err *e)
{
    static const char *const names[] = { "id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub", "id_ed25519_sk.pub",
                                         "id_ecdsa_sk.pub" };
    const char *home = getenv("HOME");
    size_t before = keys->n;

    for (size_t i = 0; home && i < ARRAY_SIZE(names); i++) {
        char path[4096];
        int r;

        snprintf(path, sizeof(path), "%s/.ssh/%s", home, names[i]);
        if (access(path, R_OK) < 0)
            continue;
        r = inst_seed_read_keys(path, keys, e);
        if (r < 0)
            return r;
    }
    return keys->n > before ? 0
                            : err_set(e, ENOENT,
                                      "SSH key auto: there is no public key in ~/.ssh; make one with "
                                      "ssh-keygen, or name its file");
}

int inst_seed_read_keys(const char *path, struct inst_strings *keys, struct err *e)
{
    AUTO_FREE char *text = NULL;
    int r;

    if (strcmp(path, "auto") == 0)
        return seed_read_own_keys(keys, e);
    r = seed_read_file(path, "SSH key", SEED_KEY_FILE_MAX, &text, e);
    return r < 0 ? r : seed_add_keys(path, text, keys, e);
}

int inst_seed_check(const struct inst_seed *s, struct err *e)
{
    const char *u = s->user;

    if (u && (strlen(u) > SEED_USER_MAX || u[0] == '-' ||
              strspn(u, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") != strlen(u) || !u[0]))
        return err_set(e, EINVAL, "--user %s: no name of an account; use letters, digits, _ . and -, at most %d", u,
                       SEED_USER_MAX);
    if (s->password_hash &&
        (s->password_hash[0] != '$' || strlen(s->password_hash) > SEED_HASH_MAX || strpbrk(s->password_hash, ": \n")))
        return err_set(e, EINVAL,
                       "--password-hash: not a hash of crypt(3); make one with mkpasswd or openssl passwd -6");
    return 0;
}

/* ---- the documents ---- */

/* An object as a document; puts it. */
static char *seed_text(const char *head, json_object *o)
{
    const char *text =
        o ? json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE) : NULL;
    char *document = NULL;

    if (text && asprintf(&document, "%s%s\n", head, text) < 0)
        document = NULL;
    json_object_put(o);
    return document;
}

/* Every json-c call that may fail for want of memory fails the whole: add tells. */
static bool seed_add(json_object *o, const char *key, json_object *v)
{
    if (v && json_object_object_add(o, key, v) == 0)
        return true;
    json_object_put(v);
    return false;
}

static json_object *seed_strings(const struct inst_strings *s)
{
    json_object *list = json_object_new_array();

    for (size_t i = 0; list && i < s->n; i++) {
        json_object *text = json_object_new_string(s->at[i]);

        if (!text || json_object_array_add(list, text) < 0) {
            json_object_put(text);
            json_object_put(list);
            return NULL;
        }
    }
    return list;
}

char *inst_seed_meta_data(const struct inst_seed *s, const char *instance_id, const char *hostname)
{
    json_object *o = json_object_new_object();
    bool ok = o && seed_add(o, "instance-id", json_object_new_string(instance_id)) &&
              seed_add(o, "local-hostname", json_object_new_string(hostname));

    if (ok && s->ssh_keys.n > 0)
        ok = seed_add(o, "public-keys", seed_strings(&s->ssh_keys));
    if (ok)
        return seed_text("", o);
    json_object_put(o);
    return NULL;
}

/* The account that --user names, or the image's own one with a password: one entry of "users". */
static json_object *seed_user(const struct inst_seed *s)
{
    json_object *o = json_object_new_object();
    bool ok = o && seed_add(o, "name", json_object_new_string(s->user)) &&
              seed_add(o, "shell", json_object_new_string("/bin/bash")) &&
              seed_add(o, "sudo", json_object_new_string("ALL=(ALL) NOPASSWD:ALL"));

    if (ok && s->password_hash)
        ok = seed_add(o, "lock_passwd", json_object_new_boolean(false)) &&
             seed_add(o, "hashed_passwd", json_object_new_string(s->password_hash));
    if (ok && s->ssh_keys.n > 0)
        ok = seed_add(o, "ssh_authorized_keys", seed_strings(&s->ssh_keys));
    if (ok)
        return o;
    json_object_put(o);
    return NULL;
}

static char *seed_cloud_config(const struct inst_seed *s)
{
    json_object *o = json_object_new_object(), *users = NULL;
    bool ok = o != NULL;

    if (ok && s->password_hash)
        ok = seed_add(o, "ssh_pwauth", json_object_new_boolean(true));
    if (ok && s->user) {
        json_object *user = seed_user(s);

        users = json_object_new_array();
        ok = user && users && json_object_array_add(users, user) == 0;
        if (!ok)
            json_object_put(user);
        ok = ok && seed_add(o, "users", json_object_get(users));
        json_object_put(users);
    } else if (ok && s->password_hash) { /* of the image's default user */
        ok = seed_add(o, "password", json_object_new_string(s->password_hash));
        users = json_object_new_object();
        ok = ok && users && seed_add(users, "expire", json_object_new_boolean(false));
        ok = ok && seed_add(o, "chpasswd", json_object_get(users));
        json_object_put(users);
    }
    if (ok)
        return seed_text(SEED_CLOUD_CONFIG, o);
    json_object_put(o);
    return NULL;
}

char *inst_seed_user_data(const struct inst_seed *s)
{
    return s->user_data ? strdup(s->user_data) : seed_cloud_config(s);
}

char *inst_seed_vendor_data(const struct inst_seed *s)
{
    return s->user_data && (s->user || s->password_hash) ? seed_cloud_config(s) : strdup("");
}

/* One card: by its MAC, whatever the guest calls it. `optional`: nothing waits for it. Of the cards with DHCP one must
 * not be: systemd-networkd-wait-online waits two minutes for nothing where all are. */
static json_object *seed_card(const struct vm_nic *nic, bool optional)
{
    json_object *o = json_object_new_object(), *match = json_object_new_object();
    char mac[ADDR_MAC_TEXT];
    bool ok;

    addr_mac_format(nic->mac, mac);
    ok = o && match && seed_add(match, "macaddress", json_object_new_string(mac)) &&
         seed_add(o, "match", json_object_get(match)) && seed_add(o, "dhcp4", json_object_new_boolean(true)) &&
         seed_add(o, "dhcp6", json_object_new_boolean(true)) &&
         seed_add(o, "optional", json_object_new_boolean(optional));
    json_object_put(match);
    if (ok)
        return o;
    json_object_put(o);
    return NULL;
}

char *inst_seed_network_config(const struct vm_spec *vm)
{
    json_object *o = json_object_new_object(), *cards = json_object_new_object();
    bool waited_for = false;
    bool ok = o && cards && seed_add(o, "version", json_object_new_int(2)) &&
              seed_add(o, "ethernets", json_object_get(cards));

    for (unsigned i = 0; ok && i < vm->n_nets; i++) {
        const bool optional = waited_for || vm->nets[i].kind == VM_NIC_TAP;

        ok = seed_add(cards, vm->nets[i].name, seed_card(&vm->nets[i], optional));
        waited_for = waited_for || !optional;
    }
    json_object_put(cards);
    if (ok)
        return seed_text("", o);
    json_object_put(o);
    return NULL;
}

/* ---- the image ---- */

static int seed_fail(struct archive *a, const char *path, struct err *e)
{
    int code = archive_errno(a);

    return err_set(e, code > 0 ? code : EIO, "cloud-init seed %s: %s", path, archive_error_string(a));
}

static int seed_put(struct archive *a, const char *path, const char *name, const char *text, struct err *e)
{
    struct archive_entry *entry = archive_entry_new();
    int r = 0;

    if (!entry)
        return err_set(e, ENOMEM, "out of memory");
    archive_entry_set_pathname(entry, name);
    archive_entry_set_size(entry, (int64_t)strlen(text));
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_perm(entry, 0600); /* a hash may be in it */
    archive_entry_set_mtime(entry, 0, 0);
    if (archive_write_header(a, entry) != ARCHIVE_OK ||
        archive_write_data(a, text, strlen(text)) != (la_ssize_t)strlen(text))
        r = seed_fail(a, path, e);
    archive_entry_free(entry);
    return r;
}

/* The documents of an image; owned. */
struct seed_texts {
    char *meta_data, *network_config, *user_data, *vendor_data;
};

static void seed_texts_done(struct seed_texts *t)
{
    free(t->meta_data);
    free(t->network_config);
    free(t->user_data);
    free(t->vendor_data);
}

static int seed_write_image(const struct seed_texts *t, const char *path, int fd, struct err *e)
{
    const struct {
        const char *name, *text;
    } files[] = { { "meta-data", t->meta_data },
                  { "network-config", t->network_config },
                  { "user-data", t->user_data },
                  { "vendor-data", t->vendor_data } };
    struct archive *a = archive_write_new();
    int r = 0;

    if (!a)
        return err_set(e, ENOMEM, "out of memory");
    if (archive_write_set_format_iso9660(a) != ARCHIVE_OK ||
        archive_write_set_options(a, "iso9660:volume-id=cidata,iso9660:!pad") != ARCHIVE_OK ||
        archive_write_open_fd(a, fd) != ARCHIVE_OK)
        r = seed_fail(a, path, e);
    for (size_t i = 0; i < ARRAY_SIZE(files) && r == 0; i++)
        r = seed_put(a, path, files[i].name, files[i].text, e);
    if (r == 0 && archive_write_close(a) != ARCHIVE_OK)
        r = seed_fail(a, path, e);
    if (archive_write_free(a) != ARCHIVE_OK && r == 0)
        r = err_set(e, EIO, "cloud-init seed %s: cannot be written", path);
    return r;
}

/* Complete under another name first. */
static int seed_write_texts(const struct seed_texts *t, const char *path, struct err *e)
{
    AUTO_FREE char *temporary = NULL;
    AUTO_FD int fd = -1;
    int r;

    if (!t->meta_data || !t->network_config || !t->user_data || !t->vendor_data ||
        asprintf(&temporary, "%s.new", path) < 0) {
        temporary = NULL;
        return err_set(e, ENOMEM, "out of memory");
    }
    fd = open(temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_set(e, errno, "cloud-init seed %s: %s", path, strerror(errno));
    r = seed_write_image(t, path, fd, e);
    if (r == 0 && (fsync(fd) < 0 || rename(temporary, path) < 0))
        r = err_set(e, errno, "cloud-init seed %s: %s", path, strerror(errno));
    if (r < 0)
        unlink(temporary);
    return r;
}

int inst_seed_write(const struct inst_seed *s, const char *instance_id, const char *hostname, const struct vm_spec *vm,
                    const char *path, struct err *e)
{
    struct seed_texts t = {
        .meta_data = inst_seed_meta_data(s, instance_id, hostname),
        .network_config = inst_seed_network_config(vm),
        .user_data = inst_seed_user_data(s),
        .vendor_data = inst_seed_vendor_data(s),
    };
    int r = seed_write_texts(&t, path, e);

    seed_texts_done(&t);
    return r;
}

/* ---- the image of another VM ---- */

/* The text of the entry that a stands on. -EINVAL without text: too long, or damaged. */
static int seed_read_entry(struct archive *a, struct archive_entry *entry, char **to)
{
    int64_t size = archive_entry_size(entry);
    char *text;

    if (size < 0 || size > INST_SEED_USER_DATA_MAX || *to)
        return -EINVAL;
    text = calloc(1, (size_t)size + 1);
    if (!text)
        return -ENOMEM;
    *to = text;
    return archive_read_data(a, text, (size_t)size) == (la_ssize_t)size ? 0 : -EINVAL;
}

static int seed_read_image(const char *path, struct seed_texts *t, struct err *e)
{
    const struct {
        const char *name;
        char **to;
    } files[] = { { "meta-data", &t->meta_data }, { "user-data", &t->user_data }, { "vendor-data", &t->vendor_data } };
    struct archive *a = archive_read_new();
    struct archive_entry *entry;
    int r = a ? 0 : -ENOMEM;

    if (r == 0 && (archive_read_support_format_iso9660(a) != ARCHIVE_OK ||
                   archive_read_open_filename(a, path, 32768) != ARCHIVE_OK))
        r = -EINVAL;
    while (r == 0 && archive_read_next_header(a, &entry) == ARCHIVE_OK) {
        const char *name = archive_entry_pathname(entry);

        for (size_t i = 0; i < ARRAY_SIZE(files) && name && r == 0; i++) {
            if (strcmp(name, files[i].name) == 0)
                r = seed_read_entry(a, entry, files[i].to);
        }
    }
    archive_read_free(a);
    if (r == -ENOMEM)
        return err_set(e, ENOMEM, "out of memory");
    if (r < 0 || !t->meta_data || !t->user_data || !t->vendor_data)
        return err_set(e, EINVAL, "cloud-init seed %s: damaged, or not made by Caisson", path);
    return 0;
}

/* The same keys for another identity. */
static int seed_new_identity(struct seed_texts *t, const char *instance_id, const char *hostname)
{
    json_object *o = json_tokener_parse(t->meta_data);
    bool ok = json_object_is_type(o, json_type_object) &&
              seed_add(o, "instance-id", json_object_new_string(instance_id)) &&
              seed_add(o, "local-hostname", json_object_new_string(hostname));

    free(t->meta_data);
    t->meta_data = ok ? seed_text("", json_object_get(o)) : NULL;
    json_object_put(o);
    return ok ? 0 : -EINVAL;
}

int inst_seed_copy(const char *from, const char *instance_id, const char *hostname, const struct vm_spec *vm,
                   const char *path, struct err *e)
{
    struct seed_texts t = { 0 };
    int r = seed_read_image(from, &t, e);

    if (r == 0 && seed_new_identity(&t, instance_id, hostname) < 0)
        r = err_set(e, EINVAL, "cloud-init seed %s: damaged, or not made by Caisson", from);
    if (r == 0) {
        t.network_config = inst_seed_network_config(vm);
        r = seed_write_texts(&t, path, e);
    }
    seed_texts_done(&t);
    return r;
}
