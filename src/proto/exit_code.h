/* Exit codes of all programs (CLI.md; documented in caisson(1)). */
#ifndef PROTO_EXIT_CODE_H
#define PROTO_EXIT_CODE_H

enum exit_code {
    EXIT_CODE_OK = 0,
    EXIT_CODE_FAILED = 1,    /* the operation failed: the host refused, I/O error, out of memory */
    EXIT_CODE_USAGE = 2,     /* wrong command line or configuration */
    EXIT_CODE_NOT_FOUND = 3, /* a named file or object does not exist */
    EXIT_CODE_CONFLICT = 4,  /* in use by another, or in the wrong state */
    EXIT_CODE_DAEMON = 5,    /* daemon unreachable */
    EXIT_CODE_TIMEOUT = 6,
    EXIT_CODE_PERMISSION = 7,
    EXIT_CODE_GUEST_CRASH = 8, /* the guest's CPU shut down (triple fault), or the engine could not go on */
    /* Of run and exec, as Podman and Docker have them; others are the program's own. */
    EXIT_CODE_NOT_RUN = 125,        /* it did not come to that */
    EXIT_CODE_NOT_EXECUTABLE = 126, /* the program is there */
    EXIT_CODE_NO_PROGRAM = 127,
};

/* The exit code for an error with this errno value (> 0). */
enum exit_code exit_code_from_errno(int err);

#endif
