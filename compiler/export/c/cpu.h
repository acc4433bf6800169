/* What this CPU lacks of the features that a library was compiled for.
 *
 * FEATURES, a list of strings, and CPU, a string, are defined by whoever includes this.
 */

#ifndef HOCKET_CPU_H
#define HOCKET_CPU_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)

#include <cpuid.h>

/* Leaf, register (0 to 3: eax to edx) and bit of CPUID; Intel's and AMD's manuals have the same. */
struct cpu_feature {
    const char *name;
    uint32_t leaf, subleaf;
    int place, bit;
};

static const struct cpu_feature cpu_features[] = {
    {"sse3", 1, 0, 2, 0},       {"ssse3", 1, 0, 2, 9},      {"fma", 1, 0, 2, 12},
    {"sse4.1", 1, 0, 2, 19},    {"sse4.2", 1, 0, 2, 20},    {"movbe", 1, 0, 2, 22},
    {"popcnt", 1, 0, 2, 23},    {"avx", 1, 0, 2, 28},       {"f16c", 1, 0, 2, 29},
    {"bmi", 7, 0, 1, 3},        {"avx2", 7, 0, 1, 5},       {"bmi2", 7, 0, 1, 8},
    {"avx512f", 7, 0, 1, 16},   {"avx512dq", 7, 0, 1, 17},  {"avx512cd", 7, 0, 1, 28},
    {"avx512bw", 7, 0, 1, 30},  {"avx512vl", 7, 0, 1, 31},  {"avx512bf16", 7, 1, 0, 5},
    {"lzcnt", 0x80000001u, 0, 2, 5},
};

/* Wide registers are of no use unless the system saves them: bits of XCR0. */
static int cpu_saves(const char *name) {
    uint32_t low, high, wanted = 0;
    if (strncmp(name, "avx512", 6) == 0)
        wanted = 0xe6;
    else if (strncmp(name, "avx", 3) == 0 || strcmp(name, "fma") == 0 || strcmp(name, "f16c") == 0)
        wanted = 0x6;
    if (wanted == 0)
        return 1;
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1))
        return 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & wanted) == wanted;
}

static int cpu_has(const char *name) {
    for (size_t i = 0; i < sizeof cpu_features / sizeof *cpu_features; i++) {
        const struct cpu_feature *feature = &cpu_features[i];
        uint32_t found[4];
        if (strcmp(feature->name, name) != 0)
            continue;
        return __get_cpuid_count(feature->leaf, feature->subleaf, &found[0], &found[1], &found[2],
                                 &found[3]) &&
               (found[feature->place] >> feature->bit & 1) && cpu_saves(name);
    }
    return 0;
}

#else

#include <sys/auxv.h>

/* Bits of AT_HWCAP, as Linux has them in <asm/hwcap.h> of each machine. */
struct cpu_feature {
    const char *name;
    int bit;
};

static const struct cpu_feature cpu_features[] = {
#if defined(__aarch64__)
    {"asimd", 1}, {"atomics", 8}, {"fphp", 9}, {"asimdhp", 10}, {"asimddp", 20},
#elif defined(__arm__)
    {"neon", 12}, {"vfpv4", 16}, {"idiva", 17},
#elif defined(__riscv)
    {"v", 'v' - 'a'}, {"vlen256", 'v' - 'a'},
#endif
};

static int cpu_has(const char *name) {
    for (size_t i = 0; i < sizeof cpu_features / sizeof *cpu_features; i++) {
        if (strcmp(cpu_features[i].name, name) != 0)
            continue;
        if (!(getauxval(AT_HWCAP) >> cpu_features[i].bit & 1))
            return 0;
#if defined(__riscv)
        if (strcmp(name, "vlen256") == 0) {
            unsigned long bytes;
            __asm__("csrr %0, 0xc22" : "=r"(bytes)); /* vlenb */
            return bytes >= 32;
        }
#endif
        return 1;
    }
    return 0;
}

#endif

/* Return the first feature that this CPU lacks, NULL if it has all. */
static const char *cpu_lacks(void) {
    static const char *const wanted[] = {FEATURES NULL};
    for (size_t i = 0; wanted[i] != NULL; i++)
        if (!cpu_has(wanted[i]))
            return wanted[i];
    return NULL;
}

#endif
