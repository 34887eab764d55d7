/* config.json: what is read, and each way to get it wrong. */
#include <errno.h>
#include <json-c/json.h>
#include <json-c/json_pointer.h>
#include <linux/mount.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <cmocka.h>

#include "base/attr.h"
#include "wire/oci_spec.h"

/* Everything that the specification has, once. */
static const char full[] =
    "{\"ociVersion\":\"1.2.0\",\"process\":{\"terminal\":true,\"consoleSize\":{\"height\":24,\"width\":80},"
    "\"user\":{\"uid\":1,\"gid\":2,\"umask\":18,\"additionalGids\":[5,6]},\"args\":[\"sh\",\"-c\",\"true\"],"
    "\"env\":[\"PATH=/bin\",\"A=b\"],\"cwd\":\"/\",\"capabilities\":{\"bounding\":[\"CAP_CHOWN\",\"CAP_BPF\"],"
    "\"effective\":[\"CAP_CHOWN\"],\"permitted\":[\"CAP_CHOWN\",\"CAP_NEVER\"],\"ambient\":[]},"
    "\"rlimits\":[{\"type\":\"RLIMIT_NOFILE\",\"soft\":1024,\"hard\":18446744073709551615}],\"noNewPrivileges\":true,"
    "\"oomScoreAdj\":-500,\"apparmorProfile\":\"ap\",\"selinuxLabel\":\"se\",\"ioPriority\":{\"class\":\"IOPRIO_CLASS_"
    "IDLE\","
    "\"priority\":4},\"scheduler\":{\"policy\":\"SCHED_BATCH\",\"nice\":3,\"flags\":[\"SCHED_FLAG_RESET_ON_FORK\"]},"
    "\"execCPUAffinity\":{\"initial\":\"0-1\"}},"
    "\"root\":{\"path\":\"rootfs\",\"readonly\":true},\"hostname\":\"h\",\"domainname\":\"d\","
    "\"mounts\":[{\"destination\":\"/proc\",\"type\":\"proc\",\"source\":\"proc\"},"
    "{\"destination\":\"/"
    "t\",\"type\":\"tmpfs\",\"source\":\"tmpfs\",\"options\":[\"nosuid\",\"size=1k\",\"ro\",\"mode=755\","
    "\"rw\",\"tmpcopyup\"]},"
    "{\"destination\":\"/b\",\"source\":\"/x\",\"options\":[\"rbind\",\"rro\",\"rnoatime\",\"rslave\",\"ridmap\"],"
    "\"uidMappings\":[{\"containerID\":0,\"hostID\":1000,\"size\":1}],\"gidMappings\":[{\"containerID\":0,\"hostID\":"
    "1000,"
    "\"size\":1}]}],"
    "\"hooks\":{\"createRuntime\":[{\"path\":\"/bin/a\",\"args\":[\"a\"],\"env\":[\"X=y\"],\"timeout\":7}],"
    "\"poststop\":[{\"path\":\"/bin/b\"},{\"path\":\"/bin/c\"}]},\"annotations\":{\"k\":\"v\"},"
    "\"linux\":{\"namespaces\":[{\"type\":\"pid\"},{\"type\":\"mount\"},{\"type\":\"uts\"},{\"type\":\"ipc\"},"
    "{\"type\":\"user\"},{\"type\":\"network\",\"path\":\"/proc/1/ns/net\"},{\"type\":\"time\"}],"
    "\"uidMappings\":[{\"containerID\":0,\"hostID\":100000,\"size\":65536}],"
    "\"gidMappings\":[{\"containerID\":0,\"hostID\":100000,\"size\":65536}],"
    "\"timeOffsets\":{\"monotonic\":{\"secs\":-5,\"nanosecs\":7},\"boottime\":{\"secs\":9}},"
    "\"devices\":[{\"path\":\"/dev/"
    "fuse\",\"type\":\"c\",\"major\":10,\"minor\":229,\"fileMode\":438,\"uid\":3,\"gid\":4},"
    "{\"path\":\"/dev/p\",\"type\":\"p\"}],\"cgroupsPath\":\"/a/b\","
    "\"resources\":{\"devices\":[{\"allow\":false,\"access\":\"rwm\"},{\"allow\":true,\"type\":\"c\",\"major\":10,"
    "\"minor\":229,"
    "\"access\":\"rw\"}],\"memory\":{\"limit\":1048576,\"reservation\":4096,\"swap\":-1,\"swappiness\":0,"
    "\"disableOOMKiller\":false},\"cpu\":{\"shares\":1024,\"quota\":-1,\"period\":100000,\"cpus\":\"0\",\"idle\":1},"
    "\"pids\":{\"limit\":32},\"blockIO\":{\"weight\":10,\"weightDevice\":[{\"major\":8,\"minor\":0,\"weight\":500}],"
    "\"throttleReadBpsDevice\":[{\"major\":8,\"minor\":0,\"rate\":600}]},\"hugepageLimits\":[{\"pageSize\":\"2MB\","
    "\"limit\":9}],\"network\":{\"classID\":1048577,\"priorities\":[{\"name\":\"eth0\",\"priority\":5}]},"
    "\"rdma\":{\"mlx\":{\"hcaHandles\":3}},\"unified\":{\"memory.high\":\"max\"}},"
    "\"intelRdt\":{\"closID\":\"g\",\"l3CacheSchema\":\"L3:0=f\"},\"sysctl\":{\"net.ipv4.ip_forward\":\"1\","
    "\"kernel.msgmax\":\"65536\",\"net/ipv4/conf/eth0.1/forwarding\":\"1\"},"
    "\"seccomp\":{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"architectures\":[\"SCMP_ARCH_X86_64\"],"
    "\"flags\":[\"SECCOMP_FILTER_FLAG_LOG\"],\"listenerPath\":\"/s\",\"listenerMetadata\":\"m\","
    "\"syscalls\":[{\"names\":[\"getcwd\",\"chmod\"],\"action\":\"SCMP_ACT_ERRNO\",\"errnoRet\":5,\"args\":[{\"index\":"
    "1,"
    "\"value\":18446744073709551615,\"valueTwo\":2,\"op\":\"SCMP_CMP_MASKED_EQ\"}]}]},"
    "\"rootfsPropagation\":\"slave\",\"maskedPaths\":[\"/proc/kcore\"],\"readonlyPaths\":[\"/proc/sys\"],"
    "\"mountLabel\":\"l\",\"personality\":{\"domain\":\"LINUX32\"}},\"unknown\":{\"is\":\"ignored\"}}";

