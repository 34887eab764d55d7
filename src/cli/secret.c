#include "cli/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/num.h"

void cli_secret_done(struct cli_secret *s)
{
    if (s->data)
        explicit_bzero(s->data, CLI_SECRET_MAX + 1);
    free(s->data);
    *s = (struct cli_secret){ 0 };
}

static int secret_from_fd(int fd, struct cli_secret *s)
{
    while (s->len <= CLI_SECRET_MAX) {
        ssize_t n = read(fd, s->data + s->len, CLI_SECRET_MAX + 1 - s->len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return 0;
        s->len += (size_t)n;
    }
    return -E2BIG;
}

static int secret_get(const char *text, struct cli_secret *s)
{
    AUTO_FD int fd = -1;
    const char *value;
    uint64_t number;

    if (strncmp(text, "file:", 5) == 0) {
        fd = open(text + 5, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        return fd < 0 ? -errno : secret_from_fd(fd, s);
    }
    if (strncmp(text, "fd:", 3) == 0) {
        int r = num_parse_u64(text + 3, 0, 1u << 20, &number);

        return r < 0 ? r : secret_from_fd((int)number, s);
    }
    if (strncmp(text, "env:", 4) != 0)
        return -EINVAL;
    value = getenv(text + 4);
    if (!value)
        return -ENOENT;
    s->len = strlen(value);
    if (s->len > CLI_SECRET_MAX)
        return -E2BIG;
    memcpy(s->data, value, s->len);
    return 0;
}

int cli_secret_read(const char *option, const char *text, struct cli_secret *ret_secret, struct err *e)
{
    int r;

    *ret_secret = (struct cli_secret){ 0 };
    if (!text)
        return 0;
    ret_secret->data = calloc(1, CLI_SECRET_MAX + 1);
    if (!ret_secret->data)
        return err_set(e, ENOMEM, "out of memory");
    r = secret_get(text, ret_secret);
    if (r == -EINVAL || r == -ERANGE) /* the text is not repeated: it may be the secret itself */
        return err_set(e, EINVAL, "--%s: not a place to read a secret from; use file:PATH, fd:N or env:NAME", option);
    if (r == -E2BIG)
        return err_set(e, EINVAL, "--%s %s: longer than %u bytes; take a shorter secret", option, text, CLI_SECRET_MAX);
    if (r < 0)
        return err_set(e, -r, "--%s %s: cannot read it: %s", option, text, strerror(-r));
    if (ret_secret->len == 0)
        return err_set(e, EINVAL, "--%s %s: it is empty; write the passphrase there", option, text);
    return 0;
}
