/* Fuzz target: an offload header and a frame, checked and finished. */
#include <string.h>

#include "base/check.h"
#include "net/offload.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void count(void *opaque, const struct net_hdr *hdr, const uint8_t *frame, size_t len)
{
    CHECK(net_hdr_check(hdr, frame, len, len));
    *(size_t *)opaque += len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t len = size - sizeof(struct net_hdr) - 1, total = 0;
    struct net_hdr hdr;
    AUTO_FREE uint8_t *frame = NULL;

    if (size < sizeof(hdr) + 1 || len > NET_FRAME_MAX)
        return 0;
    memcpy(&hdr, data + 1, sizeof(hdr));
    frame = malloc(len + 1);
    CHECK(frame);
    memcpy(frame, data + 1 + sizeof(hdr), len);
    if (!net_hdr_check(&hdr, frame, len, len))
        return 0;
    if (net_offload_finish(&hdr, frame, len, data[0], count, &total) == 0)
        CHECK(total >= len);
    (void)!net_offload_whole(&hdr, frame, len);
    return 0;
}
