/* Requests to the switch's process: any text is parsed or refused, and what is accepted survives writing and reading
 * again. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/text.h"
#include "proto/net_msg.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct net_msg_request request, again;
    struct err e = { 0 };
    char *text = text_copy(data, len), *first = NULL, *second = NULL;

    if (text && net_msg_request_from_json(text, &request, &e) == 0) {
        CHECK(net_msg_request_to_json(&request, &first) == 0);
        CHECK(net_msg_request_from_json(first, &again, &e) == 0);
        CHECK(net_msg_request_to_json(&again, &second) == 0);
        CHECK(strcmp(first, second) == 0);
    } else if (text) {
        CHECK(e.code != 0 && e.text[0] != '\0');
    }
    free(first);
    free(second);
    free(text);
    return 0;
}
