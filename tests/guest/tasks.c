/* Hardware task switches: JMP, CALL, IRET, task gates (interrupt and #DF), checks of the TSS, debug trap, 16-bit TSS.
 * Intel SDM volume 3, chapter 7; table 7-1 (checks), table 7-2 (busy flag, NT, link). */
#include "prot.h"

#define SEL_TASK SLOT(0)
#define SEL_TASK_GATE SLOT(1)
#define SEL_TASK16 SLOT(2)

static struct tss32 task;
static uint8_t task_stack[4096] __attribute__((aligned(16)));
static volatile uint32_t task_runs, task_saw[12];

extern const uint8_t task_entry[], task_loop[], task_df[];
/* Runs in the task: notes registers, then IRETs to the linking task; started again behind its IRET. */
__asm__(
    ".text; task_entry: movl %eax, task_saw; movl %ecx, task_saw+4; movl %esp, task_saw+8; pushfl; popl task_saw+12; "
    "str %eax; movl %eax, task_saw+16; movl %cr0, %eax; movl %eax, task_saw+20; movl %fs, %eax; movl %eax, "
    "task_saw+24; "
    "sldt %eax; movl %eax, task_saw+28; movl %cr3, %eax; movl %eax, task_saw+32; clts; incl task_runs; "
    "task_loop: iretl; jmp task_entry");

static void make_task(uint32_t entry)
{
    memset(&task, 0, offsetof(struct tss32, io_bits));
    task.eip = entry;
    task.eflags = 2;
    task.esp = (uint32_t)(task_stack + sizeof(task_stack));
    task.cs = SEL_CODE;
    task.ss = task.ds = task.es = SEL_DATA;
    task.fs = SEL_UDATA;
    task.eax = 0xaaaa;
    task.ecx = 0xcccc;
    task.iomap = sizeof(task);
    gdt[SEL_TASK / 8] = descriptor((uint32_t)&task, sizeof(task) - 1, 0x89, 0);
}

static unsigned type_of(uint16_t sel)
{
    return gdt[sel / 8] >> 40 & 0x1f;
}

#define CALL_TASK(sel) TRY_C("lcall %0, $0", , ARGS("i"(sel)), "eax", "ecx", "edx", "ebx", "esi", "edi")
#define JMP_TASK(sel) TRY_C("ljmp %0, $0", , ARGS("i"(sel)), "eax", "ecx", "edx", "ebx", "esi", "edi")

static void test_call(void)
{
    uint32_t before, after;

    make_task((uint32_t)task_entry);
    __asm__ volatile("movl %%esp, %0" : "=r"(before));
    CALL_TASK(SEL_TASK);
    __asm__ volatile("movl %%esp, %0" : "=r"(after));
    CHECK_EXC("CALL", NO_EXC, 0);
    CHECK_EQ("ran", task_runs, 1);
    CHECK_EQ("ESP here", after, before);
    CHECK_EQ("EAX from the TSS", task_saw[0], 0xaaaa);
    CHECK_EQ("ECX", task_saw[1], 0xcccc);
    CHECK_EQ("ESP", task_saw[2], (uint32_t)(task_stack + sizeof(task_stack)));
    CHECK(task_saw[3] & EFLAGS_NT, "NT in the called task");
    CHECK_EQ("TR", task_saw[4], SEL_TASK);
    CHECK(task_saw[5] & CR0_TS, "CR0.TS");
    CHECK_EQ("FS", task_saw[6], SEL_UDATA);
    CHECK_EQ("link", task.link & 0xffff, SEL_TSS);
    CHECK_EQ("not busy after IRET", type_of(SEL_TASK), 9);
    CHECK_EQ("this task is busy", type_of(SEL_TSS), 0xb);
    CHECK_EQ("EIP saved behind the IRET", task.eip, (uint32_t)task_loop + 1);
    CHECK(!(task.eflags & EFLAGS_NT), "NT cleared in the flags that IRET saves");
    CHECK_EQ("this task's CS was saved", tss.cs & 0xffff, SEL_CODE);
    /* Again: it goes on behind its IRET. */
    CALL_TASK(SEL_TASK);
    CHECK_EQ("ran again", task_runs, 2);
}

