/* `spec`: a config.json to start from, the same container as runc's verb describes, so that tools that begin with it
 * and change fields go on working. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "oci/cli.h"
#include "oci/documents.h"
#include "wire/oci_spec.h"

#define SPEC_CAPS "[\"CAP_AUDIT_WRITE\",\"CAP_KILL\",\"CAP_NET_BIND_SERVICE\"]"

static const char spec_head[] =
    "{\"ociVersion\":\"" OCI_VERSION "\","
    "\"process\":{\"terminal\":true,\"user\":{\"uid\":0,\"gid\":0},\"args\":[\"sh\"],"
    "\"env\":[\"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\",\"TERM=xterm\"],\"cwd\":\"/\","
    "\"capabilities\":{\"bounding\":" SPEC_CAPS ",\"effective\":" SPEC_CAPS ",\"permitted\":" SPEC_CAPS "},"
    "\"rlimits\":[{\"type\":\"RLIMIT_NOFILE\",\"hard\":1024,\"soft\":1024}],\"noNewPrivileges\":true},"
    "\"root\":{\"path\":\"rootfs\",\"readonly\":true},\"hostname\":\"caisson\",\"mounts\":["
    "{\"destination\":\"/proc\",\"type\":\"proc\",\"source\":\"proc\"},"
    "{\"destination\":\"/dev\",\"type\":\"tmpfs\",\"source\":\"tmpfs\","
    "\"options\":[\"nosuid\",\"strictatime\",\"mode=755\",\"size=65536k\"]},"
    "{\"destination\":\"/dev/pts\",\"type\":\"devpts\",\"source\":\"devpts\","
    "\"options\":[\"nosuid\",\"noexec\",\"newinstance\",\"ptmxmode=0666\",\"mode=0620\"";

static const char spec_mounts[] = "]},"
                                  "{\"destination\":\"/dev/shm\",\"type\":\"tmpfs\",\"source\":\"shm\","
                                  "\"options\":[\"nosuid\",\"noexec\",\"nodev\",\"mode=1777\",\"size=65536k\"]},"
                                  "{\"destination\":\"/dev/mqueue\",\"type\":\"mqueue\",\"source\":\"mqueue\","
                                  "\"options\":[\"nosuid\",\"noexec\",\"nodev\"]},";

static const char spec_sys[] = "{\"destination\":\"/sys\",\"type\":\"sysfs\",\"source\":\"sysfs\","
                               "\"options\":[\"nosuid\",\"noexec\",\"nodev\",\"ro\"]},";
/* sysfs belongs to the network namespace, which a rootless container shares with the host. */
static const char spec_sys_rootless[] = "{\"destination\":\"/sys\",\"type\":\"none\",\"source\":\"/sys\","
                                        "\"options\":[\"rbind\",\"nosuid\",\"noexec\",\"nodev\",\"ro\"]},";

static const char spec_cgroup[] = "{\"destination\":\"/sys/fs/cgroup\",\"type\":\"cgroup\",\"source\":\"cgroup\","
                                  "\"options\":[\"nosuid\",\"noexec\",\"nodev\",\"relatime\",\"ro\"]}],\"linux\":{";

static const char spec_resources[] = "\"resources\":{\"devices\":[{\"allow\":false,\"access\":\"rwm\"}]},";

static const char spec_tail[] =
    "\"maskedPaths\":[\"/proc/acpi\",\"/proc/asound\",\"/proc/kcore\",\"/proc/keys\",\"/proc/latency_stats\","
    "\"/proc/timer_list\",\"/proc/timer_stats\",\"/proc/sched_debug\",\"/sys/firmware\","
    "\"/sys/devices/virtual/powercap\",\"/proc/scsi\"],"
    "\"readonlyPaths\":[\"/proc/bus\",\"/proc/fs\",\"/proc/irq\",\"/proc/sys\",\"/proc/sysrq-trigger\"]}}";

#define SPEC_MAX (64u << 10)

static void spec_compact(bool rootless, struct buf *b)
{
    static const char mapping[] = "\"%cidMappings\":[{\"containerID\":0,\"hostID\":%u,\"size\":1}],";

    buf_append_str(b, spec_head);
    if (!rootless)
        buf_append_str(b, ",\"gid=5\"");
    buf_append_str(b, spec_mounts);
    buf_append_str(b, rootless ? spec_sys_rootless : spec_sys);
    buf_append_str(b, spec_cgroup);
    if (rootless) {
        buf_printf(b, mapping, 'u', geteuid());
        buf_printf(b, mapping, 'g', getegid());
    } else {
        buf_append_str(b, spec_resources);
    }
    buf_append_str(b, "\"namespaces\":[{\"type\":\"pid\"},");
    if (!rootless)
        buf_append_str(b, "{\"type\":\"network\"},");
    buf_append_str(b, "{\"type\":\"ipc\"},{\"type\":\"uts\"},{\"type\":\"mount\"}");
    if (rootless)
        buf_append_str(b, ",{\"type\":\"user\"}");
    /* With one tree of groups for all there is something to hide. */
    if (access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0)
        buf_append_str(b, ",{\"type\":\"cgroup\"}");
    buf_append_str(b, "],");
    buf_append(b, spec_tail, sizeof(spec_tail)); /* with its end */
}

int oci_spec_template(bool rootless, struct buf *b)
{
    struct json_object *o = NULL;
    struct buf compact;
    int r;

    buf_init(&compact, SPEC_MAX);
    spec_compact(rootless, &compact);
    r = buf_error(&compact);
    if (r == 0) {
        o = json_tokener_parse((const char *)compact.data);
        if (o)
            buf_append_str(b, json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED |
                                                                    JSON_C_TO_STRING_PRETTY_TAB |
                                                                    JSON_C_TO_STRING_NOSLASHESCAPE));
        buf_append_str(b, "\n");
        r = o ? buf_error(b) : -ENOMEM;
    }
    json_object_put(o);
    buf_done(&compact);
    return r;
}

int oci_spec_write(const char *bundle, bool rootless, struct err *e)
{
    AUTO_FD int dir = open(bundle ? bundle : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    AUTO_FD int fd = -1;
    struct buf b;
    int r;

    if (dir < 0)
        return err_set(e, errno, "spec: bundle %s: %s", bundle, strerrordesc_np(errno));
    fd = openat(dir, "config.json", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0)
        return err_set(e, errno, "spec: config.json: %s%s", strerrordesc_np(errno),
                       errno == EEXIST ? "; remove it first" : "");
    buf_init(&b, SPEC_MAX);
    r = oci_spec_template(rootless, &b);
    if (r == 0 && write(fd, b.data, b.len) != (ssize_t)b.len)
        r = -EIO;
    if (r < 0)
        unlinkat(dir, "config.json", 0);
    buf_done(&b);
    return r < 0 ? err_set(e, -r, "spec: write config.json: %s", strerrordesc_np(-r)) : 0;
}

int oci_verb_spec(const struct oci_args *a, struct err *e)
{
    return oci_spec_write(a->value[OCI_OPT_BUNDLE], oci_flag(a, OCI_OPT_SPEC_ROOTLESS), e);
}
