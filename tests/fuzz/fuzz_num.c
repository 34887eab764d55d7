/* Numbers and sizes: whatever is accepted is within bounds, and prints back to the same value. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/num.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    char text[64], again[32];
    uint64_t v = 7, w = 9;

    if (len >= sizeof(text))
        return 0;
    memcpy(text, data, len);
    text[len] = '\0';
    if (num_parse_u64(text, 5, 1000, &v) == 0)
        CHECK(v >= 5 && v <= 1000);
    else
        CHECK(v == 7);
    if (num_parse_size(text, &v) == 0) {
        snprintf(again, sizeof(again), "%" PRIu64, v);
        CHECK(num_parse_u64(again, 0, UINT64_MAX, &w) == 0 && v == w);
    }
    return 0;
}