__asm__(".text; task_jmp: movl $0x77, task_saw; str %eax; movl %eax, task_saw+16; pushfl; popl task_saw+12; clts; ljmp "
        "$0x38, $0");
extern const uint8_t task_jmp[];

static void test_jmp(void)
{
    make_task((uint32_t)task_jmp);
    task_saw[0] = 0;
    JMP_TASK(SEL_TASK);
    CHECK_EXC("JMP", NO_EXC, 0);
    CHECK_EQ("ran", task_saw[0], 0x77);
    CHECK_EQ("TR", task_saw[4], SEL_TASK);
    CHECK(!(task_saw[3] & EFLAGS_NT), "no NT");
    CHECK_EQ("that task is free", type_of(SEL_TASK), 9);
    CHECK_EQ("this one busy", type_of(SEL_TSS), 0xb);
}

static void test_gates(void)
{
    make_task((uint32_t)task_entry);
    task_runs = 0;
    gdt[SEL_TASK_GATE / 8] = (uint64_t)SEL_TASK << 16 | 0x85ULL << 40;
    CALL_TASK(SEL_TASK_GATE);
    CHECK_EXC("CALL through a task gate", NO_EXC, 0);
    CHECK_EQ("ran", task_runs, 1);
    make_task((uint32_t)task_entry);
    idt_set(0x90, SEL_TASK, 0, 0, 5);
    TRY("int $0x90");
    CHECK_EXC("INT through a task gate", NO_EXC, 0);
    CHECK_EQ("ran", task_runs, 2);
    idt_reset(0x90);
}

/* #DF by task gate: the only way to survive it with a bad stack. The handler pops its error code and repairs. */
__asm__(".text; task_df: popl task_saw; movl tss+32, %eax; movl %eax, task_saw+4; movl $df_resume, tss+32; movl "
        "boot_esp, %eax; "
        "movl %eax, tss+56; movl $2, tss+36; clts; iretl");
extern const uint8_t task_df[];
static volatile uint32_t boot_esp __attribute__((used));

static void test_double_fault_task(void)
{
    make_task((uint32_t)task_df);
    idt_set(DF, SEL_TASK, 0, 0, 5);
    task_saw[0] = 0x5555;
    gdt[SLOT(3) / 8] = descriptor(0, 0xfff, 0x93, 4); /* a stack segment without room */
    __asm__ volatile("pushal; movl %%esp, boot_esp; mov %w0, %%ss; movl $0x10000, %%esp; df_push: pushl %%eax; "
                     "df_resume: movl $0x10, "
                     "%%eax; mov %%eax, %%ss; movl boot_esp, %%esp; popal" ::"r"(SLOT(3))
                     : "memory", "cc");
    CHECK_EQ("error code on the handler's stack", task_saw[0], 0);
    CHECK(task_saw[1] != 0, "EIP of the failing task was saved");
    CHECK_EQ("TR", type_of(SEL_TASK), 9);
    idt_reset(DF);
}

static void call_and_check(const char *name, int vector, uint32_t error)
{
    CALL_TASK(SEL_TASK);
    check_exc(name, vector, error, __LINE__);
}

/* Faults before the switch leave this task running. */
static void test_checks_before(void)
{
    make_task((uint32_t)task_entry);
    gdt[SEL_TASK / 8] = descriptor((uint32_t)&task, 0x66, 0x89, 0);
    call_and_check("limit of 66h", TS, SEL_TASK);
    gdt[SEL_TASK / 8] = descriptor((uint32_t)&task, 0x67, 0x09, 0);
    call_and_check("not present", NP, SEL_TASK);
    gdt[SEL_TASK / 8] = descriptor((uint32_t)&task, 0x67, 0x8b, 0);
    call_and_check("busy", GP, SEL_TASK);
    gdt[SEL_TASK_GATE / 8] = (uint64_t)SEL_DATA << 16 | 0x85ULL << 40;
    CALL_TASK(SEL_TASK_GATE);
    CHECK_EXC("task gate to data", GP, SEL_DATA);
    gdt[SEL_TASK_GATE / 8] = (uint64_t)SEL_TASK << 16 | 0x05ULL << 40;
    CALL_TASK(SEL_TASK_GATE);
    CHECK_EXC("task gate not present", NP, SEL_TASK_GATE);
    make_task((uint32_t)task_entry);
    tss.link = SEL_TASK; /* not busy: IRET with NT needs a busy one */
    TRY("pushfl; orl $0x4000, (%%esp); popfl; iretl");
    CHECK_EXC("IRET to a TSS that is not busy", TS, SEL_TASK);
    __asm__ volatile("pushl $2; popfl" ::: "cc");
    __asm__ volatile("mov %w0, %%fs" ::"r"(SEL_DATA));
}

