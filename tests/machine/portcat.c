/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Copies its input to an I/O port: for the machine's init, to whom the kernel's driver of
 * serial ports is of no use where the emulator does not signal that a byte was sent.
 *
 * usage: portcat serial BASE     the transmitter of a 8250, when it is ready
 *        portcat port PORT       any port
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <unistd.h>

#define LINE_CONTROL    3
#define LINE_STATUS     5
#define DIVISOR_LATCH   0x80
#define TRANSMITTER_EMPTY 0x20

static void set_up_serial(unsigned short base)
{
    outb(DIVISOR_LATCH, base + LINE_CONTROL);
    outb(1, base);              /* 115200 baud */
    outb(0, base + 1);
    outb(3, base + LINE_CONTROL);
}

int main(int argc, char **argv)
{
    char data[4096];
    ssize_t size;

    if (argc != 3 || iopl(3)) {
        perror("portcat");
        return 1;
    }
    int serial = !strcmp(argv[1], "serial");
    unsigned short port = strtoul(argv[2], NULL, 0);

    if (serial) {
        set_up_serial(port);
    }
    while ((size = read(STDIN_FILENO, data, sizeof(data))) > 0) {
        for (ssize_t i = 0; i < size; i++) {
            while (serial && !(inb(port + LINE_STATUS) & TRANSMITTER_EMPTY)) {
            }
            outb(data[i], port);
        }
    }
    return 0;
}
