/* What a supervisor is asked: any text is parsed or refused, and what is accepted survives writing and reading again.
 */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/text.h"
#include "proto/shim_msg.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    char *text = text_copy(data, len), *first = NULL, *second = NULL;
    struct shim_msg_request r, again;
    struct err e = { 0 };

    if (text && shim_msg_request_from_json(text, &r, &e) == 0) {
        CHECK(shim_msg_request_to_json(&r, &first) == 0 && shim_msg_request_from_json(first, &again, &e) == 0);
        CHECK(shim_msg_request_to_json(&again, &second) == 0 && strcmp(first, second) == 0);
        shim_msg_request_done(&again);
    } else if (text) {
        CHECK(e.code != 0 && e.text[0] != '\0');
    }
    if (text)
        shim_msg_request_done(&r);
    free(first);
    free(second);
    free(text);
    return 0;
}