/* Faults behind the switch happen in the new task, whose segments may not be loaded: the handler must be a task of its
 * own (SDM volume 3, 6.15, "Invalid TSS Exception"). It notes the error code and jumps to the first task, which it has
 * made available. */
#define SEL_HANDLER SLOT(7)
static uint8_t handler_stack[4096] __attribute__((aligned(16)));
static volatile uint32_t handler_error, handler_vector;
__asm__(".text; "
        "handler_ts: movl $10, handler_vector; jmp handler_all; "
        "handler_gp: movl $13, handler_vector; jmp handler_all; "
        "handler_np: movl $11, handler_vector; jmp handler_all; "
        "handler_ss: movl $12, handler_vector; "
        "handler_all: popl handler_error; clts; andb $0xfd, gdt+0x38+5; ljmp $0x38, $0");
extern const uint8_t handler_ts[], handler_gp[], handler_np[], handler_ss[];

static void arm_handler(unsigned vector, const uint8_t *entry)
{
    static struct tss32 each[4]; /* for TS, NP, SS, GP: each with its entry point */
    unsigned slot = vector - TS;

    each[slot] = (struct tss32){ 0 };
    each[slot].eip = (uint32_t)entry;
    each[slot].cs = SEL_CODE;
    each[slot].ss = each[slot].ds = each[slot].es = SEL_DATA;
    each[slot].esp = (uint32_t)(handler_stack + sizeof(handler_stack));
    each[slot].eflags = 2;
    each[slot].iomap = sizeof(struct tss32);
    gdt[SEL_HANDLER / 8 + slot] = descriptor((uint32_t)&each[slot], 0x67, 0x89, 0);
    idt_set(vector, (uint16_t)(SEL_HANDLER + 8 * slot), 0, 0, 5);
}

static void test_checks_after(void)
{
    struct {
        const char *name;
        uint32_t *field;
        uint32_t value;
        unsigned vector;
        uint32_t error;
    } cases[] = {
        { "CS null", &task.cs, 0, TS, 0 },
        { "CS data", &task.cs, SEL_DATA, TS, SEL_DATA },
        { "CS beyond the GDT", &task.cs, 0xff00, TS, 0xff00 },
        { "CS not present", &task.cs, SLOT(5), NP, SLOT(5) },
        { "SS null", &task.ss, 0, TS, 0 },
        { "SS read-only", &task.ss, SLOT(6), TS, SLOT(6) },
        { "SS of ring 3", &task.ss, SEL_UDATA, TS, SEL_UDATA & ~3u },
        { "DS beyond the GDT", &task.ds, 0xff00, TS, 0xff00 },
        { "DS is a TSS", &task.ds, SEL_TSS, TS, SEL_TSS },
        { "LDT is data", &task.ldt, SEL_DATA, TS, SEL_DATA },
        { "LDT in an LDT", &task.ldt, 0x0c, TS, 0x0c },
        { "EIP beyond the limit of CS", &task.eip, 0x20000, GP, 0 },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        arm_handler(TS, handler_ts);
        arm_handler(NP, handler_np);
        arm_handler(SS, handler_ss);
        arm_handler(GP, handler_gp);
        make_task((uint32_t)task_entry);
        gdt[SLOT(4) / 8] = descriptor(0, 0xffff, 0x9b, 4);
        gdt[SLOT(5) / 8] = descriptor(0, 0xfffff, 0x1b, 0xc);
        gdt[SLOT(6) / 8] = descriptor(0, 0xfffff, 0x91, 0xc);
        *cases[i].field = cases[i].value;
        if (cases[i].field == &task.eip)
            task.cs = SLOT(4);
        handler_vector = handler_error = 0xeeee;
        CALL_TASK(SEL_TASK);
        CHECK(handler_vector == cases[i].vector && handler_error == cases[i].error,
              "%s: exception %u, error 0x%x, expected %u, 0x%x", cases[i].name, handler_vector,
              (unsigned long)handler_error, cases[i].vector, (unsigned long)cases[i].error);
    }
    for (unsigned v = TS; v <= GP; v++)
        idt_reset(v);
}

