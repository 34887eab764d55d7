/* Documents of instances: any text is parsed or refused, and what is accepted survives writing and reading again. */
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/text.h"
#include "proto/inst_spec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    char *text = text_copy(data, len);
    struct inst_spec s, again;
    struct err e = { 0 };

    if (text && inst_spec_from_json(text, &s, &e) == 0) {
        json_object *first = inst_spec_to_object(&s), *second;

        CHECK(first && inst_spec_from_object(first, &again, &e) == 0);
        second = inst_spec_to_object(&again);
        CHECK(second && json_object_equal(first, second));
        json_object_put(first);
        json_object_put(second);
        inst_spec_done(&again);
    } else if (text) {
        CHECK(e.code != 0 && e.text[0] != '\0');
    }
    if (text)
        inst_spec_done(&s);
    free(text);
    return 0;
}
