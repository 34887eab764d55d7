/* Strict parsing of numbers and sizes that people type. */
#ifndef BASE_NUM_H
#define BASE_NUM_H

#include <stdint.h>

#include "base/attr.h"

/* Decimal, or hexadecimal after 0x; no sign, no blanks, nothing behind. -EINVAL: not a number; -ERANGE: outside
 * min..max. *ret is untouched on failure. */
int num_parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *ret) MUST_USE;

/* A size in bytes: digits with an optional suffix K, M, G or T (powers of 1024; an i and/or B may follow: 512MiB),
 * before which a decimal point and up to six digits may stand: 1.5G. Rounded down. Errors as above; -ERANGE also where
 * the product does not fit 64 bits. */
int num_parse_size(const char *text, uint64_t *ret_bytes) MUST_USE;

#endif
