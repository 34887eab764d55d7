/* hw/uart: registers, interrupt causes and their order, FIFOs, loopback, modem lines, flow control of both directions.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "hw/uart.h"
#include "hw_fake.h"

enum {
    DATA = 0x3f8,
    IER = 0x3f9,
    IIR = 0x3fa,
    LCR = 0x3fb,
    MCR = 0x3fc,
    LSR = 0x3fd,
    MSR = 0x3fe,
    SCR = 0x3ff,
    IRQ = 4
};

struct fixture {
    struct fake fake;
    struct uart *uart;
    char out[256];
    size_t out_len, out_room;
    unsigned wanted;
};

static size_t far_write(void *opaque, const uint8_t *data, size_t len)
{
    struct fixture *x = opaque;

    len = MIN(len, x->out_room - x->out_len);
    memcpy(x->out + x->out_len, data, len);
    x->out_len += len;
    return len;
}

static void far_wanted(void *opaque)
{
    struct fixture *x = opaque;

    x->wanted++;
    uart_can_receive(x->uart); /* allowed: no lock is held */
}

static const struct uart_ops far_ops = { .write = far_write, .input_wanted = far_wanted };

static int setup(void **state)
{
    struct fixture *x = calloc(1, sizeof(*x));
    struct uart_config c = { .base = DATA, .ops = &far_ops, .opaque = x };

    if (!x || bus_new(0xffff, &x->fake.pio) < 0)
        return -1;
    x->out_room = sizeof(x->out);
    c.pio = x->fake.pio;
    c.irq = fake_irq(&x->fake, IRQ);
    *state = x;
    return uart_new(&c, &x->uart);
}

static int teardown(void **state)
{
    struct fixture *x = *state;

    uart_free(x->uart);
    bus_free(x->fake.pio);
    free(x);
    return 0;
}

static size_t input(struct fixture *x, const char *text)
{
    return uart_receive(x->uart, (const uint8_t *)text, strlen(text));
}

static void test_registers(void **state)
{
    struct fixture *x = *state;
    struct fake *f = &x->fake;

    assert_int_equal(IN(LSR), 0x60);
    assert_int_equal(IN(IIR), 0x01);
    assert_int_equal(IN(MSR), 0xb0);
    OUT(SCR, 0xa5);
    assert_int_equal(IN(SCR), 0xa5);
    OUT(LCR, 0x83);
    OUT(DATA, 0x0c);
    OUT(IER, 0x01);
    assert_int_equal(IN(DATA), 0x0c);
    assert_int_equal(fake_in(f, DATA, 2), 0x010c); /* a word is two registers */
    OUT(LCR, 0x03);
    assert_int_equal(IN(IER), 0);
    OUT(IER, 0xff);
    assert_int_equal(IN(IER), 0x0f); /* as drivers probe for a 16550 and not a 16750 */
    OUT(IIR, 0x01);
    assert_int_equal(IN(IIR) & 0xc0, 0xc0);
    OUT(IIR, 0x00);
    assert_int_equal(IN(IIR) & 0xc0, 0);
    OUT(LSR, 0xff); /* read-only */
    assert_int_equal(IN(LSR), 0x60);
    OUT(MCR, 0xff);
    assert_int_equal(IN(MCR), 0x1f);
    assert_int_equal(x->out_len, 0);
}

static void test_output(void **state)
{
    struct fixture *x = *state;
    struct fake *f = &x->fake;

    OUT(DATA, 'h');
    OUT(DATA, 'i');
    assert_int_equal(x->out_len, 2);
    assert_memory_equal(x->out, "hi", 2);
    assert_int_equal(IN(LSR), 0x60);
}

