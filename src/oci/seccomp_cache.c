/* Filters that were compiled before: libseccomp takes 20 ms and more for an engine's default profile, several times
 * what all else about a container takes, and the profile is mostly the same one. A file of the cache has the whole key
 * in it, not only a hash, so nobody gets another's filter by a collision. The key's hash chooses one of a fixed number
 * of files: the cache does not grow, and what is needed less is overwritten. Invariant: a file appears by rename,
 * complete. Whoever can write to the directory is as privileged as the runtime. */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "oci/seccomp_priv.h"

#define CACHE_FILES 64
#define CACHE_KEY_MAX (256u << 10)
#define CACHE_FILE_MAX (CACHE_KEY_MAX + OCI_BPF_MAX * sizeof(struct sock_filter) + sizeof(struct cache_head))
#define CACHE_NAME_MAX 40

/* Another number with each change of what a profile compiles to. */
static const char cache_magic[8] = "caisec2";

/* The key follows, then the program. */
struct cache_head {
    char magic[8];
    uint32_t crc; /* of all behind it */
    uint32_t key_len, insns, notify;
    uint64_t flags;
};

static void cache_put_u64(struct buf *key, uint64_t n)
{
    buf_append(key, &n, sizeof(n));
}

/* With the zero byte at its end, so that two strings cannot be taken for two others. NULL and "" differ. */
static void cache_put_string(struct buf *key, const char *text)
{
    buf_append(key, text ? "+" : "-", 1);
    if (text)
        buf_append(key, text, strlen(text) + 1);
}

static void cache_put_strings(struct buf *key, const struct oci_strings *s)
{
    cache_put_u64(key, s->n);
    for (size_t i = 0; i < s->n; i++)
        cache_put_string(key, s->v[i]);
}

void oci_seccomp_key(const struct oci_seccomp *s, struct buf *key)
{
    const struct scmp_version *library = seccomp_version();
    struct utsname host = { 0 };

    /* Another kernel may know other actions; another libseccomp, other calls. */
    cache_put_string(key, CAISSON_VERSION);
    cache_put_u64(key, (uint64_t)library->major << 32 | library->minor << 16 | library->micro);
    (void)uname(&host);
    cache_put_string(key, host.release);
    cache_put_string(key, host.machine);
    cache_put_u64(key, s->default_action);
    cache_put_u64(key, (uint64_t)s->default_errno_ret);
    cache_put_strings(key, &s->architectures);
    cache_put_u64(key, s->flags_present);
    cache_put_strings(key, &s->flags);
    /* Only whether they are there: that can be an error. */
    cache_put_u64(key, (s->listener_path ? 1 : 0) | (s->listener_metadata ? 2 : 0));
    cache_put_u64(key, s->n_rules);
    for (size_t i = 0; i < s->n_rules; i++) {
        const struct oci_seccomp_rule *rule = &s->rules[i];

        cache_put_u64(key, rule->action);
        cache_put_u64(key, (uint64_t)rule->errno_ret);
        cache_put_strings(key, &rule->names);
        cache_put_u64(key, rule->n_args);
        for (size_t k = 0; k < rule->n_args; k++) {
            cache_put_u64(key, (uint64_t)rule->args[k].index << 32 | (uint32_t)rule->args[k].op);
            cache_put_u64(key, rule->args[k].value);
            cache_put_u64(key, rule->args[k].value_two);
        }
    }
}

static uint32_t cache_crc(const void *file, size_t len)
{
    const size_t from = offsetof(struct cache_head, key_len);

    return crc32c(0, (const uint8_t *)file + from, len - from);
}

void oci_seccomp_cache_pack(const struct buf *key, const struct oci_bpf *b, struct buf *ret)
{
    struct cache_head head = {
        .key_len = (uint32_t)key->len, .insns = (uint32_t)b->n, .notify = b->notify, .flags = b->flags
    };

    memcpy(head.magic, cache_magic, sizeof(head.magic));
    buf_append(ret, &head, sizeof(head));
    buf_append(ret, key->data, key->len);
    buf_append(ret, b->program, b->n * sizeof(struct sock_filter));
    if (ret->error == 0) {
        head.crc = cache_crc(ret->data, ret->len);
        memcpy(ret->data, &head, sizeof(head));
    }
}