static volatile uint32_t trap_eip, trap_dr6;

static bool on_trap(struct frame *f)
{
    trap_eip = f->eip;
    trap_dr6 = (uint32_t)read_dr6();
    write_dr6(0xffff0ff0);
    return false;
}

static void test_debug_trap(void)
{
    make_task((uint32_t)task_entry);
    task.trap = 1;
    guest_handlers[DB] = on_trap;
    CALL_TASK(SEL_TASK);
    guest_handlers[DB] = NULL;
    CHECK_EQ("before the first instruction of the task", trap_eip, (uint32_t)task_entry);
    CHECK(trap_dr6 & BIT(15), "DR6.BT");
}

/* A 16-bit TSS. */
static struct {
    uint16_t link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags, ax, cx, dx, bx, sp, bp, si, di, es, cs, ss, ds, ldt;
} __attribute__((packed)) task16;
__asm__(".text; .balign 16; task16_code: .code16; movw %ax, %bx; addw $1, %bx; iretw; .code32");
extern const uint8_t task16_code[];

static void test_tss16(void)
{
    task16.flags = 2;
    task16.ax = 0x1110;
    task16.sp = 0x800;
    gdt[SLOT(5) / 8] = descriptor((uint32_t)task16_code, 0xff, 0x9b, 0);
    gdt[SLOT(6) / 8] = descriptor((uint32_t)task_stack, 0xfff, 0x93, 0);
    task16.cs = SLOT(5);
    task16.ss = task16.ds = task16.es = SLOT(6);
    gdt[SEL_TASK16 / 8] = descriptor((uint32_t)&task16, 0x2b, 0x81, 0);
    CALL_TASK(SEL_TASK16);
    __asm__ volatile("clts");
    CHECK_EXC("CALL of a 16-bit TSS", NO_EXC, 0);
    CHECK_EQ("BX", task16.bx, 0x1111);
    CHECK_EQ("link", task16.link, SEL_TSS);
    CHECK_EQ("IP behind the IRET", task16.ip, 6);
    gdt[SEL_TASK16 / 8] = descriptor((uint32_t)&task16, 0x2a, 0x81, 0);
    CALL_TASK(SEL_TASK16);
    CHECK_EXC("limit of 2ah", TS, SEL_TASK16);
}

SNIPPET(u_call_task, "lcall $0x40, $0; int $0x80");
SNIPPET(u_call_gate, "lcall $0x48, $0; int $0x80");

static void test_privilege(void)
{
    make_task((uint32_t)task_entry);
    task_runs = 0;
    user_exec(u_call_task, NULL, 2);
    CHECK_EXC("TSS with DPL 0 from ring 3", GP, SEL_TASK);
    gdt[SEL_TASK / 8] |= 0x60ULL << 40;
    user_exec(u_call_task, NULL, 2);
    CHECK_EXC("TSS with DPL 3", 0x80, 0);
    CHECK_EQ("ran", task_runs, 1);
    make_task((uint32_t)task_entry);
    gdt[SEL_TASK_GATE / 8] = (uint64_t)SEL_TASK << 16 | 0xe5ULL << 40;
    user_exec(u_call_gate, NULL, 2);
    CHECK_EXC("task gate with DPL 3", 0x80, 0);
    CHECK_EQ("ran", task_runs, 2);
    CHECK_EQ("back in ring 3", exc.frame.cs, SEL_UCODE);
}

const struct guest_test guest_tests[] = {
    { "CALL", test_call },
    { "JMP", test_jmp },
    { "task gates", test_gates },
    { "double fault", test_double_fault_task },
    { "checks before the switch", test_checks_before },
    { "checks behind the switch", test_checks_after },
    { "debug trap", test_debug_trap },
    { "16-bit TSS", test_tss16 },
    { "privilege", test_privilege },
    { 0 },
};
