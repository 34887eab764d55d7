/* Challenges of registries, and names of images: any text is taken apart or refused; what is accepted keeps its form.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "image/registry_auth.h"
#include "image/registry_ref.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct registry_challenge c;
    struct registry_ref ref, again;
    struct err e = { 0 };
    char *text = malloc(len + 1), name[1024];

    if (!text)
        return 0;
    memcpy(text, data, len);
    text[len] = '\0';
    if (registry_challenge_parse(text, &c) == 0)
        CHECK(c.scheme != REGISTRY_SCHEME_NONE && (c.scheme != REGISTRY_SCHEME_BEARER || c.realm[0]));
    if (registry_ref_parse(text, &ref, &e) == 0 && strlen(ref.host) + strlen(ref.repository) < 400) {
        registry_ref_name(&ref, name, sizeof(name));
        CHECK(registry_ref_parse(name, &again, &e) == 0 && strcmp(ref.repository, again.repository) == 0);
    }
    free(text);
    return 0;
}
