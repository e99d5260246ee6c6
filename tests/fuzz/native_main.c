/*
 * xmmu fuzz: runs of the native engine's parts from a generator
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * usage: native-fuzz-run native|module INPUTS [FIRST]
 *
 * Speaks TAP; the number of an input makes it again.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "native_run.h"

#define MAX_INPUT 2000

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

int main(int argc, char **argv)
{
    int (*run)(const uint8_t *, size_t);
    unsigned long count, first;
    uint8_t data[MAX_INPUT];

    if (argc < 3) {
        fprintf(stderr, "usage: %s native|module INPUTS [FIRST]\n", argv[0]);
        return 2;
    }
    run = strcmp(argv[1], "module") ? fuzz_native : fuzz_module;
    count = strtoul(argv[2], NULL, 10);
    first = argc > 3 ? strtoul(argv[3], NULL, 10) : 0;
    printf("1..1\n");
    for (unsigned long input = first; input < first + count; input++) {
        uint64_t state = (input + 1) * 0x9e3779b97f4a7c15;

        for (size_t i = 0; i < sizeof(data); i++) {
            data[i] = next_random(&state) >> 32;
        }
        if (getenv("NATIVE_FUZZ_SAY")) {
            fprintf(stderr, "input %lu\n", input);
        }
        run(data, sizeof(data));
    }
    printf("ok 1 - %s, %lu inputs\n", argv[1], count);
    return 0;
}
