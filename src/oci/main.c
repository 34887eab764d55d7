#include "oci/main.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "oci/documents.h"
#include "oci/log.h"
#include "oci/protect.h"
#include "wire/oci_spec.h"

struct oci_verb {
    const char *name;
    int (*run)(const struct oci_args *a, struct err *e);
    int min_args, max_args; /* operands; max -1: any number */
    bool enters;            /* a container: the program's file must be out of its reach */
};

static const struct oci_verb oci_verbs[] = {
    { "create", oci_verb_create, 1, 1, true },
    { "start", oci_verb_start, 1, 1, false },
    { "state", oci_verb_state, 1, 1, false },
    { "kill", oci_verb_kill, 1, 2, false },
    { "delete", oci_verb_delete, 1, 1, false },
    { "run", oci_verb_run, 1, 1, true },
    { "exec", oci_verb_exec, 1, -1, true },
    { "list", oci_verb_list, 0, 0, false },
    { "pause", oci_verb_pause, 1, 1, false },
    { "resume", oci_verb_resume, 1, 1, false },
    { "features", oci_verb_features, 0, 0, false },
    { "spec", oci_verb_spec, 0, 0, false },
    { "update", oci_verb_update, 1, 1, false },
    { "events", oci_verb_events, 1, 1, false },
    { "ps", oci_verb_ps, 1, -1, false },
    { "checkpoint", oci_verb_checkpoint, 1, 1, false },
    { "restore", oci_verb_restore, 1, 1, false },
};

static int oci_print_help(bool version)
{
    struct buf b;
    ssize_t n = -1;

    buf_init(&b, 1 << 16);
    if (version)
        buf_printf(&b, "caisson-oci version %s\nspec: %s\n", CAISSON_VERSION, OCI_VERSION);
    else
        oci_help(&b);
    if (buf_error(&b) == 0)
        n = write(STDOUT_FILENO, b.data, b.len);
    buf_done(&b);
    return n < 0 ? 1 : 0;
}

static int oci_run_verb(const struct oci_args *a, char **argv, struct err *e)
{
    const char *format = a->value[OCI_OPT_LOG_FORMAT];
    const struct oci_verb *v = NULL;

    for (size_t i = 0; i < ARRAY_SIZE(oci_verbs) && !v; i++) {
        if (strcmp(oci_verbs[i].name, a->verb) == 0)
            v = &oci_verbs[i];
    }
    if (format && strcmp(format, "text") != 0 && strcmp(format, "json") != 0)
        return err_set(e, EINVAL, "--log-format %s: must be text or json", format);
    if (!v)
        return err_set(e, ENOSYS, "verb %s is not built in", a->verb);
    if (a->argc < v->min_args)
        return err_set(e, EINVAL, "%s: a container id is missing", v->name);
    if (v->max_args >= 0 && a->argc > v->max_args)
        return err_set(e, EINVAL, "%s: operand %s is too much", v->name, a->argv[v->max_args]);
    if (v->enters) {
        int r = oci_protect_self(argv, e);

        if (r < 0)
            return r;
    }
    return v->run(a, e);
}

/* Callers may have closed the standard descriptors: no file of ours may take their places. */
static int oci_fill_stdio(struct err *e)
{
    for (int fd = 0; fd < 3; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
            return err_set(e, errno, "/dev/null: %m");
    }
    return 0;
}

int oci_main(int argc, char **argv)
{
    struct oci_args a = { 0 };
    struct err e = { 0 };
    int r = oci_args_parse(argc, argv, &a, &e);

    if (r == 0)
        r = oci_fill_stdio(&e);
    if (r == 0)
        r = oci_args_absolute(&a, &e);
    if (r == 0 && oci_flag(&a, OCI_OPT_HELP))
        r = oci_print_help(false);
    else if (r == 0 && oci_flag(&a, OCI_OPT_VERSION))
        r = oci_print_help(true);
    else if (r == 0 && !a.verb)
        r = oci_print_help(false) + 1;
    else if (r == 0)
        r = oci_run_verb(&a, argv, &e);
    if (r < 0)
        oci_log_error(&a, e.text[0] ? e.text : strerrordesc_np(-r));
    /* As runc: an exec that failed is told from a program that ended with 1. */
    if (r < 0)
        r = a.verb && strcmp(a.verb, "exec") == 0 ? 255 : 1;
    oci_args_done(&a);
    return r;
}
