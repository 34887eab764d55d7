/* Layers of a container image as folders for overlayfs. Missing ones are unpacked at the same time by several threads,
 * each into a temporary folder; one that needs to know what its parents have waits for them. They get their names from
 * the bottom up when all of them are on the disk. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "image/image_priv.h"
#include "sys/overlay.h"

#define LAYERS_THREADS_MAX 8
#define LAYERS_REPORT_NS 100000000L

enum layer_state { LAYER_THERE, LAYER_MISSING, LAYER_RUNNING, LAYER_DONE };

struct layer {
    char chain[IMAGE_DIGEST_MAX];
    enum layer_state state;
    _Atomic uint64_t read; /* bytes of its blob */
};

struct layers {
    struct image_place *place;
    const struct image_documents *documents;
    enum image_ids ids;
    struct layer *layer; /* n, lowest first */
    size_t n;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t next, running;
    int error; /* the first */
    struct err e;
    _Atomic bool stop;
};

/* Where a layer's folder is, below place. */
static void layer_name(const struct layers *l, size_t i, bool whole, char ret_name[IMAGE_PATH_MAX])
{
    if (l->layer[i].state == LAYER_THERE)
        snprintf(ret_name, IMAGE_PATH_MAX, "layers/%s%s", image_hex(l->layer[i].chain), whole ? "" : "/diff");
    else
        snprintf(ret_name, IMAGE_PATH_MAX, "tmp/%s/layer-%zu%s", strrchr(l->place->tmp, '/') + 1, i,
                 whole ? "" : "/diff");
}

