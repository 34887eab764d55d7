/* 8042 keyboard controller and PS/2 keyboard. One queue feeds the output buffer; each byte remembers whether it belongs
 * to the auxiliary port. The controller answers at once, so "input buffer full" never shows.
 *
 * The auxiliary port exists but nothing is plugged in: its interface test passes, loopback works, and a command to it
 * gives the time-out answer that drivers take as "no device" without waiting. */
#include "hw/i8042.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "base/pack.h"

#define I8042_DATA 0x60
#define I8042_COMMAND 0x64
#define I8042_QUEUE 64U

enum {
    STATUS_FULL = 0x01,
    STATUS_SYSTEM = 0x04,
    STATUS_COMMAND = 0x08,
    STATUS_UNLOCKED = 0x10,
    STATUS_AUX = 0x20,
    STATUS_TIMEOUT = 0x40
};
enum {
    MODE_KEYBOARD_IRQ = 0x01,
    MODE_AUX_IRQ = 0x02,
    MODE_SYSTEM = 0x04,
    MODE_KEYBOARD_OFF = 0x10,
    MODE_AUX_OFF = 0x20,
    MODE_TRANSLATE = 0x40
};
enum { OUT_RUN = 0x01, OUT_A20 = 0x02 };

struct i8042_byte {
    uint8_t value;
    bool aux, timeout;
};

struct i8042 {
    struct i8042_config config;
    pthread_mutex_t lock;
    uint8_t mode; /* the command byte */
    uint8_t out_port;
    uint8_t ram[32]; /* commands 0x20..0x3f, 0x60..0x7f; ram[0] is mode */
    uint8_t command; /* waits for its data byte at port 0x60; 0: none */
    bool last_was_command;
    uint8_t keyboard_command; /* keyboard command that waits for its argument */
    uint8_t leds, scan_set;
    bool scanning;
    bool reset_wanted;
    bool keyboard_level, aux_level;
    uint8_t last; /* what port 0x60 shows while the queue is empty */
    struct i8042_byte queue[I8042_QUEUE];
    unsigned head, count;
};

static void i8042_queue_locked(struct i8042 *k, uint8_t value, bool aux, bool timeout)
{
    if (k->count == I8042_QUEUE)
        return;
    k->queue[(k->head + k->count) % I8042_QUEUE] = (struct i8042_byte){ value, aux, timeout };
    k->count++;
}

static void i8042_reply_locked(struct i8042 *k, uint8_t value)
{
    i8042_queue_locked(k, value, false, false);
}

static void i8042_irq_update_locked(struct i8042 *k)
{
    bool aux = k->count > 0 && k->queue[k->head].aux;
    bool keyboard_level = k->count > 0 && !aux && k->mode & MODE_KEYBOARD_IRQ;
    bool aux_level = aux && k->mode & MODE_AUX_IRQ;

    if (keyboard_level != k->keyboard_level)
        irq_set(&k->config.keyboard_irq, keyboard_level);
    if (aux_level != k->aux_level)
        irq_set(&k->config.aux_irq, aux_level);
    k->keyboard_level = keyboard_level;
    k->aux_level = aux_level;
}

static uint8_t i8042_status_locked(const struct i8042 *k)
{
    uint8_t status = STATUS_UNLOCKED;

    status |= k->mode & MODE_SYSTEM;
    status |= k->last_was_command ? STATUS_COMMAND : 0;
    if (k->count > 0) {
        status |= STATUS_FULL;
        status |= k->queue[k->head].aux ? STATUS_AUX : 0;
        status |= k->queue[k->head].timeout ? STATUS_TIMEOUT : 0;
    }
    return status;
}

/* The line drops between two bytes, so that an edge-triggered controller sees each. */
static uint8_t i8042_take_locked(struct i8042 *k)
{
    unsigned left;

    if (k->count == 0)
        return k->last;
    k->last = k->queue[k->head].value;
    k->head = (k->head + 1) % I8042_QUEUE;
    left = k->count - 1;
    k->count = 0;
    i8042_irq_update_locked(k);
    k->count = left;
    i8042_irq_update_locked(k);
    return k->last;
}

static void i8042_keyboard_argument_locked(struct i8042 *k, uint8_t command, uint8_t value)
{
    i8042_reply_locked(k, 0xfa);
    if (command == 0xed)
        k->leds = value;
    if (command == 0xf0) {
        if (value == 0)
            i8042_reply_locked(k, k->scan_set);
        else if (value <= 3)
            k->scan_set = value;
    }
}

