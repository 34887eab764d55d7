/* Capture files. Format: draft-ietf-opsawg-pcap, "PCAP Capture File Format", all fields in the byte order of the
 * writer. */
#include "net/pcap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/fdio.h"
#include "net/offload.h"

enum {
    NET_PCAP_MAGIC_NS = (int)0xa1b23c4d,
    NET_PCAP_ETHERNET = 1,
    NET_PCAP_BUFFER = 256 << 10,
};

struct net_pcap_file_head {
    uint32_t magic;
    uint16_t major, minor;
    uint32_t reserved[2];
    uint32_t snap_len, link_type;
};

struct net_pcap_record_head {
    uint32_t seconds, nanoseconds;
    uint32_t captured, original; /* bytes */
};

struct net_pcap {
    int fd;
    int error; /* 0, or -errno for good */
    uint64_t max_bytes, bytes, records;
    size_t used;
    uint8_t buffer[NET_PCAP_BUFFER];
};

int net_pcap_flush(struct net_pcap *p)
{
    if (p->error == 0)
        p->error = fd_write_all(p->fd, p->buffer, p->used);
    p->used = 0;
    return p->error;
}

/* n <= NET_PCAP_BUFFER */
static void net_pcap_append(struct net_pcap *p, const void *data, size_t n)
{
    if (p->used + n > sizeof(p->buffer) && net_pcap_flush(p) < 0)
        return;
    memcpy(p->buffer + p->used, data, n);
    p->used += n;
}

/* One finished frame. */
static void net_pcap_emit(void *opaque, const struct net_hdr *hdr, const uint8_t *frame, size_t len)
{
    struct net_pcap *p = opaque;
    struct net_pcap_record_head head = { .captured = (uint32_t)len, .original = (uint32_t)len };
    struct timespec now;

    if (p->error < 0)
        return;
    if (p->max_bytes && p->bytes + sizeof(head) + len > p->max_bytes) {
        if (net_pcap_flush(p) == 0)
            p->error = -EFBIG;
        return;
    }
    clock_gettime(CLOCK_REALTIME, &now);
    head.seconds = (uint32_t)now.tv_sec;
    head.nanoseconds = (uint32_t)now.tv_nsec;
    net_pcap_append(p, &head, sizeof(head));
    net_pcap_append(p, frame, len);
    p->bytes += sizeof(head) + len;
    p->records++;
}

int net_pcap_write(struct net_pcap *p, const struct net_hdr *hdr, const uint8_t *frame, size_t len)
{
    int res;

    if (p->error < 0 || len > NET_FRAME_MAX)
        return p->error;
    res = net_offload_finish(hdr, frame, len, 0, net_pcap_emit, p);
    if (res == -EINVAL) /* not to be cut: as it is */
        net_pcap_emit(p, hdr, frame, len);
    else if (res < 0)
        p->error = res;
    return p->error;
}

int net_pcap_new(int fd, uint64_t max_bytes, struct net_pcap **ret_pcap)
{
    struct net_pcap_file_head head = {
        .magic = (uint32_t)NET_PCAP_MAGIC_NS,
        .major = 2,
        .minor = 4,
        .snap_len = NET_PCAP_SNAP,
        .link_type = NET_PCAP_ETHERNET,
    };
    struct net_pcap *p = calloc(1, sizeof(*p));
    int res;

    if (!p)
        return -ENOMEM;
    p->fd = fd;
    p->max_bytes = max_bytes;
    net_pcap_append(p, &head, sizeof(head));
    p->bytes = sizeof(head);
    res = net_pcap_flush(p);
    if (res < 0) {
        free(p);
        return res;
    }
    *ret_pcap = p;
    return 0;
}

void net_pcap_free(struct net_pcap *p)
{
    if (!p)
        return;
    if (net_pcap_flush(p) < 0)
        p->used = 0; /* said by the call before, or nobody is left to hear it */
    close(p->fd);
    free(p);
}

uint64_t net_pcap_records(const struct net_pcap *p)
{
    return p->records;
}
