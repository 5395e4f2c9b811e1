/* A plugin for qemu-user: how many instructions a program runs between two marks.
 *
 * With "blocks=FILE" that file gets, for each pair, the blocks of instructions that ran in between:
 * a line "COUNT WORD WORD ..." for each, its instructions as hexadecimal words, and an empty line.
 *
 * The program marks with syscall(5000, 1) and syscall(5000, 2) (edgekit/agent/counting.py); after
 * each pair a line with the count goes to the file given as "out=FILE". The counter is shared by
 * all threads without a lock: count programs that compute in one thread.
 *
 * Compiled where it is used and loaded by the QEMU there, which is a program of its own under the
 * GPL, version 2; this file is under that licence or any later version of it, apart from the rest
 * of edgekit, which neither links nor loads it. The declarations are those of QEMU's plugin API,
 * version 1 (QEMU 4.2 to 8.2), for which distributions install no header.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORTED __attribute__((visibility("default")))

typedef uint64_t plugin_id;
typedef uint64_t argument;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_info;

enum { ADD_U64 = 0 };

extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block,
                                                        size_t index);
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *instruction);
extern void qemu_plugin_register_vcpu_tb_trans_cb(
    plugin_id id, void (*callback)(plugin_id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_inline(
    struct qemu_plugin_tb *block, int operation, void *counter, uint64_t step);
extern void qemu_plugin_register_vcpu_syscall_cb(
    plugin_id id,
    void (*callback)(plugin_id, unsigned int vcpu, int64_t number, argument, argument, argument,
                     argument, argument, argument, argument, argument));

EXPORTED int qemu_plugin_version = 1;

static const int64_t MARK = 5000;
static const argument START = 1;

/* A block as it was translated; QEMU may translate one again, which counts by itself then. */
struct block {
    struct block *next;
    uint64_t runs, before;
    size_t length;
    uint32_t words[];
};

static FILE *out, *blocks_out;
static uint64_t total, before;
static struct block *blocks;

static void keep(struct qemu_plugin_tb *translated)
{
    size_t length = qemu_plugin_tb_n_insns(translated);
    struct block *block = calloc(1, sizeof *block + length * sizeof block->words[0]);
    if (block == NULL)
        abort();
    block->length = length;
    for (size_t i = 0; i < length; i++)
        memcpy(&block->words[i], qemu_plugin_insn_data(qemu_plugin_tb_get_insn(translated, i)),
               sizeof block->words[i]);
    block->next = blocks;
    blocks = block;
    qemu_plugin_register_vcpu_tb_exec_inline(translated, ADD_U64, &block->runs, 1);
}

static void on_translate(plugin_id id, struct qemu_plugin_tb *block)
{
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &total,
                                             qemu_plugin_tb_n_insns(block));
    if (blocks_out != NULL)
        keep(block);
}

static void start_blocks(void)
{
    for (struct block *block = blocks; block != NULL; block = block->next)
        block->before = block->runs;
}

static void write_blocks(void)
{
    for (struct block *block = blocks; block != NULL; block = block->next) {
        if (block->runs == block->before)
            continue;
        fprintf(blocks_out, "%llu", (unsigned long long)(block->runs - block->before));
        for (size_t i = 0; i < block->length; i++)
            fprintf(blocks_out, " %08x", block->words[i]);
        fputc('\n', blocks_out);
    }
    fputc('\n', blocks_out);
    fflush(blocks_out);
}

static void on_syscall(plugin_id id, unsigned int vcpu, int64_t number, argument a1, argument a2,
                       argument a3, argument a4, argument a5, argument a6, argument a7, argument a8)
{
    if (number != MARK)
        return;
    if (a1 == START) {
        if (blocks_out != NULL)
            start_blocks();
        before = total;
    } else {
        fprintf(out, "%llu\n", (unsigned long long)(total - before));
        fflush(out);
        if (blocks_out != NULL)
            write_blocks();
    }
}

EXPORTED int qemu_plugin_install(plugin_id id, const struct qemu_info *info, int argc, char **argv)
{
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "out=", 4) == 0)
            out = fopen(argv[i] + 4, "w");
        if (strncmp(argv[i], "blocks=", 7) == 0)
            blocks_out = fopen(argv[i] + 7, "w");
    }
    if (out == NULL) {
        fprintf(stderr, "count: no file to write to; give it as out=FILE\n");
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
    qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
    return 0;
}
