/* Shared by the commands that speak to registries. */
#ifndef CLI_REGISTRY_H
#define CLI_REGISTRY_H

#include "cli/command.h"
#include "image/registry.h"

/* Rows of the command table that all of them have. */
#define CLI_REGISTRY_OPTIONS                                                                                               \
    { "tls-verify", 0,    "true|false", "check the server's certificate, and refuse plain http (default true)",            \
      "true false", false },                                                                                               \
        { "cert-dir", 0, "FOLDER", "further authorities (*.crt) and client certificates (*.cert, *.key)", "file", false }, \
    {                                                                                                                      \
        "timeout", 0, "SECONDS", "give up after this time without a byte from the server (default 60)", NULL, false        \
    }

/* Fill what the above options say; step and opaque stay. -EINVAL with text. */
int cli_registry_config(const struct cli_args *args, struct registry_config *c, struct err *e) MUST_USE;

#endif
