/* Start, exceptions, ring 3, virtual-8086 and real mode of 32-bit guest programs. */
#include "prot.h"

struct multiboot_info {
    uint32_t flags, mem_lower, mem_upper, boot_device, cmdline;
};

struct exc exc;
volatile uint32_t guest_recover, guest_recover_esp, guest_recover_ebp, guest_recover_to;
guest_handler *volatile guest_handlers[256];
struct gate idt[256] __attribute__((aligned(16)));
struct tss32 tss __attribute__((aligned(16)));
static uint8_t ring0_stack[16384] __attribute__((aligned(16)));
static uint8_t *page_next = (uint8_t *)0x800000;

extern const uint8_t exception_stubs[], real_switch[], real_switch_end[];
extern uint32_t boot_info;
bool guest_exception(struct frame *f);
void guest_start(void);
uint32_t real_mode_call(uint32_t offset);

void check_exc(const char *what, int vector, uint32_t error, int line)
{
    guest_checks++;
    if (exc.vector != vector)
        guest_fail("%s: exception %d (error 0x%x), expected %d (line %d)", what, exc.vector,
                   exc.vector == NO_EXC ? 0ul : (unsigned long)exc.error, vector, line);
    else if (vector != NO_EXC && exc.error != error)
        guest_fail("%s: exception %d with error 0x%x, expected 0x%x (line %d)", what, vector, (unsigned long)exc.error,
                   (unsigned long)error, line);
}

bool guest_exception(struct frame *f)
{
    unsigned vector = f->vector & 255;

    if (guest_handlers[vector])
        return guest_handlers[vector](f);
    if (!guest_recover)
        guest_panic("exception %u error 0x%x cs:eip 0x%x:0x%x flags 0x%x cr2 0x%x", vector, (unsigned long)f->error,
                    (unsigned long)f->cs, (unsigned long)f->eip, (unsigned long)f->eflags, read_cr2());
    exc.vector = (int)vector;
    exc.error = f->error;
    exc.cr2 = read_cr2();
    exc.dr6 = read_dr6();
    exc.frame = *f;
    exc.handler_esp = (uint32_t)&f->eip;
    guest_recover_to = guest_recover;
    guest_recover = 0;
    return true;
}

void idt_set(unsigned vector, uint16_t sel, uint32_t to, unsigned dpl, unsigned type)
{
    idt[vector] = (struct gate){
        .off_lo = (uint16_t)to, .sel = sel, .attr = (uint8_t)(0x80 | dpl << 5 | type), .off_hi = (uint16_t)(to >> 16)
    };
}

void idt_reset(unsigned vector)
{
    idt_set(vector, SEL_CODE, (uint32_t)exception_stubs + 16 * vector, vector == 0x80 ? 3 : 0, 14);
}

uint64_t descriptor(uint32_t base, uint32_t limit, uint8_t access, uint8_t flags)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
           (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)(flags & 15) << 52 | (uint64_t)(base >> 24) << 56;
}

static void pic_init(void)
{
    static const uint8_t words[][2] = { { 0x11, 0x11 }, { 0x20, 0x28 }, { 4, 2 }, { 1, 1 }, { 0xff, 0xff } };

    for (unsigned i = 0; i < ARRAY_SIZE(words); i++) {
        outb(i ? 0x21 : 0x20, words[i][0]);
        outb(i ? 0xa1 : 0xa0, words[i][1]);
    }
}

void guest_start(void)
{
    const struct multiboot_info *info = (const void *)boot_info;
    const struct {
        uint16_t limit;
        uint32_t base;
    } __attribute__((packed)) idtr = { sizeof(idt) - 1, (uint32_t)idt };

    if (info && info->flags & 4)
        guest_set_command_line((const char *)info->cmdline);
    for (unsigned i = 0; i < 256; i++)
        idt_reset(i);
    __asm__ volatile("lidt %0" ::"m"(idtr));
    tss.ss0 = SEL_DATA;
    tss.esp0 = (uint32_t)(ring0_stack + sizeof(ring0_stack));
    tss.iomap = offsetof(struct tss32, io_bits);
    memset(tss.io_bits, 0xff, sizeof(tss.io_bits));
    gdt[SEL_TSS / 8] = descriptor((uint32_t)&tss, sizeof(tss) - 1, 0x89, 0);
    __asm__ volatile("ltr %w0" ::"r"(SEL_TSS));
    write_cr0((read_cr0() | CR0_NE) & ~(CR0_TS | CR0_EM));
    pic_init();
    guest_run_tests();
}

void *page_alloc(void)
{
    uint8_t *p = page_next;

    page_next += 4096;
    memset(p, 0, 4096);
    return p;
}

void user_exec(const void *code, const struct regs *regs, uint32_t eflags)
{
    static const struct regs zero;
    const uint32_t words[] = { (uint32_t)code, SEL_UCODE, eflags, USER_STACK_TOP, SEL_UDATA };

    exc.vector = NO_EXC;
    guest_iret_to(words, 5, (const uint32_t *)(regs ? regs : &zero));
}

void v86_exec(const void *code, const void *end, const struct regs *regs, uint32_t eflags)
{
    static const struct regs zero;
    const uint32_t words[] = { 0,      V86_SEG, eflags | (uint32_t)EFLAGS_VM | 2, 0x1000, 0x3000, 0x4000, 0x5000,
                               0x6000, 0x7000 };

    memcpy((void *)(V86_SEG << 4), code, (size_t)((const uint8_t *)end - (const uint8_t *)code));
    exc.vector = NO_EXC;
    guest_iret_to(words, 9, (const uint32_t *)(regs ? regs : &zero));
}

uint32_t real_exec(const void *code, const void *end)
{
    memcpy((void *)0x1000, real_switch, (size_t)(real_switch_end - real_switch));
    memcpy((void *)0x8000, code, (size_t)((const uint8_t *)end - (const uint8_t *)code));
    return real_mode_call(0);
}
