/* Byte copies for the run path, which may not call libc's memcpy (it uses vector registers that hold guest state).
 * Must not know anything of the engine. */
#ifndef CPU_BT_COPY_H
#define CPU_BT_COPY_H

#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"

typedef uint16_t bt_cp16 __attribute__((may_alias, aligned(1)));
typedef uint32_t bt_cp32 __attribute__((may_alias, aligned(1)));
typedef uint64_t bt_cp64 __attribute__((may_alias, aligned(1)));

/* Copy n bytes; the ranges do not overlap. Sizes 1, 2, 4 and 8 are one load and one store, 16 and 32 go in 8-byte
 * units: guest memory is shared with other vCPUs, and an aligned access of 8 bytes must not tear. */
static ALWAYS_INLINE void bt_copy(void *dst, const void *src, size_t n)
{
    switch (n) {
    case 1:
        *(volatile uint8_t *)dst = *(const volatile uint8_t *)src;
        return;
    case 2:
        *(volatile bt_cp16 *)dst = *(const volatile bt_cp16 *)src;
        return;
    case 4:
        *(volatile bt_cp32 *)dst = *(const volatile bt_cp32 *)src;
        return;
    case 8:
        *(volatile bt_cp64 *)dst = *(const volatile bt_cp64 *)src;
        return;
    case 16:
    case 32:
        for (size_t i = 0; i < n / 8; i++)
            ((volatile bt_cp64 *)dst)[i] = ((const volatile bt_cp64 *)src)[i];
        return;
    default:
        __asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
    }
}

/* Zero n bytes. */
static ALWAYS_INLINE void bt_zero(void *dst, size_t n)
{
    __asm__ volatile("rep stosb" : "+D"(dst), "+c"(n) : "a"(0) : "memory");
}

#endif
