/* Virtqueues whose rings and descriptors are arbitrary: every chain that comes out lies in RAM, the walk is bounded,
 * and a broken queue stays silent. Input: 8 bytes of configuration, then the guest's memory from address 0 on. */
#include <string.h>

#include "base/bits.h"
#include "base/check.h"
#include "virtio/queue.h"

#define RAM_SIZE 0x10000ULL
#define CHAIN_CAP 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct fuzz_world {
    struct mem *mem;
    struct virtq_chain *chains[4];
};

static void fuzz_setup(struct fuzz_world *w)
{
    if (w->mem)
        return;
    CHECK(mem_new(&w->mem) == 0);
    CHECK(mem_add_ram(w->mem, 0, RAM_SIZE, false, NULL) == 0);
    for (size_t i = 0; i < ARRAY_SIZE(w->chains); i++)
        CHECK(virtq_chain_new(CHAIN_CAP, &w->chains[i]) == 0);
}

static void fuzz_check_chain(const struct mem *m, const struct virtq_chain *c)
{
    const uint8_t *base = m->regions[0].host;
    uint64_t out = 0, in = 0;

    CHECK(c->n_out + c->n_in <= CHAIN_CAP);
    for (unsigned i = 0; i < c->n_out + c->n_in; i++) {
        const uint8_t *at = c->iov[i].iov_base;

        CHECK(c->iov[i].iov_len > 0 && c->iov[i].iov_len == c->seg[i].len);
        CHECK(at >= base && c->iov[i].iov_len <= (size_t)(base + RAM_SIZE - at));
        if (i < c->n_out)
            out += c->iov[i].iov_len;
        else
            in += c->iov[i].iov_len;
    }
    CHECK(out == c->out_len && in == c->in_len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static struct fuzz_world w;
    struct virtq q = { 0 };
    struct virtq_config config;
    uint8_t *ram, bytes[256];
    unsigned held = 0;

    fuzz_setup(&w);
    if (len < 8)
        return 0;
    ram = mem_ptr(w.mem, GPA(0), RAM_SIZE);
    memset(ram, 0, RAM_SIZE);
    memcpy(ram, data + 8, MIN(len - 8, RAM_SIZE));
    config = (struct virtq_config){
        .size = (uint16_t)(1U << (data[0] % 9)),
        .packed = data[1] & 1,
        .event_idx = data[1] & 2,
        .indirect = data[1] & 4,
        .desc = GPA((uint64_t)data[2] << 4),
        .driver = GPA(0x1000 + ((uint64_t)data[3] << 2)),
        .device = GPA(0x1800 + ((uint64_t)data[4] << 2)),
    };
    if (data[1] & 8)
        config.device = GPA(RAM_SIZE - data[5]);
    if (data[1] & 16)
        config.size = data[6];
    if (virtq_init(&q, w.mem, &config) < 0)
        return 0;
    for (unsigned round = 0; round < 600; round++) {
        struct virtq_chain *c = w.chains[held];
        int r = virtq_pop(&q, c);

        if (r <= 0) {
            CHECK(r == 0 || q.broken);
            if (q.broken)
                CHECK(virtq_pop(&q, c) == 0);
            if (r < 0 || held == 0)
                break;
        } else {
            fuzz_check_chain(w.mem, c);
            virtq_chain_read(c, data[7], bytes, sizeof(bytes));
            virtq_chain_write(c, 0, bytes, sizeof(bytes)); /* may overwrite the rings: that is the guest's affair */
            if (round % 7 == 3)
                virtq_unpop(&q, c);
            else if (++held < ARRAY_SIZE(w.chains))
                continue;
        }
        while (held > 0) {
            held--;
            virtq_push(&q, w.chains[held], w.chains[held]->in_len);
        }
        (void)virtq_should_interrupt(&q);
        virtq_disable_notify(&q);
        if (virtq_enable_notify(&q))
            CHECK(q.ready);
    }
    virtq_done(&q);
    return 0;
}