static void test_thre_interrupt(void **state)
{
    struct fixture *x = *state;
    struct fake *f = &x->fake;

    OUT(IER, 0x02);
    assert_false(f->level[IRQ]); /* OUT2 is off */
    OUT(MCR, 0x08);
    assert_true(f->level[IRQ]); /* enabling the cause raised it */
    assert_int_equal(IN(IIR), 0x02);
    assert_false(f->level[IRQ]); /* reading took it back */
    assert_int_equal(IN(IIR), 0x01);
    OUT(DATA, 'a');
    assert_true(f->level[IRQ]); /* sent, so empty again */
    assert_int_equal(f->edges[IRQ], 2);
    OUT(IER, 0x00);
    assert_false(f->level[IRQ]);
    OUT(IER, 0x02);
    assert_true(f->level[IRQ]);
    OUT(IER, 0x02); /* no new edge of the enable bit */
    assert_int_equal(IN(IIR), 0x02);
    OUT(IER, 0x02);
    assert_int_equal(IN(IIR), 0x01);
}

static void test_back_pressure(void **state)
{
    struct fixture *x = *state;
    struct fake *f = &x->fake;

    OUT(IIR, 0x01);
    OUT(MCR, 0x08);
    x->out_room = 3;
    for (unsigned i = 0; i < 3 + 16; i++)
        OUT(DATA, 'a' + i);
    assert_int_equal(IN(LSR) & 0x60, 0); /* the FIFO is full, nobody waits */
    OUT(DATA, '!');                      /* a guest that does not look loses it */
    OUT(IER, 0x02);
    assert_false(f->level[IRQ]);
    x->out_room = 5;
    uart_output_ready(x->uart);
    assert_int_equal(IN(LSR) & 0x60, 0);
    assert_false(f->level[IRQ]);
    x->out_room = 100;
    uart_output_ready(x->uart);
    assert_int_equal(IN(LSR) & 0x60, 0x60);
    assert_true(f->level[IRQ]);
    assert_int_equal(x->out_len, 19);
    assert_memory_equal(x->out, "abcdefghijklmnopqrs", 19);
    x->out_room = x->out_len;
    OUT(DATA, 'x');
    assert_int_equal(IN(LSR) & 0x60, 0);
    OUT(IIR, 0x05); /* clearing the transmitter's FIFO throws it away */
    assert_int_equal(IN(LSR) & 0x60, 0x60);
    x->out_room = 100;
    uart_output_ready(x->uart);
    assert_int_equal(x->out_len, 19);
}

static void test_input_without_fifo(void **state)
{
    struct fixture *x = *state;
    struct fake *f = &x->fake;

    OUT(MCR, 0x08);
    OUT(IER, 0x01);
    assert_int_equal(uart_can_receive(x->uart), 1);
    assert_int_equal(input(x, "ab"), 1);
    assert_true(f->level[IRQ]);
    assert_int_equal(IN(IIR), 0x04);
    assert_int_equal(IN(LSR), 0x61);
    assert_int_equal(uart_can_receive(x->uart), 0);
    assert_int_equal(x->wanted, 0);
    assert_int_equal(IN(DATA), 'a');
    assert_int_equal(x->wanted, 1);
    assert_false(f->level[IRQ]);
    assert_int_equal(IN(DATA), 0);
    assert_int_equal(x->wanted, 1); /* said once */
}

static void test_input_fifo(void **state)
{
    struct fixture *x = *state;
    struct fake *f = &x->fake;

    OUT(MCR, 0x08);
    OUT(IIR, 0x81); /* trigger level 8 */
    OUT(IER, 0x01);
    assert_int_equal(input(x, "1234567"), 7);
    assert_int_equal(IN(IIR), 0xcc); /* below the level: time-out */
    assert_true(f->level[IRQ]);
    assert_int_equal(input(x, "8"), 1);
    assert_int_equal(IN(IIR), 0xc4);
    assert_int_equal(input(x, "9abcdefghij"), 8);
    assert_int_equal(uart_can_receive(x->uart), 0);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(IN(DATA), "123456789abcdefg"[i]);
    assert_int_equal(x->wanted, 1);
    assert_false(f->level[IRQ]);
    assert_int_equal(IN(LSR), 0x60);
    assert_int_equal(input(x, "xyz"), 3);
    OUT(IIR, 0x83); /* clear */
    assert_int_equal(IN(LSR), 0x60);
    assert_false(f->level[IRQ]);
    assert_int_equal(input(x, "xyz"), 3);
    OUT(IIR, 0x00); /* turning FIFOs off clears them too */
    assert_int_equal(IN(LSR), 0x60);
}

