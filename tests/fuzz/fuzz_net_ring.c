/* Fuzz target: the memory of a ring as a hostile peer writes it. Input: steps of where (two bytes), how many, what; a
 * doorbell after each. */
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/check.h"
#include "net/ring.h"
#include "net/ring_priv.h"
#include "sys/loop.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool fuzz_receive(void *opaque, const struct net_hdr *hdr, const uint8_t *frame, size_t len)
{
    CHECK(len >= NET_HEADER && len <= NET_FRAME_MAX);
    return frame[0] != 0xee;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct loop *loop;
    static uint8_t out[1514];
    const struct net_hdr plain = { 0 };
    struct iovec iov = { out, sizeof(out) };
    struct net_ring_config c = { .side = NET_RING_SWITCH, .mtu = 1500 };
    struct net_ring_fds vm;
    struct net_backend *b;
    uint8_t *memory;

    CHECK(loop || (signal(SIGPIPE, SIG_IGN) != SIG_ERR && loop_new(&loop) == 0));
    CHECK(net_ring_create(NET_RING_BYTES_MIN, &c.fds, &vm) == 0 && net_ring_backend_new(&c, loop, &b) == 0);
    net_backend_connect(b, &(struct net_receiver){ .receive = fuzz_receive });
    memory = mmap(NULL, 2 * NET_RING_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, vm.memory, 0);
    CHECK(memory != MAP_FAILED);
    while (size > 3) {
        size_t at = load_le16(data) % NET_RING_PAGE, n = MIN((size_t)data[2], size - 3);

        if (data[1] & 0x80) /* positions, else records */
            at = at % (sizeof(struct net_ring_page) / 4) * 4;
        else
            at += NET_RING_PAGE;
        memcpy(memory + at, data + 3, MIN(n, 2 * NET_RING_PAGE - at));
        CHECK(write(vm.doorbell_out, "", 1) == 1 && loop_run_once(loop) >= 0);
        (void)!net_backend_send(b, &plain, &iov, 1, sizeof(out));
        net_backend_receive_ready(b);
        data += 3 + n;
        size -= 3 + n;
    }
    munmap(memory, 2 * NET_RING_PAGE);
    net_backend_close(b);
    net_ring_fds_close(&vm);
    CHECK(loop_run_once(loop) >= 0);
    return 0;
}