int oci_seccomp_cache_unpack(const struct buf *key, const void *data, size_t len, struct oci_bpf *ret)
{
    struct cache_head head;
    size_t program_len;
    void *program;

    if (len < sizeof(head))
        return -ENOENT;
    memcpy(&head, data, sizeof(head));
    if (memcmp(head.magic, cache_magic, sizeof(head.magic)) != 0 || head.insns == 0 || head.insns > OCI_BPF_MAX ||
        head.key_len != key->len || head.notify > 1)
        return -ENOENT;
    program_len = head.insns * sizeof(struct sock_filter);
    if (len != sizeof(head) + key->len + program_len || head.crc != cache_crc(data, len) ||
        memcmp((const uint8_t *)data + sizeof(head), key->data, key->len) != 0)
        return -ENOENT;
    program = malloc(program_len);
    if (!program)
        return -ENOMEM;
    memcpy(program, (const uint8_t *)data + sizeof(head) + key->len, program_len);
    *ret = (struct oci_bpf){ .program = program, .n = head.insns, .flags = head.flags, .notify = head.notify };
    return 0;
}

static void cache_name(const struct buf *key, char ret[CACHE_NAME_MAX])
{
    snprintf(ret, CACHE_NAME_MAX, "@seccomp-%02x", crc32c(0, key->data, key->len) % CACHE_FILES);
}

/* Nobody else may have written it. */
static bool cache_is_ours(const struct stat *st)
{
    return st->st_uid == geteuid() && (st->st_mode & 022) == 0;
}

static int cache_read(int cache_fd, const struct buf *key, struct oci_bpf *ret)
{
    char name[CACHE_NAME_MAX];
    AUTO_FD int fd = -1;
    AUTO_FREE void *data = NULL;
    struct stat st;

    cache_name(key, name);
    fd = openat(cache_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode) || !cache_is_ours(&st) || st.st_size <= 0 || st.st_size > (off_t)CACHE_FILE_MAX)
        return -ENOENT;
    data = malloc((size_t)st.st_size);
    if (!data)
        return -ENOMEM;
    if (read(fd, data, (size_t)st.st_size) != st.st_size)
        return -ENOENT;
    return oci_seccomp_cache_unpack(key, data, (size_t)st.st_size, ret);
}

/* Failures are ignored: the next container compiles again. */
static void cache_write(int cache_fd, const struct buf *key, const struct oci_bpf *b)
{
    char name[CACHE_NAME_MAX], temp[CACHE_NAME_MAX];
    struct buf file;
    AUTO_FD int fd = -1;

    buf_init(&file, CACHE_FILE_MAX);
    oci_seccomp_cache_pack(key, b, &file);
    if (buf_error(&file) == 0) {
        cache_name(key, name);
        snprintf(temp, sizeof(temp), "@seccomp-new.%d", getpid());
        fd = openat(cache_fd, temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd >= 0 &&
            (write(fd, file.data, file.len) != (ssize_t)file.len || renameat(cache_fd, temp, cache_fd, name) < 0))
            unlinkat(cache_fd, temp, 0);
    }
    buf_done(&file);
}

int oci_seccomp_compile_cached(const struct oci_seccomp *s, int cache_fd, struct oci_bpf *ret, struct err *e)
{
    struct stat st;
    struct buf key;
    bool usable;
    int r;

    buf_init(&key, CACHE_KEY_MAX);
    if (cache_fd >= 0)
        oci_seccomp_key(s, &key);
    usable = cache_fd >= 0 && buf_error(&key) == 0 && fstat(cache_fd, &st) == 0 && cache_is_ours(&st);
    r = usable ? cache_read(cache_fd, &key, ret) : -ENOENT;
    if (r < 0) {
        r = oci_seccomp_compile(s, ret, e);
        if (r == 0 && usable)
            cache_write(cache_fd, &key, ret);
    }
    buf_done(&key);
    return r;
}
