/* Text, exit and the test loop; compiled for 32-bit and for 64-bit programs. */
#include "guest.h"

#include <stdarg.h>

unsigned guest_checks;
static unsigned guest_failures;
static const char *guest_test_name = "start";
static const char *guest_command_line = "";

void *memcpy(void *to, const void *from, size_t n)
{
    void *ret = to;

    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory");
    return ret;
}

void *memset(void *to, int value, size_t n)
{
    void *ret = to;

    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(value) : "memory");
    return ret;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const uint8_t *x = a, *y = b;

    for (size_t i = 0; i < n; i++) {
        if (x[i] != y[i])
            return x[i] < y[i] ? -1 : 1;
    }
    return 0;
}

__attribute__((weak)) void guest_put(char c)
{
    outb(0xe9, (uint8_t)c);
}

static void guest_put_number(uint64_t v, unsigned base)
{
    char text[24];
    int n = 0;

    do {
        /* No 64-bit division in a freestanding 32-bit program: decimal values are small here. */
        unsigned digit = base == 16 ? (unsigned)(v & 15) : (uint32_t)v % 10;

        text[n++] = (char)(digit < 10 ? '0' + digit : 'a' + digit - 10);
        v = base == 16 ? v >> 4 : (uint32_t)v / 10;
    } while (v != 0);
    while (n > 0)
        guest_put(text[--n]);
}

static void guest_vprint(const char *fmt, va_list args)
{
    for (; *fmt; fmt++) {
        const char *s;
        int d;

        if (*fmt != '%') {
            guest_put(*fmt);
            continue;
        }
        switch (*++fmt) {
        case 's':
            for (s = va_arg(args, const char *); *s; s++)
                guest_put(*s);
            break;
        case 'd':
            d = va_arg(args, int);
            if (d < 0)
                guest_put('-');
            guest_put_number((uint64_t)(unsigned)(d < 0 ? -d : d), 10);
            break;
        case 'u':
            guest_put_number(va_arg(args, unsigned), 10);
            break;
        case 'x':
            guest_put_number(va_arg(args, unsigned long), 16);
            break;
        case 'X':
            guest_put_number(va_arg(args, uint64_t), 16);
            break;
        default:
            guest_put(*fmt);
            break;
        }
    }
}

void guest_print(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    guest_vprint(fmt, args);
    va_end(args);
}

void guest_exit(unsigned code)
{
    for (;;) {
        outb(0xf4, (uint8_t)code);
        __asm__ volatile("cli; hlt");
    }
}

void guest_panic(const char *fmt, ...)
{
    va_list args;

    guest_print("PANIC in %s: ", guest_test_name);
    va_start(args, fmt);
    guest_vprint(fmt, args);
    va_end(args);
    guest_put('\n');
    guest_exit(2);
}

void guest_fail(const char *fmt, ...)
{
    va_list args;

    /* A matrix that is wrong everywhere needs no thousand lines. */
    if (++guest_failures > 60)
        return;
    guest_print("FAIL %s: ", guest_test_name);
    va_start(args, fmt);
    guest_vprint(fmt, args);
    va_end(args);
    guest_put('\n');
}

void guest_skip(const char *what)
{
    guest_print("skip %s: no %s\n", guest_test_name, what);
}

bool guest_is_intel(void)
{
    return cpuid(0, 0).ebx == 0x756e6547; /* "Genu" */
}

void guest_set_command_line(const char *text)
{
    guest_command_line = text;
}

unsigned guest_option(const char *name, unsigned fallback)
{
    for (const char *s = guest_command_line; *s; s++) {
        const char *n = name, *at = s;
        unsigned value = 0;

        while (*n && *at == *n) {
            at++;
            n++;
        }
        if (*n || *at != '=')
            continue;
        for (at++; *at >= '0' && *at <= '9'; at++)
            value = value * 10 + (unsigned)(*at - '0');
        return value;
    }
    return fallback;
}

void guest_run_tests(void)
{
    for (const struct guest_test *t = guest_tests; t->name; t++) {
        guest_test_name = t->name;
        t->run();
    }
    guest_print("%u checks, %u failed\n", guest_checks, guest_failures);
    guest_exit(guest_failures ? 1 : 0);
}