static void i8042_keyboard_locked(struct i8042 *k, uint8_t value)
{
    uint8_t command = k->keyboard_command;

    k->mode &= (uint8_t)~MODE_KEYBOARD_OFF; /* sending re-enables the interface */
    k->keyboard_command = 0;
    if (command) {
        i8042_keyboard_argument_locked(k, command, value);
        return;
    }
    switch (value) {
    case 0xed: /* LEDs */
    case 0xf0: /* scan code set */
    case 0xf3: /* repeat rate */
        k->keyboard_command = value;
        i8042_reply_locked(k, 0xfa);
        break;
    case 0xee: /* echo */
        i8042_reply_locked(k, 0xee);
        break;
    case 0xf2: /* identify: an MF2 keyboard; with translation on, 0x83 shows as 0x41 */
        i8042_reply_locked(k, 0xfa);
        i8042_reply_locked(k, 0xab);
        i8042_reply_locked(k, k->mode & MODE_TRANSLATE ? 0x41 : 0x83);
        break;
    case 0xf4: /* enable scanning */
    case 0xf5: /* defaults, scanning off */
    case 0xf6: /* defaults */
        k->scanning = value != 0xf5;
        if (value != 0xf4)
            k->scan_set = 2;
        i8042_reply_locked(k, 0xfa);
        break;
    case 0xff: /* reset and self test */
        k->scanning = true;
        k->scan_set = 2;
        i8042_reply_locked(k, 0xfa);
        i8042_reply_locked(k, 0xaa);
        break;
    default:
        i8042_reply_locked(k, 0xfe); /* resend: not understood */
        break;
    }
}

static void i8042_out_port_locked(struct i8042 *k, uint8_t value)
{
    k->out_port = value;
    if (!(value & OUT_RUN))
        k->reset_wanted = true;
}

/* The data byte of a controller command. */
static void i8042_argument_locked(struct i8042 *k, uint8_t command, uint8_t value)
{
    switch (command) {
    case 0xd1:
        i8042_out_port_locked(k, value);
        break;
    case 0xd2: /* write to the keyboard's output buffer */
        i8042_queue_locked(k, value, false, false);
        break;
    case 0xd3: /* likewise for the auxiliary port: its loopback */
        i8042_queue_locked(k, value, true, false);
        break;
    case 0xd4: /* to the auxiliary device, which is not there */
        i8042_queue_locked(k, 0xfe, true, true);
        break;
    default: /* 0x60..0x7f */
        k->ram[command & 0x1f] = value;
        if (command == 0x60)
            k->mode = value;
        break;
    }
}

static void i8042_command_locked(struct i8042 *k, uint8_t value)
{
    k->command = 0;
    switch (value) {
    case 0x20:
        i8042_reply_locked(k, k->mode);
        break;
    case 0x21 ... 0x3f:
        i8042_reply_locked(k, k->ram[value & 0x1f]);
        break;
    case 0x60 ... 0x7f:
    case 0xd1 ... 0xd4:
        k->command = value;
        break;
    case 0xa7:
        k->mode |= MODE_AUX_OFF;
        break;
    case 0xa8:
        k->mode &= (uint8_t)~MODE_AUX_OFF;
        break;
    case 0xa9: /* interface tests: passed */
    case 0xab:
        i8042_reply_locked(k, 0x00);
        break;
    case 0xaa: /* self test */
        k->mode |= MODE_SYSTEM;
        i8042_reply_locked(k, 0x55);
        break;
    case 0xad:
        k->mode |= MODE_KEYBOARD_OFF;
        break;
    case 0xae:
        k->mode &= (uint8_t)~MODE_KEYBOARD_OFF;
        break;
    case 0xc0: /* input port: keyboard not locked */
        i8042_reply_locked(k, 0x80);
        break;
    case 0xd0:
        i8042_reply_locked(k, (uint8_t)(k->out_port | (k->keyboard_level ? 0x10 : 0) | (k->aux_level ? 0x20 : 0)));
        break;
    case 0xf0 ... 0xff: /* pulse the output lines whose bit is 0; line 0 is reset */
        if (!(value & OUT_RUN))
            k->reset_wanted = true;
        break;
    default:
        break;
    }
}

/* Unlocks. */
static void i8042_access_end(struct i8042 *k)
{
    bool reset = k->reset_wanted;

    k->reset_wanted = false;
    i8042_irq_update_locked(k);
    pthread_mutex_unlock(&k->lock);
    if (reset && k->config.reset)
        k->config.reset(k->config.opaque);
}

static void i8042_data_read(void *dev, uint64_t off, void *data, unsigned len)
{
    struct i8042 *k = dev;

    pthread_mutex_lock(&k->lock);
    *(uint8_t *)data = i8042_take_locked(k);
    i8042_access_end(k);
}

static void i8042_data_write(void *dev, uint64_t off, const void *data, unsigned len)
{
    struct i8042 *k = dev;
    uint8_t value = *(const uint8_t *)data, command;

    pthread_mutex_lock(&k->lock);
    command = k->command;
    k->command = 0;
    k->last_was_command = false;
    if (command)
        i8042_argument_locked(k, command, value);
    else
        i8042_keyboard_locked(k, value);
    i8042_access_end(k);
}

static void i8042_status_read(void *dev, uint64_t off, void *data, unsigned len)
{
    struct i8042 *k = dev;

    pthread_mutex_lock(&k->lock);
    *(uint8_t *)data = i8042_status_locked(k);
    pthread_mutex_unlock(&k->lock);
}

