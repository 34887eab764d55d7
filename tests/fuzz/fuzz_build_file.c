/* Containerfiles: any bytes are parsed or refused with a text, and words of what was parsed are expanded or refused. */
#include <stdint.h>
#include <stdlib.h>

#include "base/check.h"
#include "image/build_file.h"
#include "image/build_words.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static const char *fuzz_lookup(const void *opaque, const char *name)
{
    return name[0] < 'm' ? name : NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    const struct build_vars vars = { .lookup = fuzz_lookup };
    struct build_file f = { 0 };
    struct err e = { 0 };

    if (build_file_parse((const char *)data, len, &f, &e) < 0)
        CHECK(e.code != 0 && e.text[0] != '\0');
    for (size_t i = 0; i < f.n; i++) {
        struct inst_strings pairs = { 0 };
        char *word = NULL;

        if (build_word_expand(f.at[i].rest, f.escape, &vars, &word, &e) == 0)
            free(word);
        if (build_words_pairs(f.at[i].rest, f.escape, &vars, "ENV", &pairs, &e) < 0)
            CHECK(e.text[0] != '\0');
        inst_strings_done(&pairs);
    }
    build_file_done(&f);
    return 0;
}
