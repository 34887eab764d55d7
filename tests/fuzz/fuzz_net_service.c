/* Frames of hostile guests into a network's services: each is preceded by its length (one byte, times two). */
#include "base/check.h"
#include "net/backend.h"
#include "net/service.h"
#include "sys/loop.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static int64_t fuzz_clock(void *opaque)
{
    return ++*(int64_t *)opaque;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static struct loop *loop;
    int64_t now = 0;
    struct net_service_config c = {
        .mac = { 2 },
        .subnet = { 0x0a580000, 24 },
        .gateway = 0x0a580001,
        .subnet6 = { { 0xfd, 0x88 }, 64 },
        .gateway6 = { 0xfd, 0x88, [15] = 1 },
        .dhcp = true,
        .dhcp_first = 0x0a580005,
        .dhcp_last = 0x0a580009,
        .dns = true,
        .domain = "net.internal",
        .mtu = 1500,
        .clock_s = fuzz_clock,
        .clock_opaque = &now,
    };
    const struct net_hdr hdr = { .flags = NET_HDR_DATA_VALID }; /* so that checksums need not be guessed */
    struct net_service *s;

    CHECK((loop || loop_new(&loop) == 0) && net_service_new(&c, loop, &s) == 0);
    while (len > 0) {
        size_t n = MIN((size_t)data[0] * 2, len - 1);
        struct iovec iov = { (void *)(uintptr_t)(data + 1), n };

        CHECK(net_backend_send(net_service_backend(s), &hdr, &iov, 1, n));
        data += 1 + n;
        len -= 1 + n;
    }
    net_backend_close(net_service_backend(s));
    return 0;
}