static void i8042_command_write(void *dev, uint64_t off, const void *data, unsigned len)
{
    struct i8042 *k = dev;

    pthread_mutex_lock(&k->lock);
    k->last_was_command = true;
    i8042_command_locked(k, *(const uint8_t *)data);
    i8042_access_end(k);
}

/* Both ranges are one byte wide, so len is always 1. */
static const struct bus_ops i8042_data_ops = { .read = i8042_data_read, .write = i8042_data_write };
static const struct bus_ops i8042_command_ops = { .read = i8042_status_read, .write = i8042_command_write };

int i8042_new(const struct i8042_config *config, struct i8042 **ret_dev)
{
    struct i8042 *k = calloc(1, sizeof(*k));
    int r;

    if (!k)
        return -ENOMEM;
    k->config = *config;
    k->mode = MODE_KEYBOARD_IRQ | MODE_SYSTEM | MODE_TRANSLATE; /* as firmware leaves it */
    k->out_port = OUT_RUN | OUT_A20;
    k->scan_set = 2;
    k->scanning = true;
    r = -pthread_mutex_init(&k->lock, NULL);
    if (r < 0) {
        free(k);
        return r;
    }
    r = bus_add(config->pio, I8042_DATA, 1, &i8042_data_ops, k);
    if (r == 0)
        r = bus_add(config->pio, I8042_COMMAND, 1, &i8042_command_ops, k);
    if (r < 0) {
        i8042_free(k);
        return r;
    }
    *ret_dev = k;
    return 0;
}

void i8042_free(struct i8042 *k)
{
    if (!k)
        return;
    bus_remove(k->config.pio, I8042_DATA, k);
    bus_remove(k->config.pio, I8042_COMMAND, k);
    pthread_mutex_destroy(&k->lock);
    free(k);
}

size_t i8042_keyboard_push(struct i8042 *k, const uint8_t *codes, size_t n)
{
    size_t taken = 0;

    pthread_mutex_lock(&k->lock);
    /* Leave room for the answers to commands. */
    while (k->scanning && !(k->mode & MODE_KEYBOARD_OFF) && taken < n && k->count < I8042_QUEUE / 2)
        i8042_reply_locked(k, codes[taken++]);
    i8042_irq_update_locked(k);
    pthread_mutex_unlock(&k->lock);
    return taken;
}

void i8042_save(struct i8042 *k, struct buf *b)
{
    pthread_mutex_lock(&k->lock);
    pack_u8(b, k->mode);
    pack_u8(b, k->out_port);
    pack_bytes(b, k->ram, sizeof(k->ram));
    pack_u8(b, k->command);
    pack_bool(b, k->last_was_command);
    pack_u8(b, k->keyboard_command);
    pack_u8(b, k->leds);
    pack_u8(b, k->scan_set);
    pack_bool(b, k->scanning);
    pack_u8(b, k->last);
    pack_u8(b, (uint8_t)k->count);
    for (unsigned i = 0; i < k->count; i++) {
        const struct i8042_byte *byte = &k->queue[(k->head + i) % I8042_QUEUE];

        pack_u8(b, byte->value);
        pack_bool(b, byte->aux);
        pack_bool(b, byte->timeout);
    }
    pthread_mutex_unlock(&k->lock);
}

/* Fields from mode to queue. */
static int i8042_unpack(struct i8042 *next, struct unpack *in)
{
    next->mode = unpack_u8(in);
    next->out_port = unpack_u8(in);
    unpack_bytes(in, next->ram, sizeof(next->ram));
    next->command = unpack_u8(in);
    next->last_was_command = unpack_bool(in);
    next->keyboard_command = unpack_u8(in);
    next->leds = unpack_u8(in);
    next->scan_set = unpack_u8(in);
    next->scanning = unpack_bool(in);
    next->last = unpack_u8(in);
    next->count = unpack_u8(in);
    if (next->count > I8042_QUEUE || next->scan_set < 1 || next->scan_set > 3)
        unpack_refuse(in);
    for (unsigned i = 0; i < next->count && !in->error; i++) {
        struct i8042_byte *byte = &next->queue[i];

        byte->value = unpack_u8(in);
        byte->aux = unpack_bool(in);
        byte->timeout = unpack_bool(in);
    }
    return unpack_end(in);
}

int i8042_restore(struct i8042 *k, uint16_t version, struct unpack *in)
{
    struct i8042 next = { 0 };
    int r = i8042_unpack(&next, in);

    (void)version;
    if (r < 0)
        return r;
    pthread_mutex_lock(&k->lock);
    k->mode = next.mode;
    k->out_port = next.out_port;
    memcpy(k->ram, next.ram, sizeof(k->ram));
    k->command = next.command;
    k->last_was_command = next.last_was_command;
    k->keyboard_command = next.keyboard_command;
    k->leds = next.leds;
    k->scan_set = next.scan_set;
    k->scanning = next.scanning;
    k->last = next.last;
    memcpy(k->queue, next.queue, sizeof(k->queue));
    k->head = 0;
    k->count = next.count;
    i8042_irq_update_locked(k);
    pthread_mutex_unlock(&k->lock);
    return 0;
}