static void test_full(void **state)
{
    AUTO(oci_spec) struct oci_spec *s = NULL;
    struct oci_why why;

    (void)state;
    if (oci_spec_parse(full, strlen(full), &s, &why) < 0)
        fail_msg("%s %s", why.where, why.what);
    assert_true(s->process.terminal);
    assert_int_equal(s->process.console_width, 80);
    assert_int_equal(s->process.umask, 18);
    assert_int_equal(s->process.additional_gids[1], 6);
    assert_int_equal(s->process.args.n, 3);
    assert_null(s->process.args.v[3]);
    assert_true(s->process.capabilities[OCI_CAP_BOUNDING] == (1ULL << 39 | 1));
    assert_int_equal(s->process.unknown_capabilities.n, 1);
    assert_string_equal(s->process.unknown_capabilities.v[0], "CAP_NEVER");
    assert_int_equal(s->process.rlimits[0].resource, RLIMIT_NOFILE);
    assert_true(s->process.rlimits[0].hard == UINT64_MAX);
    assert_int_equal(s->process.oom_score_adj, -500);
    assert_int_equal(s->process.scheduler.nice, 3);
    assert_int_equal(s->process.io_priority, 4);
    assert_string_equal(s->process.exec_cpu_affinity.v[0], "0-1");
    assert_int_equal(s->n_mounts, 3);
    assert_int_equal(s->mounts[1].flags, MS_NOSUID);
    assert_int_equal(s->mounts[1].cleared, MS_RDONLY);
    assert_string_equal(s->mounts[1].data, "size=1k,mode=755");
    assert_true(s->mounts[1].tmpcopyup);
    assert_true(s->mounts[2].bind && s->mounts[2].ridmap);
    assert_int_equal(s->mounts[2].propagation, MS_SLAVE | MS_REC);
    assert_int_equal(s->mounts[2].rec_set, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOATIME);
    assert_int_equal(s->mounts[2].rec_clear, MOUNT_ATTR__ATIME);
    assert_int_equal(s->n_hooks[OCI_HOOK_POSTSTOP], 2);
    assert_int_equal(s->hooks[OCI_HOOK_CREATE_RUNTIME][0].timeout_s, 7);
    assert_true(s->hooks[OCI_HOOK_POSTSTOP][0].timeout_s == OCI_UNSET);
    assert_string_equal(oci_annotation(s, "k"), "v");
    assert_null(oci_annotation(s, "none"));
    assert_string_equal(s->ns[OCI_NS_NET].path, "/proc/1/ns/net");
    assert_true(s->ns[OCI_NS_PID].wanted && !s->ns[OCI_NS_PID].path && !s->ns[OCI_NS_CGROUP].wanted);
    assert_int_equal(s->uid_mappings.v[0].host, 100000);
    assert_int_equal(s->monotonic.secs, -5);
    assert_int_equal(s->devices[0].mode, 0666);
    assert_int_equal(s->devices[1].type, 'p');
    assert_true(s->resources.devices[0].mknod && s->resources.devices[0].major == -1);
    assert_false(s->resources.devices[1].mknod);
    assert_int_equal(s->resources.memory_swap, -1);
    assert_int_equal(s->resources.memory_swappiness, 0);
    assert_true(s->resources.memory_kernel == OCI_UNSET && s->resources.cpu_burst == OCI_UNSET);
    assert_true(s->resources.memory_disable_oom_killer_present);
    assert_int_equal(s->resources.blkio_read_bps[0].rate, 600);
    assert_true(s->resources.rdma[0].objects == OCI_UNSET);
    assert_string_equal(s->resources.unified[0].key, "memory.high");
    assert_int_equal(s->n_sysctl, 3);
    assert_true(s->seccomp.rules[0].args[0].value == UINT64_MAX);
    assert_int_equal(s->seccomp.rules[0].errno_ret, 5);
    assert_int_equal(s->rootfs_propagation, MS_SLAVE | MS_REC);
    assert_int_equal(s->personality, PER_LINUX32);
}

