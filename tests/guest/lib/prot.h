/* 32-bit guest programs: expected exceptions, ring 3 and virtual-8086 code, descriptors, real mode. */
#ifndef TESTS_GUEST_LIB_PROT_H
#define TESTS_GUEST_LIB_PROT_H

#include "guest.h"

#define SEL_CODE 0x08
#define SEL_DATA 0x10
#define SEL_CODE16 0x18
#define SEL_DATA16 0x20
#define SEL_UCODE 0x2b
#define SEL_UDATA 0x33
#define SEL_TSS 0x38
#define SEL_TEST 0x40 /* .. 0xf8 */
#define SLOT(n) (SEL_TEST + 8u * (n))

struct frame {
    uint32_t edi, esi, ebp, esp_dummy, ebx, edx, ecx, eax;
    uint32_t es, ds;
    uint32_t vector, error;
    uint32_t eip, cs, eflags;
    uint32_t esp, ss;                /* only from an outer ring */
    uint32_t v_es, v_ds, v_fs, v_gs; /* only from virtual-8086 mode */
};

struct exc {
    int vector;
    uint32_t error, cr2, dr6;
    struct frame frame;
    uint32_t handler_esp; /* of the error code's place + 4: where the CPU's own frame begins */
};
extern struct exc exc;
extern volatile uint32_t guest_recover, guest_recover_esp, guest_recover_ebp, guest_recover_to;
extern const char guest_iret_insn[];

/* As in long.h. */
#define TRY_C(text, outputs, inputs, ...)                         \
    do {                                                          \
        exc.vector = NO_EXC;                                      \
        __asm__ volatile("movl %%esp, guest_recover_esp\n\t"      \
                         "movl %%ebp, guest_recover_ebp\n\t"      \
                         "movl $77f, guest_recover\n\t" text "\n" \
                         "77:\n\t"                                \
                         "movl $0, guest_recover"                 \
                         : outputs:inputs                         \
                         : "memory", "cc", ##__VA_ARGS__);        \
    } while (0)
#define ARGS(...) __VA_ARGS__
#define TRY(text, ...) TRY_C(text, , ARGS(__VA_ARGS__), "eax", "ecx", "edx")
#define CHECK_EXC(what, want_vector, want_error) check_exc(what, want_vector, want_error, __LINE__)
void check_exc(const char *what, int vector, uint32_t error, int line);

/* true: leave through the recovery; false: return from the interrupt. */
typedef bool guest_handler(struct frame *f);
extern guest_handler *volatile guest_handlers[256];

struct gate {
    uint16_t off_lo, sel;
    uint8_t n, attr;
    uint16_t off_hi;
};
extern struct gate idt[256];
extern uint64_t gdt[32];
/* type: 5 task, 6/7 16-bit, e/f 32-bit interrupt/trap gate. */
void idt_set(unsigned vector, uint16_t sel, uint32_t to, unsigned dpl, unsigned type);
void idt_reset(unsigned vector);
uint64_t descriptor(uint32_t base, uint32_t limit, uint8_t access, uint8_t flags);

struct tss32 {
    uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi, es, cs,
        ss, ds, fs, gs, ldt;
    uint16_t trap, iomap;
    uint8_t redirect[32];
    uint8_t io_bits[8193];
};
_Static_assert(offsetof(struct tss32, trap) == 0x64, "TSS layout");
extern struct tss32 tss;

/* EIP, CS, EFLAGS [, ESP, SS [, ES, DS, FS, GS]]; regs in PUSHA order (edi first), NULL: zeros. */
void guest_iret_to(const uint32_t *words, unsigned n, const uint32_t *regs);
struct regs {
    uint32_t edi, esi, ebp, unused, ebx, edx, ecx, eax;
};
#define USER_STACK_TOP 0x700000u
/* Ring 3, flat segments; code ends with int $0x80 or an exception. */
void user_exec(const void *code, const struct regs *regs, uint32_t eflags);

/* Virtual-8086 code at V86_SEG:0. */
#define V86_SEG 0x2000u
void v86_exec(const void *code, const void *end, const struct regs *regs, uint32_t eflags);

/* 16-bit real-mode code, copied to 0x0800:0, ending with RETF; returns its EAX. */
uint32_t real_exec(const void *code, const void *end);

/* Code in .rodata with its end. */
#define SNIPPET(name, text)                                                           \
    __asm__(".pushsection .rodata\n" #name ": " text "\n" #name "_end: .popsection"); \
    extern const uint8_t name[], name##_end[]

void *page_alloc(void); /* zeroed, from 8 MiB up */

#endif