static void test_priorities(void **state)
{
    struct fixture *x = *state;
    struct fake *f = &x->fake;

    OUT(IIR, 0x01);
    OUT(IER, 0x0f); /* also raises THRE */
    OUT(MCR, 0x18); /* loopback: CTS and DSR fall, a modem interrupt */
    OUT(MCR, 0x08);
    uart_receive_break(x->uart);
    assert_int_equal(IN(IIR) & 0x0f, 0x06);
    assert_int_equal(IN(LSR), 0x71);
    assert_int_equal(IN(LSR), 0x61);
    assert_int_equal(IN(IIR) & 0x0f, 0x04);
    assert_int_equal(IN(DATA), 0);
    assert_int_equal(IN(IIR) & 0x0f, 0x02);
    assert_int_equal(IN(IIR) & 0x0f, 0x00);
    assert_true(IN(MSR) & 0x0f);
    assert_int_equal(IN(IIR) & 0x0f, 0x01);
    assert_false(f->level[IRQ]);
}

static void test_break_in_fifo(void **state)
{
    struct fixture *x = *state;
    struct fake *f = &x->fake;

    OUT(IIR, 0x01);
    input(x, "a");
    uart_receive_break(x->uart);
    assert_int_equal(IN(LSR), 0xe1); /* an error somewhere behind the top */
    assert_int_equal(IN(DATA), 'a');
    assert_int_equal(IN(LSR), 0x71); /* now on top */
    assert_int_equal(IN(DATA), 0);
    assert_int_equal(IN(LSR), 0x60);
}

static void test_loopback(void **state)
{
    struct fixture *x = *state;
    struct fake *f = &x->fake;

    IN(MSR);
    OUT(MCR, 0x10 | 0x0a); /* as Linux probes: LOOP, OUT2, RTS */
    assert_int_equal(IN(MSR) & 0xf0, 0x90);
    assert_int_equal(IN(MSR) & 0x0f, 0);
    OUT(MCR, 0x10 | 0x05);                  /* DTR, OUT1 */
    assert_int_equal(IN(MSR), 0x60 | 0x0b); /* RI's leading edge does not count */
    OUT(MCR, 0x10);
    assert_int_equal(IN(MSR), 0x06); /* its trailing edge does */
    OUT(DATA, 'z');
    assert_int_equal(x->out_len, 0);
    assert_int_equal(uart_can_receive(x->uart), 0);
    assert_int_equal(input(x, "no"), 0);
    assert_int_equal(IN(LSR), 0x61);
    OUT(DATA, 'y'); /* overrun: without FIFO the old one is lost */
    assert_int_equal(IN(LSR), 0x63);
    assert_int_equal(IN(LSR), 0x61);
    assert_int_equal(IN(DATA), 'y');
    OUT(LCR, 0x43);
    assert_int_equal(IN(LSR), 0x71);
    OUT(IIR, 0x01);
    OUT(LCR, 0x03);
    for (unsigned i = 0; i < 17; i++)
        OUT(DATA, 'a' + i);
    assert_int_equal(IN(LSR) & 0x02, 2);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(IN(DATA), 'a' + i); /* with FIFO the new one */
    x->wanted = 0;
    OUT(MCR, 0x00);
    assert_int_equal(x->wanted, 1);
    assert_int_equal(IN(MSR), 0xbb);
}

static void test_no_far_end(void **state)
{
    struct fixture *x = *state;
    struct uart_config c = { .pio = x->fake.pio, .base = 0x2f8 };
    struct fake *f = &x->fake;
    struct uart *u;

    assert_int_equal(uart_new(&c, &u), 0);
    OUT(0x2f8, 'a');
    assert_int_equal(IN(0x2fd), 0x60);
    assert_int_equal(uart_can_receive(u), 1);
    c.base = DATA;
    assert_int_equal(uart_new(&c, &u), -EEXIST);
    uart_free(u);
    uart_free(NULL);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_registers),          TEST(test_output),     TEST(test_thre_interrupt), TEST(test_back_pressure),
        TEST(test_input_without_fifo), TEST(test_input_fifo), TEST(test_priorities),     TEST(test_break_in_fifo),
        TEST(test_loopback),           TEST(test_no_far_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
