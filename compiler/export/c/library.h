/* Attention of one model, compiled by Hocket for one kind of CPU.
 *
@about@
 *
 * All functions may be called from any thread at any time. None allocates memory, keeps any, or
 * starts a thread: buffers and scratch are the caller's. Buffers that one call works on must not
 * overlap the output or the scratch of that or another call.
 *
 * With one thread, an attention is one call:
 *
 *     hocket_model_buffers buffers = {.query = query, .query_bytes = sizeof query, ...};
 *     int code = hocket_model_attend(0, &buffers);
 *     if (code != HOCKET_MODEL_OK) puts(hocket_model_message(code));
 *
 * With several threads of yours, one of them calls hocket_model_begin; then each calls
 * hocket_model_work with a number of its own, and when all have returned, the output is there. A
 * thread that comes late, or never, does no harm: the others do its share. The bits of the output
 * do not depend on the number of threads.
 */

#ifndef HOCKET_MODEL_H
#define HOCKET_MODEL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define HOCKET_MODEL_API __attribute__((visibility("default")))
#else
#define HOCKET_MODEL_API
#endif

/* What functions return. */
enum {
    HOCKET_MODEL_OK = 0,
    HOCKET_MODEL_WRONG_CPU = 1,         /* it lacks a feature; hocket_model_message says which */
    HOCKET_MODEL_OUT_OF_RANGE = 2,      /* no such attention or worker, or too many workers */
    HOCKET_MODEL_MISSING = 3,           /* a buffer is NULL that is needed */
    HOCKET_MODEL_UNWANTED = 4,          /* a mask or lengths for an attention that has none */
    HOCKET_MODEL_WRONG_SIZE = 5,        /* a buffer has not the bytes that are named below */
    HOCKET_MODEL_MISALIGNED = 6,        /* an operand not at an element, or scratch not at a line */
    HOCKET_MODEL_SCRATCH_TOO_SMALL = 7, /* for the number of workers */
    HOCKET_MODEL_FAILED = 8             /* a bug */
};

/* Scratch memory begins at a multiple of these bytes. */
#define HOCKET_MODEL_ALIGNMENT 64

/* Threads that may share an attention, at most. */
#define HOCKET_MODEL_MAX_WORKERS 1024

@attentions@

/* What an attention reads and writes; arrays are contiguous. Sizes are in bytes and must be those
 * named above: they are there to be checked. mask and kv_lengths are NULL where there are none. */
typedef struct hocket_model_buffers {
    const void *query;
    size_t query_bytes;
    const void *key;
    size_t key_bytes;
    const void *value;
    size_t value_bytes;
    const void *mask;
    size_t mask_bytes;
    const void *kv_lengths;
    size_t kv_lengths_bytes;
    void *output;
    size_t output_bytes;
    void *scratch; /* its content does not matter before, and means nothing after */
    size_t scratch_bytes;
} hocket_model_buffers;

/* Return the bytes of scratch that an attention needs for a number of threads, 0 if there is no
 * such attention or number. */
HOCKET_MODEL_API size_t hocket_model_scratch_bytes(int attention, int num_workers);

/* Compute an attention in this thread. */
HOCKET_MODEL_API int hocket_model_attend(int attention, const hocket_model_buffers *buffers);

/* Get ready for num_workers threads. */
HOCKET_MODEL_API int hocket_model_begin(int attention, const hocket_model_buffers *buffers,
                                        int num_workers);

/* Do a share of the work, as worker 0 to num_workers - 1. */
HOCKET_MODEL_API int hocket_model_work(int attention, const hocket_model_buffers *buffers,
                                       int num_workers, int worker);

/* Return what a code means, in a sentence that lives as long as the library. */
HOCKET_MODEL_API const char *hocket_model_message(int code);

#ifdef __cplusplus
}
#endif

#endif
