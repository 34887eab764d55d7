#include "image/build_debian.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fdio.h"
#include "image/build_guest.h"
#include "image/build_priv.h"
#include "image/import_priv.h"
#include "proto/json.h"
#include "store/disk.h"

#define DEBIAN_LOG_MAX (16U << 20)
#define DEBIAN_POLL_MS 100
#define DEBIAN_DISK_MIN (1ULL << 30)
#define DEBIAN_DISK_MAX (64ULL << 40)

struct debian {
    const struct image_debian *config;
    struct image_add *add;
    char tar[IMAGE_PATH_MAX + 32], log[IMAGE_PATH_MAX + 32], overlay[IMAGE_PATH_MAX + 32], tree[IMAGE_PATH_MAX + 32],
        disk[IMAGE_PATH_MAX + 32], kernel[IMAGE_PATH_MAX + 32], initrd[IMAGE_PATH_MAX + 32];
    struct image_layer layer; /* of a container */
};

static void debian_tell(const struct debian *d, const char *line)
{
    if (d->config->told)
        d->config->told(d->config->told_opaque, line);
}

/* ---- other programs ---- */

/* The last line of the log that is not empty, for an error. */
static void debian_last_line(const struct debian *d, char *ret, size_t size)
{
    AUTO_FD int fd = open(d->log, O_RDONLY | O_CLOEXEC);
    struct buf b;
    size_t len;

    ret[0] = '\0';
    buf_init(&b, DEBIAN_LOG_MAX);
    if (fd >= 0 && fd_read_all(fd, &b) == 0) {
        for (len = b.len; len > 0 && strchr("\n\r ", b.data[len - 1]); len--)
            ;
        for (size_t at = len; at-- > 0;)
            if (b.data[at] == '\n' || at == 0) {
                at += b.data[at] == '\n';
                snprintf(ret, size, "%.*s", (int)MIN(len - at, size - 1), (const char *)b.data + at);
                break;
            }
    }
    for (char *p = ret; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            *p = ' ';
    buf_done(&b);
}

static void debian_exec(const struct debian *d, char *const argv[])
{
    int null = open("/dev/null", O_RDONLY), log = open(d->log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    sigset_t none;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setpgid(0, 0);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    dup2(null, STDIN_FILENO);
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    setenv("LC_ALL", "C.UTF-8", 1);
    execvp(argv[0], argv);
    dprintf(STDERR_FILENO, "cannot start: %s\n", strerror(errno));
    _exit(127);
}

/* Run a program to its end, its output into the log. package: where it comes from. */
static int debian_run(const struct debian *d, char *const argv[], const char *package, struct err *e)
{
    char line[300];
    int status = 0;
    pid_t child = fork();
    AUTO_FD int pidfd = -1;

    if (child == 0)
        debian_exec(d, argv);
    if (child < 0)
        return err_set(e, errno, "cannot start %s: %s", argv[0], strerror(errno));
    pidfd = (int)syscall(SYS_pidfd_open, child, 0);
    for (;;) {
        struct pollfd p = { .fd = pidfd, .events = POLLIN };

        poll(&p, 1, DEBIAN_POLL_MS);
        if (waitpid(child, &status, WNOHANG) == child)
            break;
        if (d->config->step && !d->config->step(d->config->opaque, 0, 0)) {
            kill(-child, SIGTERM); /* mmdebstrap unmounts and deletes what it has made */
            while (waitpid(child, &status, 0) < 0 && errno == EINTR)
                ;
            return err_set(e, ECANCELED, "interrupted");
        }
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    debian_last_line(d, line, sizeof(line));
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        return err_set(e, ENOENT, "%s is not installed; install Debian's package %s", argv[0], package);
    return err_set(e, EIO, "%s failed: %s", argv[0], line[0] ? line : "it said nothing");
}

/* ---- the root file system ---- */

static int debian_write_file(const struct debian *d, const struct build_guest_file *f, int root)
{
    const char *slash = strrchr(f->path, '/');
    AUTO_FREE char *folder = strndup(f->path, slash ? (size_t)(slash - f->path) : 0);
    AUTO_FD int dir = folder ? build_make_folder(root, folder, geteuid(), getegid()) : -ENOMEM, fd = -1;

    (void)d;
    if (dir < 0)
        return dir;
    if (!f->text)
        return symlinkat(f->target, dir, slash + 1) < 0 ? -errno : 0;
    fd = openat(dir, slash + 1, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || fchmod(fd, f->mode) < 0)
        return -errno;
    return fd_write_all(fd, f->text, strlen(f->text));
}

/* The agent, so that exec and cp work. */
static int debian_write_agent(const struct debian *d, int root)
{
    AUTO_FD int from = open(d->config->agent, O_RDONLY | O_CLOEXEC), to = -1;
    AUTO_FD int dir = build_make_folder(root, "usr/lib/caisson", geteuid(), getegid());
    ssize_t n;

    if (from < 0 || dir < 0)
        return from < 0 ? -errno : dir;
    to = openat(dir, "caisson-agent", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (to < 0 || fchmod(to, 0755) < 0)
        return -errno;
    do
        n = sendfile(to, from, NULL, 1U << 20);
    while (n > 0);
    return n < 0 ? -errno : 0;
}

static int debian_overlay(const struct debian *d, struct err *e)
{
    AUTO_FD int root = -1;
    int r = mkdir(d->overlay, 0755) < 0 ? -errno : 0;

    if (r == 0) {
        root = open(d->overlay, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        r = root < 0 ? -errno : 0;
    }
    for (size_t i = 0; i < build_guest_n_files && r == 0; i++)
        if (build_guest_files[i].when != (d->config->cloud_init ? GUEST_OWN_FIRST_BOOT : GUEST_CLOUD_INIT))
            r = debian_write_file(d, &build_guest_files[i], root);
    if (r == 0 && d->config->agent)
        r = debian_write_agent(d, root);
    return r < 0 ? err_set(e, -r, "cannot write %s: %s", d->overlay, strerror(-r)) : 0;
}

static int debian_check(const struct image_debian *c, struct err *e)
{
    if (!c->suite[0] || strspn(c->suite, "abcdefghijklmnopqrstuvwxyz0123456789-") != strlen(c->suite))
        return err_set(e, EINVAL, "--debian %.40s: not a suite; use one such as bookworm", c->suite);
    /* It becomes an argument of a program, and a list with commas there. */
    if (c->packages && strspn(c->packages, "abcdefghijklmnopqrstuvwxyz0123456789+-.:,") != strlen(c->packages))
        return err_set(e, EINVAL, "--packages %.100s: names of packages with commas between them only", c->packages);
    if (c->disk_bytes && (c->disk_bytes < DEBIAN_DISK_MIN || c->disk_bytes > DEBIAN_DISK_MAX))
        return err_set(e, ERANGE, "--disk: a disk has from 1G to 64T; 2G is enough for a small system");
    return 0;
}

static int debian_bootstrap(struct debian *d, struct err *e)
{
    const struct image_debian *c = d->config;
    char sync[IMAGE_PATH_MAX + 64];
    AUTO_FREE char *include = NULL;
    char *argv[24];
    size_t n = 0;

    if (asprintf(&include, "--include=%s%s%s%s", c->disk_bytes ? BUILD_GUEST_PACKAGES : "ca-certificates",
                 c->disk_bytes && c->cloud_init ? ",cloud-init,netplan.io" : "",
                 c->packages && c->packages[0] ? "," : "", c->packages ? c->packages : "") < 0) {
        include = NULL;
        return err_set(e, ENOMEM, "out of memory");
    }
    argv[n++] = (char *)"mmdebstrap";
    argv[n++] = (char *)(geteuid() == 0 ? "--mode=root" : "--mode=unshare");
    argv[n++] = (char *)"--variant=minbase";
    argv[n++] = include;
    argv[n++] = (char *)"--dpkgopt=path-exclude=/usr/share/man/*";
    argv[n++] = (char *)"--dpkgopt=path-exclude=/usr/share/locale/*";
    argv[n++] = (char *)"--dpkgopt=path-exclude=/usr/share/doc/*";
    argv[n++] = (char *)"--dpkgopt=path-include=/usr/share/doc/*/copyright";
    if (c->disk_bytes) {
        snprintf(sync, sizeof(sync), "--essential-hook=sync-in %s /", d->overlay);
        argv[n++] = sync;
        argv[n++] = (char *)"--customize-hook=chroot \"$1\" sh -c 'rm -f /etc/ssh/ssh_host_*; : >/etc/machine-id; "
                            "ln -sf /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf; rm -f /boot/*.old "
                            "/vmlinuz* /initrd*'";
    }
    argv[n++] = (char *)"--format=tar";
    argv[n++] = (char *)c->suite;
    argv[n++] = d->tar;
    if (c->mirror)
        argv[n++] = (char *)c->mirror;
    argv[n] = NULL;
    debian_tell(d, "fetching and unpacking packages by mmdebstrap");
    return debian_run(d, argv, "mmdebstrap", e);
}

/* ---- a container image ---- */

/* With the right to make files of others. */
static int debian_pack(void *opaque, const struct image_work *work, struct err *e)
{
    struct debian *d = opaque;
    AUTO_FD int tree = -1;
    char *untar[] = { (char *)"tar", (char *)"--numeric-owner",   (char *)"-C", d->tree, (char *)"-xpf",
                      d->tar,        (char *)"--exclude=./dev/*", NULL };
    int r = mkdir(d->tree, 0755) < 0 ? err_set(e, errno, "cannot make %s: %s", d->tree, strerror(errno)) : 0;

    if (r == 0)
        r = debian_run(d, untar, "tar", e);
    if (r == 0) {
        tree = open(d->tree, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        r = tree < 0 ? err_set(e, errno, "cannot open %s: %s", d->tree, strerror(errno)) : 0;
    }
    (void)work;
    return r < 0 ? r : image_layer_pack(d->add, tree, false, IMAGE_COMPRESS_GZIP, NULL, &d->layer, e);
}

static int debian_put(struct image_add *a, json_object *o, char ret_digest[IMAGE_DIGEST_MAX], size_t *ret_size,
                      struct err *e)
{
    const char *text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);

    if (!text)
        return err_set(e, ENOMEM, "out of memory");
    *ret_size = strlen(text);
    return image_blob_put(a, text, *ret_size, NULL, ret_digest, e);
}

static int debian_container(struct debian *d, char ret_manifest[IMAGE_DIGEST_MAX], struct err *e)
{
    struct inst_strings command = { 0 };
    json_object *doc = NULL, *layers = json_object_new_array();
    char digest[IMAGE_DIGEST_MAX], history[200];
    struct timespec now;
    size_t size = 0;
    int r;

    debian_tell(d, "packing the layer");
    r = image_ids_run(debian_pack, d, NULL, e);
    if (r == 0 && (inst_strings_add(&command, "/bin/bash") < 0 || !(doc = build_doc_new())))
        r = err_set(e, ENOMEM, "out of memory");
    if (r == 0) {
        build_doc_pair(doc, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        build_doc_strings(doc, "Cmd", &command);
        build_doc_diff_id(doc, d->layer.diff_id);
        clock_gettime(CLOCK_REALTIME, &now);
        snprintf(history, sizeof(history), "caisson image build --debian %.40s%s%.100s", d->config->suite,
                 d->config->packages ? " --packages " : "", d->config->packages ? d->config->packages : "");
        build_doc_history(doc, history, false, now.tv_sec * 1000000000LL);
        json_object_array_add(
            layers, import_descriptor(oci_media_name(OCI_MEDIA_LAYER), "+gzip", d->layer.digest, d->layer.size));
        r = debian_put(d->add, doc, digest, &size, e);
    }
    if (r == 0)
        r = import_write_manifest(d->add, digest, size, layers, ret_manifest, e);
    else
        json_object_put(layers);
    json_object_put(doc);
    inst_strings_done(&command);
    return r;
}

/* ---- a VM image ---- */

/* Unpack, take kernel and initrd out of /boot, and make the file system from the tree: with the right to make files of
 * others, without mounting anything. */
static int debian_make_disk(void *opaque, const struct image_work *work, struct err *e)
{
    struct debian *d = opaque;
    char size[32];
    char *untar[] = { (char *)"tar", (char *)"--numeric-owner",   (char *)"-C", d->tree, (char *)"-xpf",
                      d->tar,        (char *)"--exclude=./dev/*", NULL };
    char *move[] = {
        (char *)"sh",
        (char *)"-c",
        (char *)"set -e; mv \"$1\"/boot/vmlinuz-* \"$2\"; mv \"$1\"/boot/initrd.img-* \"$3\"; chmod 644 \"$2\" "
                "\"$3\"",
        (char *)"sh",
        d->tree,
        d->kernel,
        d->initrd,
        NULL
    };
    char *make[] = { (char *)"mke2fs",
                     (char *)"-q",
                     (char *)"-t",
                     (char *)"ext4",
                     (char *)"-L",
                     (char *)"caisson-root",
                     (char *)"-m",
                     (char *)"1",
                     (char *)"-E",
                     (char *)"root_owner=0:0,lazy_itable_init=1,nodiscard",
                     (char *)"-d",
                     d->tree,
                     d->disk,
                     size,
                     NULL };
    int r = mkdir(d->tree, 0755) < 0 ? err_set(e, errno, "cannot make %s: %s", d->tree, strerror(errno)) : 0;

    (void)work;
    snprintf(size, sizeof(size), "%lluk", (unsigned long long)(d->config->disk_bytes >> 10));
    if (r == 0)
        r = debian_run(d, untar, "tar", e);
    if (r == 0)
        r = debian_run(d, move, "dash", e);
    return r < 0 ? r : debian_run(d, make, "e2fsprogs", e);
}

static int debian_add_file(struct debian *d, const char *path, enum oci_media media, json_object *layers, struct err *e)
{
    AUTO(image_blob) struct image_blob *blob = NULL;
    AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    AUTO_FREE uint8_t *chunk = malloc(IMAGE_BLOCK);
    char digest[IMAGE_DIGEST_MAX];
    uint64_t size = 0;
    ssize_t n = 0;
    int r;

    if (!chunk)
        return err_set(e, ENOMEM, "out of memory");
    if (fd < 0)
        return err_set(e, errno, "cannot read %s: %s", path, strerror(errno));
    r = image_blob_begin(d->add, &blob, e);
    while (r == 0 && (n = read(fd, chunk, IMAGE_BLOCK)) > 0)
        r = image_blob_write(blob, chunk, (size_t)n, e);
    if (r == 0 && n < 0)
        r = err_set(e, errno, "cannot read %s: %s", path, strerror(errno));
    if (r == 0)
        r = image_blob_end(STEAL(blob), NULL, UINT64_MAX, digest, &size, e);
    if (r == 0)
        json_object_array_add(layers, import_descriptor(oci_media_name(media), "", digest, size));
    return r;
}

static int debian_vm_manifest(struct debian *d, json_object *layers, char ret_manifest[IMAGE_DIGEST_MAX], struct err *e)
{
    json_object *config = NULL, *o = json_object_new_object();
    char digest[IMAGE_DIGEST_MAX];
    struct timespec now;
    size_t size = 0;
    int r = proto_json_object(BUILD_GUEST_CONFIG, "VM configuration", &config, e);

    clock_gettime(CLOCK_REALTIME, &now);
    if (r == 0) {
        json_object_object_add(config, "created", proto_json_time(now.tv_sec * 1000000000LL));
        json_object_object_add(config, "architecture", json_object_new_string("amd64"));
        r = debian_put(d->add, config, digest, &size, e);
    }
    if (r == 0) {
        json_object_object_add(o, "schemaVersion", json_object_new_int(2));
        json_object_object_add(o, "mediaType", json_object_new_string(oci_media_name(OCI_MEDIA_MANIFEST)));
        json_object_object_add(o, "config", import_descriptor(oci_media_name(OCI_MEDIA_VM_CONFIG), "", digest, size));
        json_object_object_add(o, "layers", json_object_get(layers));
        r = debian_put(d->add, o, ret_manifest, &size, e);
    }
    json_object_put(config);
    json_object_put(o);
    return r;
}

static int debian_vm(struct debian *d, char ret_manifest[IMAGE_DIGEST_MAX], struct err *e)
{
    json_object *layers = json_object_new_array();
    char qcow2[IMAGE_PATH_MAX + 64];
    struct disk_convert_config convert = { .source = { .path = d->disk, .format = "raw" },
                                           .target = { .path = qcow2, .format = "qcow2", .zstd = true },
                                           .compress = true,
                                           .sparse = 65536 };
    struct disk_convert_report report;
    const struct disk_progress progress = { .step = d->config->step, .opaque = d->config->opaque };
    int r;

    snprintf(qcow2, sizeof(qcow2), "%s.qcow2", d->disk);
    debian_tell(d, "making the file system");
    r = image_ids_run(debian_make_disk, d, NULL, e);
    if (r == 0) {
        debian_tell(d, "compressing the disk");
        r = disk_convert(&convert, &progress, &report, e);
    }
    if (r == 0)
        r = debian_add_file(d, qcow2, OCI_MEDIA_VM_DISK, layers, e);
    if (r == 0)
        r = debian_add_file(d, d->kernel, OCI_MEDIA_VM_KERNEL, layers, e);
    if (r == 0)
        r = debian_add_file(d, d->initrd, OCI_MEDIA_VM_INITRD, layers, e);
    if (r == 0)
        r = debian_vm_manifest(d, layers, ret_manifest, e);
    json_object_put(layers);
    return r;
}

/* ---- the whole ---- */

static void debian_paths(struct debian *d)
{
    const char *tmp = d->add->place.tmp;

    snprintf(d->tar, sizeof(d->tar), "%s/root.tar", tmp);
    snprintf(d->log, sizeof(d->log), "%s/log", tmp);
    snprintf(d->overlay, sizeof(d->overlay), "%s/overlay", tmp);
    snprintf(d->tree, sizeof(d->tree), "%s/tree", tmp);
    snprintf(d->disk, sizeof(d->disk), "%s/disk", tmp);
    snprintf(d->kernel, sizeof(d->kernel), "%s/vmlinuz", tmp);
    snprintf(d->initrd, sizeof(d->initrd), "%s/initrd", tmp);
}

static int debian_commit(struct debian *d, const char *manifest, char ret_id[IMAGE_DIGEST_MAX], struct err *e)
{
    const struct inst_strings *names = d->config->names;
    size_t n = names ? names->n : 0;
    AUTO_FREE struct build_name *full = calloc(n + 1, sizeof(*full));
    AUTO_FREE const char **list = calloc(n + 1, sizeof(*list));
    struct image image = { 0 };
    int r = full && list ? 0 : err_set(e, ENOMEM, "out of memory");

    for (size_t i = 0; i < n && r == 0; i++) {
        r = image_name_local(names->at[i], full[i].text, e);
        list[i] = full[i].text;
    }
    if (r == 0)
        r = image_add_commit(d->add, manifest, list, n, NULL, &image, e);
    if (r == 0)
        snprintf(ret_id, IMAGE_DIGEST_MAX, "%s", image.id);
    image_done(&image);
    return r;
}

int image_build_debian(struct store *s, const struct image_debian *config, char ret_id[IMAGE_DIGEST_MAX], struct err *e)
{
    struct debian *d = mmap(NULL, sizeof(*d), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char manifest[IMAGE_DIGEST_MAX];
    int r;

    if (d == MAP_FAILED) /* shared with the process that packs */
        return err_set(e, ENOMEM, "out of memory");
    d->config = config;
    r = debian_check(config, e);
    if (r == 0)
        r = image_add_begin(s, &d->add, e);
    if (r == 0) {
        debian_paths(d);
        r = config->disk_bytes ? debian_overlay(d, e) : 0;
    }
    if (r == 0)
        r = debian_bootstrap(d, e);
    if (r == 0)
        r = config->disk_bytes ? debian_vm(d, manifest, e) : debian_container(d, manifest, e);
    if (r == 0)
        r = debian_commit(d, manifest, ret_id, e);
    image_add_free(d->add);
    munmap(d, sizeof(*d));
    return r;
}
