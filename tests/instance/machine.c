/* A machine for the tests of instances: a Multiboot program of a few pages that does on its serial line and its power
 * button what its command line says. It is up in milliseconds on every engine.
 *   exit=N    end the VM with exit code N
 *   flood=N   write N numbered lines first
 *   deaf      do not listen to the power button
 * Otherwise it echoes what is typed; q and a digit end the VM with that code. */
#include <stdint.h>

#define COM1 0x3f8
#define PM1_STATUS 0x600
#define PM1_CONTROL 0x604
#define DEBUG_EXIT 0xf4

/* Header and entry: a stack, the information in ebx. */
__asm__(".section .multiboot, \"ax\"\n"
        ".align 4\n"
        ".long 0x1badb002, 3, -(0x1badb002 + 3)\n"
        ".globl machine_entry\n"
        "machine_entry:\n"
        "mov $machine_stack + 4096, %esp\n"
        "push %ebx\n"
        "call machine_main\n"
        "1: hlt\n"
        "jmp 1b\n"
        ".bss\n"
        ".align 16\n"
        "machine_stack: .skip 4096\n"
        ".text\n");

static inline void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port));
}

static inline uint8_t in8(uint16_t port)
{
    uint8_t value;

    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline uint16_t in16(uint16_t port)
{
    uint16_t value;

    __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline void out16(uint16_t port, uint16_t value)
{
    __asm__ volatile("outw %0, %1" ::"a"(value), "Nd"(port));
}

static void put(char c)
{
    while (!(in8(COM1 + 5) & 0x20))
        __asm__ volatile("pause");
    out8(COM1, (uint8_t)c);
}

static void print(const char *text)
{
    for (; *text; text++)
        put(*text);
}

static void print_number(unsigned n)
{
    char digits[12];
    int i = 0;

    do {
        digits[i++] = (char)('0' + n % 10);
        n /= 10;
    } while (n);
    while (i > 0)
        put(digits[--i]);
}

/* The number behind word in text, -1: it is not there. A word without '=' counts as 0. */
static int option(const char *text, const char *word)
{
    for (; *text; text++) {
        const char *a = text, *b = word;
        int n = 0;

        while (*b && *a == *b)
            a++, b++;
        if (*b)
            continue;
        while (*a >= '0' && *a <= '9')
            n = n * 10 + (*a++ - '0');
        return n;
    }
    return -1;
}

static void end(unsigned code)
{
    out8(DEBUG_EXIT, (uint8_t)code);
    for (;;)
        __asm__ volatile("pause");
}

void machine_main(const uint32_t *info);
void machine_main(const uint32_t *info)
{
    const char *line = info[0] & 4 ? (const char *)info[4] : "";
    int code = option(line, "exit="), flood = option(line, "flood=");
    char last = 0;

    print("machine up: ");
    print(line);
    print("\n");
    for (int i = 0; i < flood; i++) {
        print("line ");
        print_number((unsigned)i);
        print(" of the flood\n");
    }
    if (code >= 0)
        end((unsigned)code);
    print("ready> ");
    for (;;) {
        if (in8(COM1 + 5) & 1) {
            char c = (char)in8(COM1);

            put(c);
            if (last == 'q' && c >= '0' && c <= '9')
                end((unsigned)(c - '0'));
            last = c;
        } else if (in16(PM1_STATUS) & 0x100 && option(line, "deaf") < 0) {
            print("\npower button\n");
            out16(PM1_CONTROL, 5 << 10 | 0x2000);
            for (;;) /* until it is off */
                __asm__ volatile("pause");
        }
        __asm__ volatile("pause");
    }
}