static int layer_open(const struct layers *l, size_t i, struct err *e)
{
    char name[IMAGE_PATH_MAX];
    int fd;

    layer_name(l, i, false, name);
    fd = openat(l->place->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return fd >= 0 ? fd : err_set(e, errno, "cannot open %s/%s: %s", l->place->path, name, strerror(errno));
}

/* ---- one layer ---- */

struct layer_work {
    struct layers *l;
    size_t i;
    int lower[IMAGE_LAYERS_MAX]; /* topmost first; filled by wait */
};

static int layer_wait(void *opaque)
{
    struct layer_work *w = opaque;
    struct layers *l = w->l;
    bool complete = false;

    pthread_mutex_lock(&l->lock);
    while (!l->error && !complete) {
        complete = true;
        for (size_t i = 0; i < w->i; i++)
            complete = complete && (l->layer[i].state == LAYER_THERE || l->layer[i].state == LAYER_DONE);
        if (!complete)
            pthread_cond_wait(&l->changed, &l->lock);
    }
    pthread_mutex_unlock(&l->lock);
    return complete ? 0 : -ECANCELED;
}

static void layer_step(struct image_stream *s, void *opaque)
{
    struct layer_work *w = opaque;

    if (s)
        w->l->layer[w->i].read = image_stream_in(s);
}

static int layer_verify(const struct layers *l, size_t i, struct image_stream *stream, const char *what, struct err *e)
{
    const struct oci_descriptor *d = &l->documents->manifest.layers[i];
    char blob[IMAGE_DIGEST_MAX], diff[IMAGE_DIGEST_MAX];
    int r = image_stream_end(stream, blob, diff);

    if (r < 0)
        return err_set(e, -r, "%s: %s", what, r == -EBADMSG ? image_stream_why(stream) : strerror(-r));
    if (strcmp(blob, d->digest) != 0)
        return err_set(e, EBADMSG, "%s is damaged: its content is %s; get the image again", what, blob);
    if (strcmp(diff, l->documents->config.diff_ids[i]) != 0)
        return err_set(e, EBADMSG, "%s is refused: unpacked it is %s, and the configuration says %s", what, diff,
                       l->documents->config.diff_ids[i]);
    return 0;
}

static int layer_unpack_into(struct layer_work *w, int root, struct image_stream *stream, const char *what,
                             struct err *e)
{
    struct layers *l = w->l;
    struct image_unpack u = {
        .what = what,
        .root = root,
        .ids = l->ids,
        .userxattr = image_ids_userxattr() || l->ids != IMAGE_IDS_ALL,
        .lower = w->lower,
        .n_lower = w->i,
        .wait = layer_wait,
        .step = layer_step,
        .stop = &l->stop,
        .opaque = w,
    };
    int r = image_unpack(&u, stream, e);

    if (r == 0)
        r = layer_verify(l, w->i, stream, what, e);
    l->layer[w->i].read = image_stream_in(stream);
    return r;
}

static int layer_unpack(struct layers *l, size_t i, struct err *e)
{
    struct layer_work *w = malloc(sizeof(*w));
    AUTO(image_stream) struct image_stream *stream = NULL;
    AUTO_FD int blob = image_place_blob(l->place, l->documents->manifest.layers[i].digest, NULL, e), root = -1;
    char what[96];
    size_t opened = 0;
    int r = blob;

    snprintf(what, sizeof(what), "layer %.*s", IMAGE_SHORT + 7, l->documents->manifest.layers[i].digest);
    if (!w)
        r = err_set(e, ENOMEM, "out of memory");
    if (r >= 0)
        r = root = layer_open(l, i, e);
    for (; r >= 0 && opened < i; opened++)
        r = w->lower[opened] = layer_open(l, i - 1 - opened, e);
    if (r >= 0 && image_stream_open(blob, &stream) < 0)
        r = err_set(e, ENOMEM, "out of memory");
    if (r >= 0) {
        w->l = l;
        w->i = i;
        r = layer_unpack_into(w, root, stream, what, e);
    }
    for (size_t k = 0; w && k < opened; k++)
        base_closep(&w->lower[k]);
    free(w);
    return r < 0 ? r : 0;
}

/* ---- all of them ---- */

static void *layers_thread(void *opaque)
{
    struct layers *l = opaque;

    pthread_mutex_lock(&l->lock);
    while (!l->error && l->next < l->n) {
        struct err e = { 0 };
        size_t i = l->next++;
        int r;

        if (l->layer[i].state != LAYER_MISSING)
            continue;
        l->layer[i].state = LAYER_RUNNING;
        pthread_mutex_unlock(&l->lock);
        r = layer_unpack(l, i, &e);
        pthread_mutex_lock(&l->lock);
        if (r < 0 && !l->error) {
            l->error = r;
            l->e = e;
            l->stop = true;
        }
        if (r == 0)
            l->layer[i].state = LAYER_DONE;
        pthread_cond_broadcast(&l->changed);
    }
    l->running--;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* Tell progress until the threads have ended. Called with the lock. */
static void layers_watch(struct layers *l, const struct disk_progress *progress)
{
    uint64_t total = 0;

    for (size_t i = 0; i < l->n; i++)
        total += l->layer[i].state == LAYER_THERE ? 0 : l->documents->manifest.layers[i].size;
    while (l->running > 0) {
        struct timespec until;
        uint64_t done = 0;

        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += LAYERS_REPORT_NS;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&l->changed, &l->lock, &until);
        for (size_t i = 0; i < l->n; i++)
            done += l->layer[i].read;
        if (l->error || !progress || !progress->step || progress->step(progress->opaque, MIN(done, total), total))
            continue;
        l->error = err_set(&l->e, ECANCELED, "canceled");
        l->stop = true;
        pthread_cond_broadcast(&l->changed);
    }
}

static int layers_run(struct layers *l, size_t missing, const struct disk_progress *progress)
{
    pthread_t threads[LAYERS_THREADS_MAX];
    cpu_set_t cpus;
    size_t n = sched_getaffinity(0, sizeof(cpus), &cpus) == 0 ? (size_t)CPU_COUNT(&cpus) : 1, started = 0;

    n = MIN(MIN(n, missing), LAYERS_THREADS_MAX);
    pthread_mutex_lock(&l->lock);
    while (started < n && pthread_create(&threads[started], NULL, layers_thread, l) == 0) {
        started++;
        l->running++;
    }
    if (started == 0)
        l->error = err_set(&l->e, EAGAIN, "cannot start a thread; end other programs");
    layers_watch(l, progress);
    pthread_mutex_unlock(&l->lock);
    for (size_t i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    return l->error;
}

/* Folders for those that are missing, which their children's threads may open from the start. */
static int layers_prepare(struct layers *l, size_t *ret_missing, struct err *e)
{
    char name[IMAGE_PATH_MAX];
    struct stat st;

    *ret_missing = 0;
    for (size_t i = 0; i < l->n; i++) {
        l->layer[i].state = LAYER_THERE;
        layer_name(l, i, false, name);
        if (fstatat(l->place->fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
            continue;
        l->layer[i].state = LAYER_MISSING;
        ++*ret_missing;
        layer_name(l, i, true, name);
        if (mkdirat(l->place->fd, name, 0700) == 0) {
            layer_name(l, i, false, name);
            if (mkdirat(l->place->fd, name, 0755) == 0)
                continue;
        }
        return err_set(e, errno, "cannot make %s/%s: %s", l->place->path, name, strerror(errno));
    }
    return 0;
}

static int layers_keep(struct layers *l, struct err *e)
{
    char name[IMAGE_PATH_MAX], final[IMAGE_PATH_MAX];

    if (syncfs(l->place->fd) < 0)
        return err_set(e, errno, "cannot write layers to the disk: %s", strerror(errno));
    for (size_t i = 0; i < l->n; i++) {
        if (l->layer[i].state != LAYER_DONE)
            continue;
        layer_name(l, i, true, name);
        snprintf(final, sizeof(final), "layers/%s", image_hex(l->layer[i].chain));
        /* Somebody else may have been faster: then his is as good. */
        if (renameat(l->place->fd, name, l->place->fd, final) < 0 && errno != EEXIST && errno != ENOTEMPTY)
            return err_set(e, errno, "cannot keep layer %s: %s", l->layer[i].chain, strerror(errno));
    }
    return 0;
}

static int layers_work(void *opaque, const struct image_work *work, struct err *e)
{
    struct layers *l = opaque;
    size_t missing;
    int r = layers_prepare(l, &missing, e);

    if (r < 0 || missing == 0)
        return r;
    l->ids = work->ids;
    r = layers_run(l, missing, work->progress);
    if (r == 0)
        return layers_keep(l, e);
    if (e)
        *e = l->e;
    return r;
}

static int layers_init(struct layers *l, struct image_place *p, const struct image_documents *d, struct err *e)
{
    AUTO_FREE char(*chain)[IMAGE_DIGEST_MAX] = NULL;

    *l = (struct layers){ .place = p, .documents = d, .n = d->config.n_diff_ids };
    l->layer = calloc(l->n + 1, sizeof(*l->layer));
    if (!l->layer || image_documents_chain(d, &chain) < 0)
        return err_set(e, ENOMEM, "out of memory");
    for (size_t i = 0; i < l->n; i++)
        memcpy(l->layer[i].chain, chain[i], sizeof(chain[i]));
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, NULL);
    return 0;
}

static bool layers_complete(const struct layers *l)
{
    char name[IMAGE_PATH_MAX];
    struct stat st;
    bool complete = true;

    for (size_t i = 0; i < l->n && complete; i++) {
        snprintf(name, sizeof(name), "layers/%s/diff", image_hex(l->layer[i].chain));
        complete = fstatat(l->place->fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
    }
    return complete;
}

int image_layers_unpack(struct image_place *p, const struct image_documents *d, const struct disk_progress *progress,
                        struct err *e)
{
    struct layers l;
    int r = layers_init(&l, p, d, e);

    if (r == 0 && !layers_complete(&l))
        r = image_ids_run(layers_work, &l, progress, e);
    free(l.layer);
    return r;
}

/* ---- for instances ---- */

void image_paths_free(char **paths, size_t n)
{
    for (size_t i = 0; paths && i < n; i++)
        free(paths[i]);
    free(paths);
}

/* A root that is marked as opaque hides all below, which overlayfs does not look at for roots. */
static bool layers_hides_all(const char *path)
{
    AUTO_FD int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return fd >= 0 && sys_overlay_is_opaque(fd);
}

int image_layers_paths(const struct image_place *p, const struct image_documents *d, char ***ret_paths, size_t *ret_n,
                       struct err *e)
{
    size_t n = d->config.n_diff_ids, used = 0;
    AUTO_FREE char(*chain)[IMAGE_DIGEST_MAX] = NULL;
    char **paths = calloc(n + 1, sizeof(*paths));
    bool failed = !paths || image_documents_chain(d, &chain) < 0;

    while (!failed && used < n) {
        failed = asprintf(&paths[used], "%s/layers/%s/diff", p->path, image_hex(chain[n - 1 - used])) < 0;
        if (failed)
            paths[used] = NULL;
        else if (layers_hides_all(paths[used++]))
            break;
    }
    if (failed) {
        image_paths_free(paths, used);
        return err_set(e, ENOMEM, "out of memory");
    }
    *ret_paths = paths;
    *ret_n = used;
    return 0;
}

int image_layers(struct store *s, const struct image *i, char ***ret_paths, size_t *ret_n, struct err *e)
{
    struct image_documents d = { 0 };
    struct image_place p;
    int r = image_place_open(&p, IMAGE_LOCK_SHARED, true, e);

    (void)s;
    if (r == 0)
        r = image_documents_read(&p, i->manifest, &d, e);
    if (r == 0 && d.kind != IMAGE_CONTAINER)
        r = err_set(e, EPROTOTYPE, "image %s is of a VM and has no layers of files", i->id);
    if (r == 0)
        r = image_layers_unpack(&p, &d, NULL, e);
    if (r == 0)
        r = image_layers_paths(&p, &d, ret_paths, ret_n, e);
    image_documents_done(&d);
    image_place_done(&p);
    return r;
}