/* A change of the document, as a JSON pointer and the new value (NULL: gone), and the error that it must give. */
struct wrong {
    const char *at, *value, *where;
};

static const struct wrong wrongs[] = {
    { "/ociVersion", NULL, "ociVersion is missing" },
    { "/ociVersion", "1", "ociVersion must be a string" },
    { "/ociVersion", "\"1.x\"", "ociVersion must be a version" },
    { "/ociVersion", "\"2.0.0\"", "ociVersion is a version that is not supported" },
    { "/process", "[]", "process must be an object" },
    { "/process/cwd", NULL, "process.cwd is missing" },
    { "/process/cwd", "\"here\"", "process.cwd must be an absolute path" },
    { "/process/args", NULL, "process.args must name a program" },
    { "/process/args", "[]", "process.args must name a program" },
    { "/process/args", "\"sh\"", "process.args must be an array" },
    { "/process/args", "[\"a\",3]", "process.args[1] must be a string" },
    { "/process/args", "[\"a\\u0000b\"]", "process.args[0] must not contain a NUL" },
    { "/process/env", "{}", "process.env must be an array" },
    { "/process/terminal", "1", "process.terminal must be true or false" },
    { "/process/consoleSize/height", "70000", "process.consoleSize.height is out of range" },
    { "/process/user", "3", "process.user must be an object" },
    { "/process/user/uid", "-1", "process.user.uid is out of range" },
    { "/process/user/uid", "4294967295", "process.user.uid is out of range" },
    { "/process/user/uid", "\"root\"", "process.user.uid must be an integer" },
    { "/process/user/umask", "4096", "process.user.umask is out of range" },
    { "/process/user/additionalGids", "[1,-2]", "process.user.additionalGids[1] is out of range" },
    { "/process/capabilities", "[]", "process.capabilities must be an object" },
    { "/process/capabilities/bounding", "\"CAP_CHOWN\"", "process.capabilities.bounding must be an array" },
    { "/process/rlimits/0/type", "\"RLIMIT_X\"", "process.rlimits[0].type is no resource limit" },
    { "/process/rlimits/0/soft", NULL, "process.rlimits[0].soft is missing" },
    { "/process/rlimits/0/hard", "12", "process.rlimits[0].soft must not be above" },
    { "/process/rlimits/0/soft", "-1", "process.rlimits[0].soft must not be negative" },
    { "/process/rlimits/-", "{\"type\":\"RLIMIT_NOFILE\",\"soft\":1,\"hard\":1}",
      "process.rlimits[1].type stands there twice" },
    { "/process/oomScoreAdj", "1001", "process.oomScoreAdj is out of range" },
    { "/process/scheduler/policy", "\"SCHED_X\"", "process.scheduler.policy is no policy" },
    { "/process/scheduler/nice", "20", "process.scheduler.nice is out of range" },
    { "/process/scheduler/flags", "[\"X\"]", "process.scheduler.flags has a flag" },
    { "/process/ioPriority/class", "\"X\"", "process.ioPriority.class is no class" },
    { "/process/ioPriority/priority", "8", "process.ioPriority.priority is out of range" },
    { "/root", NULL, "root is missing" },
    { "/root/path", NULL, "root.path is missing" },
    { "/root/path", "\"\"", "root.path must not be empty" },
    { "/root/readonly", "\"yes\"", "root.readonly must be true or false" },
    { "/hostname", "7", "hostname must be a string" },
    { "/mounts", "{}", "mounts must be an array" },
    { "/mounts/0", "\"x\"", "mounts[0] must be an object" },
    { "/mounts/0/destination", NULL, "mounts[0].destination is missing" },
    { "/mounts/1/options", "[1]", "mounts[1].options[0] must be a string" },
    { "/mounts/2/source", NULL, "mounts[2].source is missing" },
    { "/mounts/2/gidMappings", NULL, "mounts[2].gidMappings is missing" },
    { "/mounts/2/uidMappings/0/size", "0", "mounts[2].uidMappings[0].size must be at least 1" },
    { "/mounts/1/options", "[\"idmap\"]", "mounts[1].options maps ids of something" },
    { "/hooks", "[]", "hooks must be an object" },
    { "/hooks/poststop/1/path", NULL, "hooks.poststop[1].path is missing" },
    { "/hooks/poststop/0/path", "\"b\"", "hooks.poststop[0].path must be an absolute path" },
    { "/hooks/createRuntime/0/timeout", "0", "hooks.createRuntime[0].timeout is out of range" },
    { "/annotations/k", "1", "annotations.k must be a string" },
    { "/annotations/", "\"x\"", "annotations has an empty key" },
    { "/linux/namespaces/0/type", "\"x\"", "linux.namespaces[0].type is no namespace" },
    { "/linux/namespaces/-", "{\"type\":\"pid\"}", "linux.namespaces[7].type stands there twice" },
    { "/linux/namespaces/5/path", "\"ns\"", "linux.namespaces[5].path must be an absolute path" },
    { "/linux/namespaces/4", "{\"type\":\"cgroup\"}", "linux.uidMappings needs a user namespace" },
    { "/linux/namespaces/4/path", "\"/proc/1/ns/user\"", "linux.uidMappings contradicts the user namespace" },
    { "/linux/uidMappings", NULL, "linux.uidMappings is missing" },
    { "/linux/gidMappings", "[]", "linux.gidMappings is missing" },
    { "/linux/uidMappings/0/hostID", "4294967296", "linux.uidMappings[0].hostID is out of range" },
    { "/linux/namespaces/6", "{\"type\":\"cgroup\"}", "linux.timeOffsets needs a time namespace" },
    { "/linux/timeOffsets/boottime/nanosecs", "1000000000", "linux.timeOffsets.boottime.nanosecs is out of range" },
    { "/linux/devices/0/type", "\"x\"", "linux.devices[0].type must be" },
    { "/linux/devices/0/path", "\"dev\"", "linux.devices[0].path must be an absolute path" },
    { "/linux/devices/0/minor", NULL, "linux.devices[0].minor is missing" },
    { "/linux/devices/0/fileMode", "4096", "linux.devices[0].fileMode is out of range" },
    { "/linux/cgroupsPath", "1", "linux.cgroupsPath must be a string" },
    { "/linux/resources/devices/0/allow", NULL, "linux.resources.devices[0].allow is missing" },
    { "/linux/resources/devices/0/access", "\"rx\"", "linux.resources.devices[0].access must be made of" },
    { "/linux/resources/devices/1/type", "\"p\"", "linux.resources.devices[1].type must be" },
    { "/linux/resources/memory/limit", "\"1M\"", "linux.resources.memory.limit must be an integer" },
    { "/linux/resources/memory/limit", "-2", "linux.resources.memory.limit is out of range" },
    { "/linux/resources/memory/limit", "9223372036854775808", "linux.resources.memory.limit is out of range" },
    { "/linux/resources/memory/swap", "4096", "linux.resources.memory.swap must not be below" },
    { "/linux/resources/memory/swappiness", "101", "linux.resources.memory.swappiness is out of range" },
    { "/linux/resources/cpu/idle", "2", "linux.resources.cpu.idle is out of range" },
    { "/linux/resources/blockIO/throttleReadBpsDevice/0/rate", NULL,
      "linux.resources.blockIO.throttleReadBpsDevice[0].rate is missing" },
    { "/linux/resources/blockIO/weightDevice/0/weight", NULL,
      "linux.resources.blockIO.weightDevice[0].weight is missing" },
    { "/linux/resources/hugepageLimits/0/pageSize", "\"../x\"", "linux.resources.hugepageLimits[0].pageSize must be" },
    { "/linux/resources/unified/memory.high", "1", "linux.resources.unified.memory.high must be a string" },
    { "/linux/resources/unified/memory", "\"1\"", "linux.resources.unified.memory is no name" },
    { "/linux/intelRdt/closID", "\"../x\"", "linux.intelRdt.closID must be the name" },
    { "/linux/sysctl/kernel.panic", "\"1\"", "linux.sysctl sets what belongs to the host" },
    { "/linux/namespaces/3", "{\"type\":\"cgroup\"}", "linux.sysctl sets what belongs to the host" },
    { "/linux/sysctl/net...x", "\"1\"", "linux.sysctl.net...x is no name" },
    { "/linux/seccomp/defaultAction", NULL, "linux.seccomp.defaultAction is missing" },
    { "/linux/seccomp/defaultAction", "\"SCMP_ACT_NOTIFY\"", "linux.seccomp.defaultAction must not be" },
    { "/linux/seccomp/architectures", "[\"x86\"]", "linux.seccomp.architectures has an architecture" },
    { "/linux/seccomp/flags", "[\"LOG\"]", "linux.seccomp.flags has a flag" },
    { "/linux/seccomp/listenerPath", NULL, "linux.seccomp.listenerMetadata needs a listenerPath" },
    { "/linux/seccomp/syscalls/0/names", "[]", "linux.seccomp.syscalls[0].names must name" },
    { "/linux/seccomp/syscalls/0/action", "\"X\"", "linux.seccomp.syscalls[0].action is no action" },
    { "/linux/seccomp/syscalls/0/args/0/index", "6", "linux.seccomp.syscalls[0].args[0].index is out of range" },
    { "/linux/seccomp/syscalls/0/args/0/op", "\"X\"", "linux.seccomp.syscalls[0].args[0].op is no comparison" },
    { "/linux/rootfsPropagation", "\"x\"", "linux.rootfsPropagation is no propagation" },
    { "/linux/maskedPaths", "[\"proc\"]", "linux.maskedPaths[0] must be an absolute path" },
    { "/linux/namespaces/1", "{\"type\":\"cgroup\"}", "linux.maskedPaths needs a mount namespace" },
    { "/linux/namespaces/2", "{\"type\":\"cgroup\"}", "hostname needs a uts namespace" },
    { "/linux/personality/domain", "\"X\"", "linux.personality.domain must be" },
    { "/linux/personality/flags", "[\"X\"]", "linux.personality.flags has flags" },
};

