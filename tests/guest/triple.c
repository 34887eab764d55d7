/* A triple fault shuts the machine down (Intel SDM volume 3, section 6.15). */
#include "long.h"

static void test_triple_fault(void)
{
    const struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) idtr = { 0, 0 };

    guest_print("EXPECT SHUTDOWN\n");
    __asm__ volatile("lidt %0; ud2" ::"m"(idtr));
}

const struct guest_test guest_tests[] = {
    { "triple fault", test_triple_fault },
    { 0 },
};
