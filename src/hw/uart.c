/* 16550A. Characters take no time, which decides three things: the transmitter is empty again within the guest's write
 * unless the sink refuses; the character time-out (four character times without traffic) has always passed when a guest
 * looks; and the divisor is stored but means nothing.
 *
 * Interrupt causes are levels computed from the registers, but for "transmitter empty", which is an event that reading
 * IIR or writing THR takes back (thre_pending). As on a PC, MCR's OUT2 gates the interrupt pin. */
#include "hw/uart.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "base/pack.h"

#define UART_PORTS 8
#define UART_FIFO 16U

enum { UART_RBR = 0, UART_IER = 1, UART_IIR = 2, UART_LCR = 3, UART_MCR = 4, UART_LSR = 5, UART_MSR = 6, UART_SCR = 7 };
enum { IER_RDA = 0x01, IER_THRE = 0x02, IER_LINE = 0x04, IER_MODEM = 0x08 };
enum {
    IIR_NONE = 0x01,
    IIR_MODEM = 0x00,
    IIR_THRE = 0x02,
    IIR_RDA = 0x04,
    IIR_LINE = 0x06,
    IIR_TIMEOUT = 0x0c,
    IIR_FIFO = 0xc0
};
enum { FCR_ENABLE = 0x01, FCR_CLEAR_RX = 0x02, FCR_CLEAR_TX = 0x04 };
enum { LCR_BREAK = 0x40, LCR_DLAB = 0x80 };
enum { MCR_DTR = 0x01, MCR_RTS = 0x02, MCR_OUT1 = 0x04, MCR_OUT2 = 0x08, MCR_LOOP = 0x10 };
enum { LSR_DR = 0x01, LSR_OE = 0x02, LSR_BI = 0x10, LSR_THRE = 0x20, LSR_TEMT = 0x40, LSR_FIFO_ERROR = 0x80 };
enum {
    MSR_DCTS = 0x01,
    MSR_DDSR = 0x02,
    MSR_TERI = 0x04,
    MSR_DDCD = 0x08,
    MSR_CTS = 0x10,
    MSR_DSR = 0x20,
    MSR_RI = 0x40,
    MSR_DCD = 0x80
};

struct uart_fifo {
    uint8_t data[UART_FIFO];
    bool is_break[UART_FIFO];
    unsigned head, count;
};

struct uart {
    struct uart_config config;
    pthread_mutex_t lock;
    uint8_t ier, fcr, lcr, mcr, msr, scr, dll, dlm;
    bool overrun;    /* LSR's OE, cleared by reading LSR */
    bool break_seen; /* LSR's BI for the character on top, cleared by reading LSR */
    bool thre_pending;
    bool irq_level;
    bool input_refused; /* the source waits for input_wanted */
    bool held;
    struct uart_fifo rx, tx;
};

static unsigned uart_depth_locked(const struct uart *u)
{
    return u->fcr & FCR_ENABLE ? UART_FIFO : 1;
}

static void uart_fifo_push(struct uart_fifo *f, uint8_t byte, bool is_break)
{
    unsigned at = (f->head + f->count) % UART_FIFO;

    f->data[at] = byte;
    f->is_break[at] = is_break;
    f->count++;
}

static uint8_t uart_fifo_pop(struct uart_fifo *f)
{
    uint8_t byte = f->data[f->head];

    f->head = (f->head + 1) % UART_FIFO;
    f->count--;
    return byte;
}

static unsigned uart_trigger_locked(const struct uart *u)
{
    static const uint8_t levels[4] = { 1, 4, 8, 14 };

    return u->fcr & FCR_ENABLE ? levels[u->fcr >> 6] : 1;
}

/* The cause of highest priority, as IIR shows it (PC16550D table IV). */
static uint8_t uart_cause_locked(const struct uart *u)
{
    if (u->ier & IER_LINE && (u->overrun || u->break_seen))
        return IIR_LINE;
    if (u->ier & IER_RDA && u->rx.count >= uart_trigger_locked(u))
        return IIR_RDA;
    if (u->ier & IER_RDA && u->rx.count > 0)
        return IIR_TIMEOUT;
    if (u->ier & IER_THRE && u->thre_pending)
        return IIR_THRE;
    if (u->ier & IER_MODEM && u->msr & (MSR_DCTS | MSR_DDSR | MSR_TERI | MSR_DDCD))
        return IIR_MODEM;
    return IIR_NONE;
}

static void uart_irq_update_locked(struct uart *u)
{
    bool level = u->mcr & MCR_OUT2 && uart_cause_locked(u) != IIR_NONE;

    if (level == u->irq_level)
        return;
    u->irq_level = level;
    irq_set(&u->config.irq, level);
}

