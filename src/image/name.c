/* Names of images here: those of registries, of which the one that is made here is "localhost". */
#include "image/image_priv.h"
#include "image/registry_ref.h"

#define NAME_LOCAL "localhost"

static int name_complete(const char *text, const char *default_host, char ret_name[IMAGE_NAME_MAX], struct err *e)
{
    struct registry_ref ref;
    int r = registry_ref_parse_in(text, default_host, &ref, e);

    if (r < 0)
        return r;
    if (ref.digest[0]) /* it says all that a tag says */
        ref.tag[0] = '\0';
    registry_ref_name(&ref, ret_name, IMAGE_NAME_MAX);
    return 0;
}

int image_name_normalize(const char *text, char ret_name[IMAGE_NAME_MAX], struct err *e)
{
    return name_complete(text, REGISTRY_DEFAULT_HOST, ret_name, e);
}

int image_name_local(const char *text, char ret_name[IMAGE_NAME_MAX], struct err *e)
{
    return name_complete(text, NAME_LOCAL, ret_name, e);
}
