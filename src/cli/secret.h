/* Passphrases from where they are not seen by others: never from the command line itself. */
#ifndef CLI_SECRET_H
#define CLI_SECRET_H

#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"

#define CLI_SECRET_MAX 65536u

struct cli_secret {
    uint8_t *data; /* NULL: none */
    size_t len;
};

/* text: file:PATH (its bytes as they are), fd:N (read to its end) or env:NAME. NULL: no secret. option: what the user
 * called it, for errors. Ended by cli_secret_done in any case. */
int cli_secret_read(const char *option, const char *text, struct cli_secret *ret_secret, struct err *e) MUST_USE;
/* Wipe and free. Accepts a zeroed struct. */
void cli_secret_done(struct cli_secret *s);

#endif
