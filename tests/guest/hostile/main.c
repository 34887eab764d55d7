/* The hostile guest: a driver that misbehaves, one group of cases for each run. Command line: case=GROUP or
 * case=GROUP/NAME, seconds=N and seed=N for `random`. Text goes to the serial port, the result to the exit port 0xf4.
 */
#include "virtio.h"

extern uint32_t boot_info;

/* In the place of the library's, which writes to a debug port. */
void guest_put(char c)
{
    for (unsigned tries = 0; tries < 100000 && !(inb(0x3fd) & 0x20); tries++) {
    }
    outb(0x3f8, (uint8_t)c);
}

static const struct hostile_group groups[] = {
    { .name = "split", .run = split_run },
    { .name = "packed", .run = packed_run },
    { .name = "registers", .cases = register_cases },
    { .name = "pci", .cases = pci_cases },
    { .name = "msix", .cases = msix_cases },
    { .name = "race", .cases = race_cases },
    { .name = "random", .run = random_run },
    { .name = "quiet", .run = quiet_run },
    { .name = "busy", .run = busy_run },
    { .name = "triple", .run = triple_run },
    { .name = "exec-mmio", .run = exec_mmio_run },
    { .name = "exec-end", .run = exec_end_run },
    { .name = "flood", .run = flood_run },
    { .name = "flood-on", .run = flood_on_run },
    { .name = "storm", .run = storm_run },
    { .name = "starve", .run = starve_run },
};

/* The word behind "case=" on the command line, up to end; returns behind it, NULL if it is another word. */
static const char *match(const char *at, const char *word)
{
    while (*word && *at == *word) {
        at++;
        word++;
    }
    return *word ? NULL : at;
}

static const char *case_option(void)
{
    const uint32_t *info = (const void *)(uint64_t)boot_info;

    for (const char *s = (const char *)(uint64_t)info[4]; *s; s++) {
        const char *at = match(s, "case=");

        if (at)
            return at;
    }
    return "";
}

static void run_group(const struct hostile_group *g, const char *rest)
{
    unsigned ran = 0;

    if (g->run) {
        g->run();
        return;
    }
    for (const struct hostile_case *c = g->cases; c->name; c++) {
        const char *end = *rest == '/' ? match(rest + 1, c->name) : NULL;

        if (*rest == '/' && (!end || (*end && *end != ' ')))
            continue;
        guest_print("%s: %s\n", g->name, c->name);
        c->run();
        ran++;
    }
    if (!ran)
        guest_panic("no such case");
}

static void hostile(void)
{
    const char *want = case_option();

    devices_find();
    for (unsigned i = 0; i < n_devices; i++)
        CHECK(vdev_start(&devices[i], 0), "%s does not start", devices[i].name);
    others_work(NULL);
    guest_print("hostile: %u devices work\n", n_devices);
    for (unsigned i = 0; i < ARRAY_SIZE(groups); i++) {
        const char *rest = match(want, groups[i].name);

        if (rest && (!*rest || *rest == ' ' || *rest == '/')) {
            run_group(&groups[i], rest);
            return;
        }
    }
    guest_panic("no such group");
}

const struct guest_test guest_tests[] = {
    { "hostile", hostile },
    { 0 },
};
