/* Network descriptions: any text is parsed or refused, and what is accepted survives writing and reading again. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "proto/net_spec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct net_spec spec, again;
    struct err e = { 0 };
    char *text = malloc(len + 1), *first = NULL, *second = NULL;

    if (!text)
        return 0;
    memcpy(text, data, len);
    text[len] = '\0';
    if (net_spec_from_json(text, &spec, &e) == 0) {
        CHECK(net_spec_to_json(&spec, &first) == 0);
        CHECK(net_spec_from_json(first, &again, &e) == 0);
        CHECK(net_spec_to_json(&again, &second) == 0);
        CHECK(strcmp(first, second) == 0);
    } else {
        CHECK(e.code != 0 && e.text[0] != '\0');
    }
    free(first);
    free(second);
    free(text);
    return 0;
}
