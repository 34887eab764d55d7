/* What an instance (a VM or a container) is made of: the document that `caisson inspect` shows and the state database
 * keeps. The command line (later: the API) makes it, the supervisor (caisson-shim) runs it. What both kinds have is
 * here, what one kind has is in a part of its own. Unknown fields are refused, absent ones have defaults.
 *
 * The document: {"kind", "image": {"id", "name"}|null, "restart": {"policy", "max"}, "stop": {"signal", "timeout_ns"},
 * "logs": {"max_size", "files"}, "health": {"command": [...], "interval_ns", "timeout_ns", "start_period_ns",
 * "retries"}|null, "labels": {...}, "remove": bool, "vm": {...} (proto/vm_spec.h) | "container": {...}}; the fields of
 * "container" are those of the struct. It must not know how instances are run or stored. */
#ifndef PROTO_INST_SPEC_H
#define PROTO_INST_SPEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"

struct json_object;
struct vm_spec;

#define INST_ID_LEN 64 /* hexadecimal digits, of 32 random bytes */
#define INST_ID_SHORT 12
#define INST_SPEC_TEXT_MAX (1U << 20)
#define INST_HEALTH_RETRIES_MAX 100
#define INST_HEALTH_MIN_NS 100000000ULL /* a check more often than that is a load of its own */
#define INST_RESTARTS_MAX 1000000U
#define INST_LIST_MAX 4096 /* entries of any list */

enum inst_kind { INST_VM, INST_CONTAINER };
enum inst_restart { INST_RESTART_NO, INST_RESTART_ON_FAILURE, INST_RESTART_ALWAYS, INST_RESTART_UNLESS_STOPPED };

/* An owned list of owned strings. */
struct inst_strings {
    char **at; /* n strings */
    size_t n;
};
/* Append a copy. -ENOMEM. */
int inst_strings_add(struct inst_strings *s, const char *text) MUST_USE;
void inst_strings_done(struct inst_strings *s);

struct inst_health {
    struct inst_strings command; /* as argv, run in the instance; n 0: none */
    uint64_t interval_ns, timeout_ns, start_period_ns;
    unsigned retries; /* 1..INST_HEALTH_RETRIES_MAX failures in a row make it unhealthy */
};

enum inst_mount_kind { INST_MOUNT_BIND, INST_MOUNT_VOLUME, INST_MOUNT_TMPFS };
struct inst_mount {
    enum inst_mount_kind kind;
    char *source;  /* absolute path, or the volume's name; NULL with tmpfs */
    char *target;  /* absolute, in the container */
    char *options; /* as in fstab, e.g. "ro,nosuid,size=64m"; NULL: none */
};

/* Host port to instance port. */
struct inst_port {
    bool udp;
    char host_addr[46]; /* "": all addresses */
    uint16_t host_port; /* 0: a free one, chosen when it is created */
    uint16_t port;
};

struct inst_container {
    struct inst_strings args;  /* argv, complete: entrypoint and command. n > 0 */
    struct inst_strings env;   /* K=V, complete: image's and user's */
    char *cwd;                 /* absolute */
    char *user;                /* USER[:GROUP] as name or number; NULL: root */
    char *hostname;            /* NULL: the short id */
    bool terminal, stdin_open; /* -t, -i */
    bool read_only, privileged, init;
    char *network; /* name of a network, "none" or "host" */
    struct inst_port *ports;
    size_t n_ports;
    struct inst_mount *mounts;
    size_t n_mounts;
    struct inst_strings cap_add, cap_drop, security, devices, sysctls, ulimits, dns, hosts;
    uint64_t memory; /* bytes; 0: no limit */
    uint64_t memory_swap;
    double cpus; /* 0: no limit */
    uint64_t cpu_shares, pids;
    char *cpuset;
    uint64_t shm_size; /* bytes; 0: 64 MiB */
};

struct inst_spec {
    enum inst_kind kind;
    char *image_id, *image_name; /* NULL: none */
    enum inst_restart restart;
    unsigned restart_max;       /* with on-failure; 0: no limit */
    int stop_signal;            /* containers; SIGTERM unless the image says another */
    uint64_t stop_timeout_ns;   /* then SIGKILL, or the VM ends at once */
    uint64_t log_max_size;      /* bytes of one file; 0: no limit */
    unsigned log_files;         /* kept; >= 1 */
    struct inst_health health;  /* command.n 0: none */
    struct inst_strings labels; /* K=V */
    bool remove;                /* when it has ended (--rm) */
    struct vm_spec *vm;         /* INST_VM; owned; its name is not used */
    struct inst_container container;
};

/* Defaults: no restart, SIGTERM, 10 s, logs of 10 MiB and 3 files; for INST_VM a vm_spec with its defaults. -ENOMEM. */
int inst_spec_init(struct inst_spec *s, enum inst_kind kind) MUST_USE;
/* Accepts a half-filled one. */
void inst_spec_done(struct inst_spec *s);

/* Ranges and what must fit together; the text names the option and the remedy. -EINVAL. */
int inst_spec_check(const struct inst_spec *s, struct err *e) MUST_USE;
/* Likewise for one that a user gives now, in which words that are not known are refused, too (inst_check.c). */
int inst_spec_check_new(const struct inst_spec *s, struct err *e) MUST_USE;
/* A limit of memory of a container; 0: none. -EINVAL with text: too little for anything. */
int inst_memory_check(uint64_t bytes, struct err *e) MUST_USE;

/* As a JSON value that the caller puts; NULL: out of memory. */
struct json_object *inst_spec_to_object(const struct inst_spec *s);
/* s is initialised here; after a failure it is undefined but inst_spec_done is safe. -EINVAL with text. */
int inst_spec_from_object(struct json_object *o, struct inst_spec *s, struct err *e) MUST_USE;
int inst_spec_from_json(const char *text, struct inst_spec *s, struct err *e) MUST_USE;

const char *inst_kind_name(enum inst_kind kind); /* "vm", "container" */
const char *inst_restart_name(enum inst_restart restart);
/* "no", "on-failure[:MAX]", "always", "unless-stopped". -EINVAL. */
int inst_restart_parse(const char *text, enum inst_restart *ret_restart, unsigned *ret_max) MUST_USE;

#endif
