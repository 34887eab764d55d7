/* What `caisson doctor` says of containers: what the kernel offers, what this user may use of it, our own runtime. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/doctor.h"
#include "instance/spawn.h"
#include "proto/json.h"
#include "sys/cgroup.h"
#include "sys/dirs.h"
#include "sys/overlay.h"
#include "sys/userns.h"

/* The number in a file of /proc/sys; -1: there is none. */
static long doctor_number(const char *path)
{
    FILE *f = fopen(path, "re");
    long n = -1;

    if (f && fscanf(f, "%ld", &n) != 1)
        n = -1;
    if (f)
        fclose(f);
    return n;
}

static bool doctor_has_line(const char *path, const char *word)
{
    FILE *f = fopen(path, "re");
    char line[512];
    bool found = false;

    while (f && !found && fgets(line, sizeof(line), f)) {
        line[strcspn(line, "\n")] = '\0';
        found = strstr(line, word) != NULL;
    }
    if (f)
        fclose(f);
    return found;
}

static void doctor_cgroups(json_object *list, bool rootless)
{
    struct sys_cgroup_layout layout;
    int r = sys_cgroup_layout_read(&layout);
    const char *version;

    if (r < 0) {
        proto_json_finding(list, "cgroups", "no",
                           "none can be used (%s): no limits, and containers may not start; mount cgroup2",
                           strerror(-r));
        return;
    }
    version = layout.unified < 0 ? "v1" : layout.n == 1 ? "v2" : "v1 with v2 beside it";
    sys_cgroup_layout_done(&layout);
    if (rootless)
        proto_json_finding(list, "cgroups", "warn", "%s; limits of containers need root, they are not in force here",
                           version);
    else
        proto_json_finding(list, "cgroups", "ok", "%s", version);
}

/* The nearest folder of a path that exists. */
static bool doctor_on_overlay(const char *path)
{
    char dir[SYS_DIR_MAX];
    AUTO_FD int fd = -1;

    snprintf(dir, sizeof(dir), "%s", path);
    while ((fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC)) < 0 && strrchr(dir, '/') > dir)
        *strrchr(dir, '/') = '\0';
    return fd >= 0 && sys_overlay_below(fd);
}

static void doctor_overlay(json_object *list)
{
    char state[SYS_DIR_MAX], program[PATH_MAX];
    const bool nested = sys_dirs_state(state) == 0 && doctor_on_overlay(state);
    const int r = nested ? sys_overlay_program(program) : 0;

    if (r == -ENOENT)
        proto_json_finding(
            list, "overlayfs", "no",
            "the state directory %s lies on an overlayfs, where containers need fuse-overlayfs: apt-get install "
            "fuse-overlayfs, or put CAISSON_STATE_DIR on ext4, xfs or btrfs",
            state);
    else if (r < 0)
        proto_json_finding(
            list, "overlayfs", "no",
            "the state directory %s lies on an overlayfs, where containers need fuse-overlayfs, and /dev/fuse "
            "cannot be opened: %s; give this machine the device, or put CAISSON_STATE_DIR on ext4, xfs or btrfs",
            state, strerror(-r));
    else if (nested)
        proto_json_finding(list, "overlayfs", "ok", "%s, since the state directory %s lies on an overlayfs", program,
                           state);
    else if (doctor_has_line("/proc/filesystems", "\toverlay"))
        proto_json_finding(list, "overlayfs", "ok", "the kernel's; fuse-overlayfs where it refuses");
    else
        proto_json_finding(list, "overlayfs", "warn", "not in the kernel yet; containers need it: modprobe overlay");
}

static void doctor_userns(json_object *list, bool rootless)
{
    if (!rootless)
        proto_json_finding(list, "user namespace", "ok", "root needs none");
    else if (doctor_number("/proc/sys/user/max_user_namespaces") == 0 ||
             doctor_number("/proc/sys/kernel/unprivileged_userns_clone") == 0)
        proto_json_finding(
            list, "user namespace", "no",
            "the kernel allows users none, so only root has containers; see sysctl user.max_user_namespaces and "
            "kernel.unprivileged_userns_clone");
    else if (!sys_userns_has_subids())
        proto_json_finding(
            list, "user namespace", "warn",
            "no subordinate ids, so containers have the user 0 only; add a line to /etc/subuid and /etc/subgid "
            "(usermod --add-subuids)");
    else
        proto_json_finding(list, "user namespace", "ok", "with the subordinate ids of /etc/subuid");
}

static void doctor_seccomp(json_object *list)
{
    if (access("/proc/sys/kernel/seccomp/actions_avail", F_OK) == 0)
        proto_json_finding(list, "seccomp", "ok", "system calls of containers are filtered");
    else
        proto_json_finding(
            list, "seccomp", "no",
            "the kernel has no filter of system calls; containers start with --security-opt seccomp=unconfined "
            "only");
}

static void doctor_runtime(json_object *list)
{
    char path[INST_PROGRAM_MAX];
    struct err e = { 0 };

    if (inst_find_program("caisson-oci", path, &e) < 0)
        proto_json_finding(list, "caisson-oci", "no", "%s", e.text);
    else
        proto_json_finding(list, "caisson-oci", "ok", "%s", path);
}

void cli_doctor_containers(json_object *list)
{
    const bool rootless = sys_userns_rootless();

    doctor_cgroups(list, rootless);
    doctor_overlay(list);
    doctor_userns(list, rootless);
    doctor_seccomp(list);
    doctor_runtime(list);
}