/* Remove what a JSON pointer names. */
static void cut(struct json_object *root, const char *at)
{
    char parent[128];
    struct json_object *o;
    char *slash;

    snprintf(parent, sizeof(parent), "%s", at);
    slash = strrchr(parent, '/');
    *slash = '\0';
    assert_int_equal(json_pointer_get(root, parent, &o), 0);
    json_object_object_del(o, slash + 1);
}

static void test_wrong(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(wrongs); i++) {
        const struct wrong *w = &wrongs[i];
        struct json_object *root = json_tokener_parse(full);
        struct oci_spec *s = NULL;
        struct oci_why why;
        const char *text;
        char got[512];
        int res;

        if (w->value)
            assert_int_equal(json_pointer_set(&root, w->at, json_tokener_parse(w->value)), 0);
        else
            cut(root, w->at);
        text = json_object_to_json_string_ext(root, JSON_C_TO_STRING_PLAIN);
        res = oci_spec_parse(text, strlen(text), &s, &why);
        snprintf(got, sizeof(got), "%s %s", why.where, why.what ? why.what : "");
        if (res != -EINVAL || strncmp(got, w->where, strlen(w->where)) != 0)
            fail_msg("%s = %s: %d '%s' instead of '%s'", w->at, w->value ? w->value : "(gone)", res, got, w->where);
        oci_spec_free(s);
        json_object_put(root);
    }
}

