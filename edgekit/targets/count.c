/* A plugin for qemu-user: how many instructions a program runs between two marks.
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
#include <string.h>

#define EXPORTED __attribute__((visibility("default")))

typedef uint64_t plugin_id;
typedef uint64_t argument;
struct qemu_plugin_tb;
struct qemu_info;

enum { ADD_U64 = 0 };

extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
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

static FILE *out;
static uint64_t total, before;

static void on_translate(plugin_id id, struct qemu_plugin_tb *block)
{
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &total,
                                             qemu_plugin_tb_n_insns(block));
}

static void on_syscall(plugin_id id, unsigned int vcpu, int64_t number, argument a1, argument a2,
                       argument a3, argument a4, argument a5, argument a6, argument a7, argument a8)
{
    if (number != MARK)
        return;
    if (a1 == START) {
        before = total;
    } else {
        fprintf(out, "%llu\n", (unsigned long long)(total - before));
        fflush(out);
    }
}

EXPORTED int qemu_plugin_install(plugin_id id, const struct qemu_info *info, int argc, char **argv)
{
    for (int i = 0; i < argc; i++)
        if (strncmp(argv[i], "out=", 4) == 0)
            out = fopen(argv[i] + 4, "w");
    if (out == NULL) {
        fprintf(stderr, "count: no file to write to; give it as out=FILE\n");
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
    qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
    return 0;
}