/* A new character stands on top: its break bit shows in LSR (PC16550D section 8.3). */
static void uart_rx_top_locked(struct uart *u)
{
    if (u->rx.count > 0 && u->rx.is_break[u->rx.head]) {
        u->break_seen = true;
        u->rx.is_break[u->rx.head] = false;
    }
}

static void uart_rx_push_locked(struct uart *u, uint8_t byte, bool is_break)
{
    if (u->rx.count >= uart_depth_locked(u)) {
        u->overrun = true;
        /* With FIFOs the newcomer is lost, without them the old character (PC16550D, LSR bit 1). */
        if (u->fcr & FCR_ENABLE)
            return;
        uart_fifo_pop(&u->rx);
    }
    uart_fifo_push(&u->rx, byte, is_break);
    if (u->rx.count == 1)
        uart_rx_top_locked(u);
}

/* Hand the transmitter's bytes to the sink as far as it takes them. */
static void uart_tx_drain_locked(struct uart *u)
{
    if (u->tx.count == 0)
        return;
    while (u->tx.count > 0) {
        size_t run = MIN(u->tx.count, UART_FIFO - u->tx.head), taken = run;

        if (u->config.ops)
            taken = u->config.ops->write(u->config.opaque, &u->tx.data[u->tx.head], run);
        taken = MIN(taken, run);
        if (taken == 0)
            return;
        u->tx.head = (unsigned)(u->tx.head + taken) % UART_FIFO;
        u->tx.count -= (unsigned)taken;
    }
    u->thre_pending = true;
}

static void uart_write_thr_locked(struct uart *u, uint8_t byte)
{
    u->thre_pending = false;
    if (u->mcr & MCR_LOOP) {
        uart_rx_push_locked(u, byte, false);
        u->thre_pending = true;
        return;
    }
    if (u->tx.count >= uart_depth_locked(u))
        return; /* the guest did not look at THRE */
    uart_fifo_push(&u->tx, byte, false);
    uart_tx_drain_locked(u);
}

static void uart_write_fcr_locked(struct uart *u, uint8_t value)
{
    bool toggled = (value ^ u->fcr) & FCR_ENABLE;

    if (toggled || (value & FCR_CLEAR_RX && value & FCR_ENABLE))
        u->rx = (struct uart_fifo){ 0 };
    if ((toggled || (value & FCR_CLEAR_TX && value & FCR_ENABLE)) && u->tx.count > 0) {
        u->tx = (struct uart_fifo){ 0 };
        u->thre_pending = true;
    }
    /* The other bits count only together with the enable bit. */
    u->fcr = value & FCR_ENABLE ? value & (0xc0 | FCR_ENABLE) : 0;
}

/* Modem inputs follow the outputs in loopback; otherwise a willing far end is plugged in. */
static void uart_modem_update_locked(struct uart *u)
{
    uint8_t lines = MSR_CTS | MSR_DSR | MSR_DCD, changed;

    if (u->mcr & MCR_LOOP) {
        lines = 0;
        lines |= u->mcr & MCR_RTS ? MSR_CTS : 0;
        lines |= u->mcr & MCR_DTR ? MSR_DSR : 0;
        lines |= u->mcr & MCR_OUT1 ? MSR_RI : 0;
        lines |= u->mcr & MCR_OUT2 ? MSR_DCD : 0;
    }
    changed = (uint8_t)((u->msr ^ lines) & 0xf0);
    if (lines & MSR_RI)
        changed &= (uint8_t)~MSR_RI; /* only the trailing edge of RI counts */
    u->msr = (uint8_t)(lines | (u->msr & 0x0f) | changed >> 4);
}

static uint8_t uart_lsr_locked(const struct uart *u)
{
    uint8_t lsr = 0;

    lsr |= u->rx.count > 0 ? LSR_DR : 0;
    lsr |= u->overrun ? LSR_OE : 0;
    lsr |= u->break_seen ? LSR_BI : 0;
    lsr |= u->tx.count == 0 ? LSR_THRE | LSR_TEMT : 0;
    for (unsigned i = 0; u->fcr & FCR_ENABLE && i < u->rx.count; i++)
        lsr |= u->rx.is_break[(u->rx.head + i) % UART_FIFO] ? LSR_FIFO_ERROR : 0;
    return lsr;
}

static uint8_t uart_read_rbr_locked(struct uart *u)
{
    uint8_t byte;

    if (u->rx.count == 0)
        return 0;
    byte = uart_fifo_pop(&u->rx);
    uart_rx_top_locked(u);
    return byte;
}

