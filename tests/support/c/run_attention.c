/* Runs one attention of an exported library on arrays from files, for tests.
 *
 *     run_attention NUMBER WORKERS OUTPUT QUERY KEY VALUE MASK KV_LENGTHS
 *
 * A file "-" is a NULL. Sizes are those of the files, also wrong ones. Prints the code and what it
 * means; writes the output if the code is 0. The workers take their turns in one thread. OUTPUT
 * must be there, and as large as the output.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hocket_model.h"

static unsigned char *reserve(size_t bytes) {
    void *memory = aligned_alloc(64, (bytes + 64) / 64 * 64);
    if (memory == NULL)
        exit(100);
    return memset(memory, 0xff, (bytes + 64) / 64 * 64);
}

static unsigned char *read_file(const char *path, size_t *bytes) {
    *bytes = 0;
    if (strcmp(path, "-") == 0)
        return NULL;
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0)
        exit(101);
    *bytes = (size_t)ftell(file);
    rewind(file);
    unsigned char *content = reserve(*bytes);
    if (fread(content, 1, *bytes, file) != *bytes)
        exit(102);
    fclose(file);
    return content;
}

int main(int count, char **words) {
    if (count != 9)
        return 103;
    int attention = atoi(words[1]), workers = atoi(words[2]);
    hocket_model_buffers buffers;
    buffers.query = read_file(words[4], &buffers.query_bytes);
    buffers.key = read_file(words[5], &buffers.key_bytes);
    buffers.value = read_file(words[6], &buffers.value_bytes);
    buffers.mask = read_file(words[7], &buffers.mask_bytes);
    buffers.kv_lengths = read_file(words[8], &buffers.kv_lengths_bytes);
    buffers.output = read_file(words[3], &buffers.output_bytes);
    buffers.scratch_bytes = hocket_model_scratch_bytes(attention, workers);
    buffers.scratch = reserve(buffers.scratch_bytes);
    int code = hocket_model_begin(attention, &buffers, workers);
    for (int worker = 0; worker < workers && code == HOCKET_MODEL_OK; worker++)
        code = hocket_model_work(attention, &buffers, workers, worker);
    printf("%d %s\n", code, hocket_model_message(code));
    if (code != HOCKET_MODEL_OK)
        return 0;
    FILE *file = fopen(words[3], "wb");
    if (file == NULL || fwrite(buffers.output, 1, buffers.output_bytes, file) !=
                            buffers.output_bytes)
        return 104;
    return fclose(file);
}
