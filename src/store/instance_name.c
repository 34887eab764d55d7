/* Names and ids that nobody has chosen. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "store/instance_priv.h"

#define NAME_TRIES 200

static const char *const name_first[] = {
    "able",   "amber",  "ample",  "brave", "brisk", "broad",  "calm",   "civil",  "clear", "clever", "cosy",
    "crisp",  "daring", "deft",   "eager", "early", "fair",   "fine",   "firm",   "fleet", "fond",   "frank",
    "gentle", "glad",   "golden", "grand", "hardy", "honest", "humble", "jolly",  "keen",  "kind",   "lively",
    "loyal",  "lucid",  "mellow", "merry", "mild",  "modest", "neat",   "nimble", "noble", "placid", "polite",
    "proud",  "quick",  "quiet",  "ready", "rosy",  "sage",   "sharp",  "silent", "smart", "snug",   "sober",
    "solid",  "steady", "sunny",  "swift", "tidy",  "true",   "vivid",  "warm",   "witty",
};
static const char *const name_second[] = {
    "auk",    "badger", "beaver", "bison",   "bream", "carp",   "cod",     "coot",   "crab",   "crane",   "cygnet",
    "dipper", "dotter", "dunlin", "eel",     "egret", "eider",  "fulmar",  "gannet", "godwit", "goose",   "grebe",
    "gull",   "hake",   "heron",  "ibis",    "kelp",  "knot",   "lamprey", "ling",   "loon",   "mallard", "marlin",
    "mink",   "mullet", "mussel", "narwhal", "newt",  "orca",   "osprey",  "otter",  "perch",  "petrel",  "pike",
    "plover", "puffin", "rail",   "ray",     "roach", "salmon", "seal",    "shad",   "shrimp", "skate",   "smelt",
    "snipe",  "stork",  "swan",   "teal",    "tench", "tern",   "trout",   "walrus", "whale",
};

int store_instance_new_id(char ret_id[INST_ID_LEN + 1])
{
    uint8_t bytes[INST_ID_LEN / 2];

    if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
        return -EIO;
    for (size_t i = 0; i < sizeof(bytes); i++)
        snprintf(ret_id + 2 * i, 3, "%02x", bytes[i]);
    return 0;
}

int store_instance_new_name(struct store *s, char ret_name[PROTO_NAME_MAX + 1], struct err *e)
{
    for (int i = 0; i < NAME_TRIES; i++) {
        char name[PROTO_NAME_MAX + 1];
        uint32_t random = 0;
        bool taken = true;
        int r;

        if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
            return err_set(e, EIO, "cannot get random bytes for a name: %s", strerror(errno));
        snprintf(name, sizeof(name), "%s-%s", name_first[random % ARRAY_SIZE(name_first)],
                 name_second[random / ARRAY_SIZE(name_first) % ARRAY_SIZE(name_second)]);
        if (i >= NAME_TRIES / 4)
            snprintf(name + strlen(name), sizeof(name) - strlen(name), "-%u", random >> 16);
        r = store_instance_name_taken(s, name, &taken, e);
        if (r < 0)
            return r;
        if (!taken) {
            memcpy(ret_name, name, sizeof(name));
            return 0;
        }
    }
    return err_set(e, EEXIST, "no name is left to choose; give one with --name");
}
