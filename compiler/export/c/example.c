/* Computes every attention of the model once, on numbers of its own.
 *
@build@
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hocket_model.h"

static unsigned char *reserve(size_t bytes) {
    /* aligned_alloc wants whole multiples of the alignment. */
    size_t lines = (bytes + HOCKET_MODEL_ALIGNMENT - 1) / HOCKET_MODEL_ALIGNMENT;
    unsigned char *memory = aligned_alloc(HOCKET_MODEL_ALIGNMENT, lines * HOCKET_MODEL_ALIGNMENT);
    if (memory == NULL && bytes != 0) {
        fputs("no memory\n", stderr);
        exit(1);
    }
    memset(memory, 0, lines * HOCKET_MODEL_ALIGNMENT);
    return memory;
}

int main(void) {
    static const size_t sizes[HOCKET_MODEL_NUM_ATTENTIONS][6] = HOCKET_MODEL_BYTES;
    for (int i = 0; i < HOCKET_MODEL_NUM_ATTENTIONS; i++) {
        const size_t *bytes = sizes[i];
        size_t scratch_bytes = hocket_model_scratch_bytes(i, 1);
        unsigned char *query = reserve(bytes[0]), *key = reserve(bytes[1]);
        unsigned char *value = reserve(bytes[2]), *output = reserve(bytes[5]);
        unsigned char *mask = bytes[3] == 0 ? NULL : reserve(bytes[3]);
        unsigned char *kv_lengths = bytes[4] == 0 ? NULL : reserve(bytes[4]);
        unsigned char *scratch = reserve(scratch_bytes);
        hocket_model_buffers buffers = {
            .query = query, .query_bytes = bytes[0],
            .key = key, .key_bytes = bytes[1],
            .value = value, .value_bytes = bytes[2],
            .mask = mask, .mask_bytes = bytes[3],
            .kv_lengths = kv_lengths, .kv_lengths_bytes = bytes[4],
            .output = output, .output_bytes = bytes[5],
            .scratch = scratch, .scratch_bytes = scratch_bytes,
        };
        /* Here your numbers go into query, key and value. */
        int code = hocket_model_attend(i, &buffers);
        printf("attention %d: %s\n", i, hocket_model_message(code));
        free(query), free(key), free(value), free(mask), free(kv_lengths), free(output);
        free(scratch);
        if (code != HOCKET_MODEL_OK)
            return 1;
    }
    return 0;
}