static void test_not_json(void **state)
{
    static const char *const texts[] = {
        "", "{", "[]", "3", "null", "{} x", "{\"a\":1,}", "{\"ociVersion\":\"1.0.2\"}"
    };
    struct oci_spec *s = NULL;
    struct oci_why why;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        assert_int_equal(oci_spec_parse(texts[i], strlen(texts[i]), &s, &why), -EINVAL);
        assert_non_null(why.what);
    }
}

static void test_parts(void **state)
{
    static const char process[] = "{\"cwd\":\"/\",\"args\":[\"ls\"]}", resources[] = "{\"pids\":{\"limit\":7}}";
    struct oci_spec *s = NULL;

    (void)state;
    assert_int_equal(oci_spec_parse_process(process, strlen(process), &s, NULL), 0);
    assert_string_equal(s->process.args.v[0], "ls");
    assert_true(s->process.umask == OCI_UNSET);
    oci_spec_free(s);
    assert_int_equal(oci_spec_parse_resources(resources, strlen(resources), &s, NULL), 0);
    assert_int_equal(s->resources.pids_limit, 7);
    assert_true(s->resources.memory_limit == OCI_UNSET);
    oci_spec_free(s);
    assert_int_equal(oci_spec_parse_process("{}", 2, &s, NULL), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_wrong),
        cmocka_unit_test(test_not_json),
        cmocka_unit_test(test_parts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
