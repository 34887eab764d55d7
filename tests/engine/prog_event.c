/* What both sides do with an exception of a program: skip the instruction, or end. */
#include <Zydis/Zydis.h>
#include <string.h>

#include "prog.h"

#define EVENT_ARITH 0x8d5ULL
#define EVENT_RF 0x10000ULL
#define EVENT_FETCH 0x10ULL /* #PF error code: instruction fetch */

/* Length of the instruction at offset at; *ret_compare: REP CMPS or SCAS. */
static unsigned event_length(const uint8_t *code, uint64_t at, bool *ret_compare)
{
    ZydisDecoder decoder;
    ZydisDecodedInstruction zi;
    uint64_t left = PROG_CODE_SIZE - at;

    *ret_compare = false;
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, code + at, left < 15 ? left : 15, &zi)))
        return 1;
    *ret_compare = zi.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (zi.opcode & 0xf6) == 0xa6;
    return zi.length;
}

bool prog_resume(const struct prog *p, struct prog_event *e, const uint8_t *code)
{
    uint64_t at = e->rip - PROG_CODE;
    bool compare;
    unsigned len;

    e->next_rip = e->next_rflags = 0;
    if (e->vector == 1) { /* an instruction breakpoint must not come again */
        e->next_rip = e->rip;
        e->next_rflags = e->rflags;
        for (unsigned i = 0; i < PROG_BREAKPOINTS; i++) {
            if (p->dr7 >> (2 * i) & 3 && (p->dr7 >> (16 + 4 * i) & 3) == 0 && p->dr[i] == e->rip)
                e->next_rflags |= EVENT_RF;
        }
        return true;
    }
    if (e->vector == 3 || (e->vector == 14 && e->error & EVENT_FETCH))
        return false;
    if (at >= PROG_CODE_SIZE)
        at = e->rip - PROG_ALIAS;
    if (at >= PROG_CODE_SIZE)
        return false;
    len = event_length(code, at, &compare);
    e->next_rip = e->rip + len;
    /* Vendors differ in the flags that a fault inside REP CMPS or SCAS shows. */
    e->next_rflags = compare ? e->rflags & ~EVENT_ARITH : e->rflags;
    return true;
}

uint64_t prog_hash_xsave(uint8_t *x)
{
    uint64_t bv, h = 0x9e3779b97f4a7c15ULL, v;

    memcpy(&bv, x + 512, 8);
    if (!(bv & 1)) {
        memset(x, 0, 24);
        memset(x + 32, 0, 128);
        x[0] = 0x7f;
        x[1] = 0x03;
    }
    if (!(bv & 2))
        memset(x + 160, 0, 256);
    if (!(bv & 4))
        memset(x + 576, 0, 256);
    memset(x + 6, 0, 18); /* x87 pointers: tests/guest has those */
    memset(x + 28, 0, 4);
    memset(x + 416, 0, 160);
    for (unsigned i = 0; i < 8; i++)
        memset(x + 32 + 16 * i + 10, 0, 6);
    for (unsigned i = 0; i < STREAM_XSAVE_SIZE; i += 8) {
        memcpy(&v, x + i, 8);
        h = (h ^ v) * 0xff51afd7ed558ccdULL;
        h ^= h >> 32;
    }
    return h;
}
