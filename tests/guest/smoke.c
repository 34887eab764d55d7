/* The framework itself: exceptions are recorded with their details, user mode works, further CPUs start. */
#include "long.h"

static void test_exceptions(void)
{
    TRY("nop");
    CHECK_EXC("nop", NO_EXC, 0);
    TRY("ud2");
    CHECK_EXC("ud2", UD, 0);
    TRY("movb $1, (%0)", "r"(0x7000000000ULL));
    CHECK_EXC("store to unmapped", PF, 2);
    CHECK_EQ("cr2", exc.cr2, 0x7000000000ULL);
    TRY("int3");
    CHECK_EXC("int3", BP, 0);
}

SNIPPET(user_add, "leaq 5(%rdi), %rax; int $0x80");
SNIPPET(user_cli, "cli; int $0x80");

static void test_user_mode(void)
{
    USER_EXEC(user_add, .rdi = 37);
    CHECK_EXC("user code", 0x80, 0);
    CHECK_EQ("user result", exc.frame.rax, 42);
    CHECK_EQ("user cs", exc.frame.cs, SEL_USER64);
    USER_EXEC(user_cli);
    CHECK_EXC("cli at CPL 3", GP, 0);
    CHECK_EQ("rip", exc.frame.rip, USER_CODE);
}

static volatile unsigned ran_on;

static void ap_job(unsigned cpu)
{
    ran_on |= 1u << cpu;
}

static void test_cpus(void)
{
    unsigned n = cpus_start();

    for (unsigned i = 1; i < n; i++) {
        cpu_call(i, ap_job);
        cpu_wait(i);
    }
    CHECK_EQ("CPUs that ran", ran_on, (1u << n) - 2);
}

const struct guest_test guest_tests[] = {
    { "exceptions", test_exceptions },
    { "user mode", test_user_mode },
    { "cpus", test_cpus },
    { 0 },
};
