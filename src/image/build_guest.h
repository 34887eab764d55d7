/* The files that make a Debian root file system a guest of Caisson: network, first boot, serial console, a small
 * initrd. Private to image/. */
#ifndef IMAGE_BUILD_GUEST_H
#define IMAGE_BUILD_GUEST_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attr.h"

/* Packages of a VM besides what the user names, separated by commas. */
#define BUILD_GUEST_PACKAGES                                                                                         \
    "linux-image-cloud-amd64,initramfs-tools,zstd,systemd,systemd-sysv,systemd-resolved,udev,dbus,kmod,passwd,sudo," \
    "openssh-server,iproute2,iputils-ping,netbase,ca-certificates,e2fsprogs,procps,less"

enum build_guest_when { GUEST_ALWAYS, GUEST_OWN_FIRST_BOOT, GUEST_CLOUD_INIT };

struct build_guest_file {
    const char *path; /* relative to the root */
    unsigned mode;
    const char *text;   /* NULL: a link */
    const char *target; /* of the link */
    enum build_guest_when when;
};
extern const struct build_guest_file build_guest_files[];
extern const size_t build_guest_n_files;

/* What the image's configuration says: kernel command line, memory, CPUs. */
#define BUILD_GUEST_CONFIG \
    "{\"append\":\"console=ttyS0 root=/dev/vda rw quiet\",\"memory\":536870912,\"cpus\":1,\"os\":\"linux\"}"

#endif
