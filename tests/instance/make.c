/* Make an instance from its document, as the verbs `run` and `vm create` do: for tests that need one of any kind.
 *   make NAME < DOCUMENT     prints the id */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fdio.h"
#include "instance/lifecycle.h"

int main(int argc, char **argv)
{
    static struct store_instance made;
    static struct inst_spec spec;
    struct store *store = NULL;
    struct err e = { 0 };
    struct buf text;
    int r;

    buf_init(&text, INST_SPEC_TEXT_MAX);
    r = argc == 2 ? fd_read_all(STDIN_FILENO, &text) : -EINVAL;
    buf_append(&text, "", 1);
    if (r < 0 || buf_error(&text) < 0) {
        fprintf(stderr, "make NAME < DOCUMENT\n");
        return 2;
    }
    r = inst_spec_from_json((const char *)text.data, &spec, &e);
    if (r == 0)
        r = store_open(STORE_WRITE, &store, &e);
    if (r == 0)
        r = inst_create(store, argv[1], &spec, NULL, NULL, &made, &e);
    if (r == 0)
        printf("%s\n", made.id);
    else
        fprintf(stderr, "%s\n", e.text);
    store_instance_done(&made);
    inst_spec_done(&spec);
    store_close(store);
    buf_done(&text);
    return r < 0;
}