static uint8_t uart_read_reg_locked(struct uart *u, unsigned reg)
{
    uint8_t v;

    switch (reg) {
    case UART_RBR:
        return u->lcr & LCR_DLAB ? u->dll : uart_read_rbr_locked(u);
    case UART_IER:
        return u->lcr & LCR_DLAB ? u->dlm : u->ier;
    case UART_IIR:
        v = uart_cause_locked(u);
        if (v == IIR_THRE)
            u->thre_pending = false;
        return v | (u->fcr & FCR_ENABLE ? IIR_FIFO : 0);
    case UART_LCR:
        return u->lcr;
    case UART_MCR:
        return u->mcr;
    case UART_LSR:
        v = uart_lsr_locked(u);
        u->overrun = u->break_seen = false;
        return v;
    case UART_MSR:
        v = u->msr;
        u->msr &= 0xf0;
        return v;
    default:
        return u->scr;
    }
}

static void uart_write_reg_locked(struct uart *u, unsigned reg, uint8_t value)
{
    switch (reg) {
    case UART_RBR:
        if (u->lcr & LCR_DLAB)
            u->dll = value;
        else
            uart_write_thr_locked(u, value);
        break;
    case UART_IER:
        if (u->lcr & LCR_DLAB) {
            u->dlm = value;
            break;
        }
        /* Enabling the cause while the transmitter is empty raises it at once; drivers test for this. */
        if (value & ~u->ier & IER_THRE && u->tx.count == 0)
            u->thre_pending = true;
        u->ier = value & 0x0f;
        break;
    case UART_IIR:
        uart_write_fcr_locked(u, value);
        break;
    case UART_LCR:
        if (u->mcr & MCR_LOOP && value & ~u->lcr & LCR_BREAK)
            uart_rx_push_locked(u, 0, true);
        u->lcr = value;
        break;
    case UART_MCR:
        u->mcr = value & 0x1f;
        uart_modem_update_locked(u);
        break;
    case UART_SCR:
        u->scr = value;
        break;
    default:
        break; /* LSR and MSR are read-only */
    }
}

static size_t uart_room_locked(const struct uart *u)
{
    if (u->mcr & MCR_LOOP || u->held)
        return 0; /* the receiver is cut off from the line */
    return uart_depth_locked(u) - MIN(u->rx.count, uart_depth_locked(u));
}

/* After every register access. Unlocks, then tells the source if it may go on. */
static void uart_access_end(struct uart *u)
{
    bool wanted = u->input_refused && uart_room_locked(u) > 0;

    if (wanted)
        u->input_refused = false;
    uart_irq_update_locked(u);
    pthread_mutex_unlock(&u->lock);
    if (wanted && u->config.ops && u->config.ops->input_wanted)
        u->config.ops->input_wanted(u->config.opaque);
}

static void uart_read(void *dev, uint64_t off, void *data, unsigned len)
{
    struct uart *u = dev;
    uint8_t *bytes = data;

    pthread_mutex_lock(&u->lock);
    for (unsigned i = 0; i < len; i++)
        bytes[i] = uart_read_reg_locked(u, (unsigned)off + i);
    uart_access_end(u);
}

static void uart_write(void *dev, uint64_t off, const void *data, unsigned len)
{
    struct uart *u = dev;
    const uint8_t *bytes = data;

    pthread_mutex_lock(&u->lock);
    for (unsigned i = 0; i < len; i++)
        uart_write_reg_locked(u, (unsigned)off + i, bytes[i]);
    uart_access_end(u);
}

static const struct bus_ops uart_bus_ops = { .read = uart_read, .write = uart_write };

int uart_new(const struct uart_config *config, struct uart **ret_uart)
{
    struct uart *u = calloc(1, sizeof(*u));
    int r;

    if (!u)
        return -ENOMEM;
    u->config = *config;
    u->dll = 1; /* 115200 baud, for guests that read it */
    u->lcr = 3;
    u->msr = MSR_CTS | MSR_DSR | MSR_DCD;
    r = -pthread_mutex_init(&u->lock, NULL);
    if (r < 0) {
        free(u);
        return r;
    }
    r = bus_add(config->pio, config->base, UART_PORTS, &uart_bus_ops, u);
    if (r < 0) {
        pthread_mutex_destroy(&u->lock);
        free(u);
        return r;
    }
    *ret_uart = u;
    return 0;
}

void uart_free(struct uart *u)
{
    if (!u)
        return;
    bus_remove(u->config.pio, u->config.base, u);
    pthread_mutex_destroy(&u->lock);
    free(u);
}

