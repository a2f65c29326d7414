/* Which kernels a GPU spends its time in, for any program that uses CUDA's driver.
 *
 *     cc -O2 -shared -fPIC -I "$CUDA/include" -I "$CUPTI/include" benches/gpu_profile.c -o profile.so -L "$CUPTI/lib" -lcupti
 *     CUDA_INJECTION64_PATH=$PWD/profile.so PROFILE_FROM=20 PROFILE_FOR=5 PROGRAM
 *
 * The driver loads what CUDA_INJECTION64_PATH names. From so many seconds after the first kernel on (PROFILE_FROM), for
 * so many seconds (PROFILE_FOR), kernels are counted, those of replayed graphs one by one; when the program ends, the
 * ten that took longest are printed to stderr, with the share of the time in which any kernel ran at all. Of the one that
 * PROFILE_EACH names, the file that PROFILE_TO names is told each call: microseconds, and blocks. CUPTI, which NVIDIA's
 * toolkits have, tells when each began and ended. */
#include <cupti.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KINDS 512
#define BYTES (8u << 20)

struct Kind {
    char name[160];
    uint64_t nanoseconds, calls;
};

static struct Kind kinds[KINDS];
static uint64_t first, begun, ended, busy, from, until;
static int count;
static const char *each;
static FILE *to;

static uint64_t seconds(const char *name, double otherwise) {
    const char *text = getenv(name);
    return (uint64_t)((text ? atof(text) : otherwise) * 1e9);
}

static void ask(uint8_t **buffer, size_t *bytes, size_t *records) {
    *buffer = aligned_alloc(8, BYTES);
    *bytes = *buffer ? BYTES : 0;
    *records = 0;
}

static void add(const CUpti_ActivityKernel10 *kernel) {
    if (!first) first = kernel->start;
    if (kernel->start < first + from || first + until < kernel->start) return;
    if (!begun) begun = kernel->start;
    /* Kernels come in the order in which they began, but for a few; what runs beside another counts once. */
    if (ended < kernel->end) {
        busy += kernel->end - (kernel->start < ended ? ended : kernel->start);
        ended = kernel->end;
    }
    if (to && !strcmp(each, kernel->name))
        fprintf(to, "%.1f %d\n", (kernel->end - kernel->start) / 1e3, kernel->gridX * kernel->gridY);
    int at = 0;
    while (at < count && strncmp(kinds[at].name, kernel->name, sizeof kinds[at].name - 1)) at++;
    if (at == KINDS) return;
    if (at == count) strncpy(kinds[count++].name, kernel->name, sizeof kinds[at].name - 1);
    kinds[at].nanoseconds += kernel->end - kernel->start;
    kinds[at].calls++;
}

static void take(CUcontext context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid) {
    (void)context, (void)stream, (void)size;
    CUpti_Activity *record = NULL;
    while (valid && cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS)
        if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) add((const CUpti_ActivityKernel10 *)record);
    free(buffer);
}

static int longest(const void *left, const void *right) {
    uint64_t a = ((const struct Kind *)left)->nanoseconds, b = ((const struct Kind *)right)->nanoseconds;
    return a < b ? 1 : a > b ? -1 : 0;
}

static void show(void) {
    cuptiActivityFlushAll(1);
    if (to) fclose(to);
    if (!count) return;
    uint64_t all = 0;
    qsort(kinds, count, sizeof *kinds, longest);
    for (int i = 0; i < count; i++) all += kinds[i].nanoseconds;
    fprintf(stderr, "%.2f s, %.1f %% of them with a kernel\n", (ended - begun) / 1e9, 100.0 * busy / (ended - begun));
    for (int i = 0; i < count && i < 10; i++)
        fprintf(stderr, "%5.1f %% %8llu calls %9.1f us each  %.90s\n", 100.0 * kinds[i].nanoseconds / all,
                (unsigned long long)kinds[i].calls, kinds[i].nanoseconds / 1e3 / kinds[i].calls, kinds[i].name);
}

int InitializeInjection(void) {
    from = seconds("PROFILE_FROM", 0);
    each = getenv("PROFILE_EACH");
    if (each) to = fopen(getenv("PROFILE_TO") ? getenv("PROFILE_TO") : "profile.txt", "w");
    until = from + seconds("PROFILE_FOR", 1e6);
    if (cuptiActivityRegisterCallbacks(ask, take) != CUPTI_SUCCESS) return 0;
    if (cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) != CUPTI_SUCCESS) return 0;
    atexit(show);
    return 1;
}