size_t uart_can_receive(struct uart *u)
{
    size_t room;

    pthread_mutex_lock(&u->lock);
    room = uart_room_locked(u);
    u->input_refused = room == 0;
    pthread_mutex_unlock(&u->lock);
    return room;
}

size_t uart_receive(struct uart *u, const uint8_t *data, size_t len)
{
    size_t taken;

    pthread_mutex_lock(&u->lock);
    taken = MIN(uart_room_locked(u), len);
    for (size_t i = 0; i < taken; i++)
        uart_rx_push_locked(u, data[i], false);
    u->input_refused = taken < len;
    uart_irq_update_locked(u);
    pthread_mutex_unlock(&u->lock);
    return taken;
}

void uart_receive_break(struct uart *u)
{
    pthread_mutex_lock(&u->lock);
    if (!(u->mcr & MCR_LOOP))
        uart_rx_push_locked(u, 0, true);
    uart_irq_update_locked(u);
    pthread_mutex_unlock(&u->lock);
}

void uart_output_ready(struct uart *u)
{
    pthread_mutex_lock(&u->lock);
    uart_tx_drain_locked(u);
    uart_irq_update_locked(u);
    pthread_mutex_unlock(&u->lock);
}

void uart_hold(struct uart *u, bool hold)
{
    pthread_mutex_lock(&u->lock);
    u->held = hold;
    uart_access_end(u);
}

/* ---- saved state ---- */

static void uart_fifo_save(const struct uart_fifo *f, struct buf *b)
{
    pack_u8(b, (uint8_t)f->count);
    for (unsigned i = 0; i < f->count; i++) {
        pack_u8(b, f->data[(f->head + i) % UART_FIFO]);
        pack_bool(b, f->is_break[(f->head + i) % UART_FIFO]);
    }
}

static void uart_fifo_restore(struct uart_fifo *f, struct unpack *in)
{
    unsigned count = unpack_u8(in);

    *f = (struct uart_fifo){ 0 };
    if (count > UART_FIFO)
        unpack_refuse(in);
    for (unsigned i = 0; i < count && !in->error; i++) {
        uint8_t byte = unpack_u8(in);

        uart_fifo_push(f, byte, unpack_bool(in));
    }
}

void uart_save(struct uart *u, struct buf *b)
{
    pthread_mutex_lock(&u->lock);
    pack_u8(b, u->ier);
    pack_u8(b, u->fcr);
    pack_u8(b, u->lcr);
    pack_u8(b, u->mcr);
    pack_u8(b, u->msr);
    pack_u8(b, u->scr);
    pack_u8(b, u->dll);
    pack_u8(b, u->dlm);
    pack_bool(b, u->overrun);
    pack_bool(b, u->break_seen);
    pack_bool(b, u->thre_pending);
    uart_fifo_save(&u->rx, b);
    uart_fifo_save(&u->tx, b);
    pthread_mutex_unlock(&u->lock);
}

int uart_restore(struct uart *u, uint16_t version, struct unpack *in)
{
    struct uart next = { 0 };
    int r;

    (void)version;
    next.ier = unpack_u8(in);
    next.fcr = unpack_u8(in);
    next.lcr = unpack_u8(in);
    next.mcr = unpack_u8(in);
    next.msr = unpack_u8(in);
    next.scr = unpack_u8(in);
    next.dll = unpack_u8(in);
    next.dlm = unpack_u8(in);
    next.overrun = unpack_bool(in);
    next.break_seen = unpack_bool(in);
    next.thre_pending = unpack_bool(in);
    uart_fifo_restore(&next.rx, in);
    uart_fifo_restore(&next.tx, in);
    r = unpack_end(in);
    /* Bits that no write can set. */
    if (r == 0 && (next.ier & ~0x0f || next.fcr & ~(0xc0 | FCR_ENABLE) || next.mcr & ~0x1f))
        r = -EBADMSG;
    if (r < 0)
        return r;
    pthread_mutex_lock(&u->lock);
    u->ier = next.ier;
    u->fcr = next.fcr;
    u->lcr = next.lcr;
    u->mcr = next.mcr;
    u->msr = next.msr;
    u->scr = next.scr;
    u->dll = next.dll;
    u->dlm = next.dlm;
    u->overrun = next.overrun;
    u->break_seen = next.break_seen;
    u->thre_pending = next.thre_pending;
    u->rx = next.rx;
    u->tx = next.tx;
    uart_irq_update_locked(u);
    pthread_mutex_unlock(&u->lock);
    return 0;
}
